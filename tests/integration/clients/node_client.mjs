// Node's fetch.  See plan.py for what it does and prints.

import { createHash } from "node:crypto";

const [url, key, uploadBytes, downloadBytes] = process.argv.slice(2);
const headers = { Authorization: key };
const BLOCK_BYTES = 1024 * 1024;

function* pieces(size) {
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let index = 0; index < BLOCK_BYTES; index++) block[index] = index % 251;
  for (; size > 0; size -= BLOCK_BYTES) yield block.subarray(0, Math.min(size, BLOCK_BYTES));
}

async function ask(target, options = {}) {
  const response = await fetch(target, { headers, signal: AbortSignal.timeout(20000), ...options });
  if (response.status !== 200) throw new Error(`${target}: ${response.status}`);
  return response;
}

async function hash(target) {
  const digest = createHash("sha256");
  for await (const data of (await ask(target)).body) digest.update(data);
  return digest.digest("hex");
}

const results = { get: [] };
for (let count = 0; count < 5; count++) results.get.push(await (await ask(url)).text());
const content = [...pieces(Number(uploadBytes))];
results.post = await (await ask(url, { method: "POST", body: Buffer.concat(content) })).json();
const stream = ReadableStream.from(content);
results.chunked = await (await ask(url, { method: "POST", body: stream, duplex: "half" })).json();
results.download = await hash(`${url}/size/${downloadBytes}`);
results.chunks = await hash(`${url}/chunks/${downloadBytes}`);
console.log(JSON.stringify(results));
