// A Node server: PORT; what was received, and on /size/N the content of that size.

import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { Readable } from "node:stream";

const BLOCK_BYTES = 1024 * 1024;

function* pieces(size) {
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let index = 0; index < BLOCK_BYTES; index++) block[index] = index % 251;
  for (; size > 0; size -= BLOCK_BYTES) yield block.subarray(0, Math.min(size, BLOCK_BYTES));
}

const server = createServer(async (request, response) => {
  if (request.url.startsWith("/size/")) {
    const size = Number(request.url.slice(6));
    response.writeHead(200, { "Content-Length": size });
    Readable.from(pieces(size)).pipe(response);
    return;
  }
  const digest = createHash("sha256");
  let bytes = 0;
  for await (const data of request) {
    bytes += data.length;
    digest.update(data);
  }
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({ bytes, sha256: digest.digest("hex") }));
});
server.listen(Number(process.argv[2]), "127.0.0.1");
