"""Conversations of WebSockets through the balancer and on a direct connection: no case differs.

The cases on compression are those of Autobahn's test suite, its sections 12 and 13: what the client offers for
permessage-deflate (RFC 7692 section 7.1), times sizes of messages and fragments, with fewer messages of each.  They are
held with the package `websockets`, and with Node's `ws` at both ends where it is installed.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.processes import Balancer, free_port, wait_until

pytest.importorskip("websockets")

from websockets.asyncio.client import connect  # noqa: E402
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory  # noqa: E402

from tests.integration.websocket_server import MAX_BYTES, WebSocketServer  # noqa: E402

SECONDS = 240.0
MESSAGES = 2  # of each size; Autobahn has 1000
# Bytes of a message, and of its fragments; 0: it has one.
SIZES = (
    *((size, 0) for size in (0, 1, 16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072)),
    *((size, 256) for size in (8192, 16384, 32768, 65536, 131072)),
    *((131072, fragment) for fragment in (1024, 4096, 32768)),
)


class Offer(NamedTuple):
    """Parameters of permessage-deflate: no context takeover by the server and the client, their bits of windows."""

    server_alone: bool = False
    client_alone: bool = False
    server_bits: int | None = None
    client_bits: int | bool | None = None


OFFERS: tuple[tuple[Offer, ...], ...] = (
    (),
    (Offer(),),
    (Offer(True),),
    (Offer(client_alone=True),),
    (Offer(True, True),),
    *((Offer(server_bits=bits, client_bits=bits),) for bits in range(9, 16)),
    (Offer(True, False, 9, True),),
    (Offer(True, True, 15, 15),),
    (Offer(True, False, 9), Offer(True), Offer()),
)


@pytest.fixture(scope="module")
def server() -> Iterator[WebSocketServer]:
    server = WebSocketServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def places(server: WebSocketServer) -> Iterator[tuple[str, str, str]]:
    """The server, the balancer in front of it, and a key of the balancer."""
    balancer = Balancer(server.yaml()).start()
    try:
        key = balancer.create_user("user1", 1_000_000, 0)
        yield f"ws://127.0.0.1:{server.port}/echo", f"ws://127.0.0.1:{balancer.port}/echo", key
    finally:
        balancer.close()


def contents(size: int) -> Iterator[str | bytes]:
    """Text that can be compressed well, and bytes that cannot, as Autobahn's; always the same."""
    chance = random.Random(size)
    words = json.dumps([{"id": chance.randrange(10_000), "name": "a name \u00e4"} for _ in range(size // 30 + 1)])
    for number in range(MESSAGES):
        yield chance.randbytes(size) if number % 2 else words[:size]


async def conversation(url: str, key: str, offers: Sequence[Offer]) -> list[object]:
    """What was agreed on, whether each answer was its message, in order, and how it was closed."""
    factories = [ClientPerMessageDeflateFactory(*offer) for offer in offers]
    headers = {"Authorization": key}
    more: Any = {"max_size": MAX_BYTES, "ping_interval": None, "proxy": None, "compression": None}
    seen: list[object] = []
    async with connect(url, additional_headers=headers, extensions=factories or None, **more) as socket:
        assert socket.response is not None
        seen.append(socket.response.headers.get("Sec-WebSocket-Extensions"))

        async def send() -> None:
            for size, fragment in SIZES:
                for content in contents(size):
                    if fragment:
                        await socket.send([content[at : at + fragment] for at in range(0, len(content), fragment)])
                    else:
                        await socket.send(content)

        sending = asyncio.create_task(send())
        for size, _ in SIZES:
            for content in contents(size):
                seen.append(await socket.recv() == content)
        await sending
        await socket.close(4321, "done")
        seen.append((socket.close_code, socket.close_reason))
    return seen


@pytest.mark.parametrize("offers", OFFERS, ids=str)
def test_compression(places: tuple[str, str, str], offers: tuple[Offer, ...]) -> None:
    """The same is agreed on, and all messages come back as they were."""
    direct, through, key = places

    async def both() -> list[list[object]]:
        return await asyncio.gather(conversation(direct, key, offers), conversation(through, key, offers))

    first, second = asyncio.run(asyncio.wait_for(both(), SECONDS))
    assert first == second
    assert bool(first[0]) == bool(offers)
    assert first[1:-1] == [True] * MESSAGES * len(SIZES)


NODE = """
const { WebSocket, WebSocketServer } = require("ws");
const crypto = require("crypto");
const SIZES = %s, OFFERS = %s;
const [, , what, place, key] = process.argv;
if (what === "serve") {
  new WebSocketServer({ host: "127.0.0.1", port: +place, perMessageDeflate: { threshold: 0 } }).on("connection",
    (socket) => socket.on("message", (data, binary) => socket.send(data, { binary })));
} else {
  (async () => {
    for (const offer of OFFERS) {
      const options = { headers: { Authorization: key }, perMessageDeflate: offer && { threshold: 0, ...offer } };
      const socket = new WebSocket(place, options);
      const digest = crypto.createHash("sha256");
      let heard;
      socket.on("message", (data) => { digest.update(data); heard && heard(); });
      await new Promise((done, failed) => socket.on("open", done).on("error", failed));
      for (const [size, fragment] of SIZES) {
        const data = Buffer.alloc(size, "0123456789 text ");
        const answer = new Promise((done) => { heard = done; });
        if (!fragment) socket.send(data);
        for (let at = 0; fragment && at < size; at += fragment) {
          socket.send(data.subarray(at, at + fragment), { fin: at + fragment >= size });
        }
        await answer;
      }
      const closed = new Promise((done) => socket.on("close", (code, reason) => done([code, String(reason)])));
      socket.close(4321, "done");
      console.log(JSON.stringify([socket.extensions, digest.digest("hex"), await closed]));
    }
    process.exit(0);
  })();
}
"""
NODE_OFFERS = [
    False,
    {},
    {"serverNoContextTakeover": True},
    {"clientNoContextTakeover": True},
    {"serverMaxWindowBits": 9, "clientMaxWindowBits": 9},
    {"serverMaxWindowBits": 15, "clientMaxWindowBits": 15},
    {"serverNoContextTakeover": True, "clientNoContextTakeover": True, "serverMaxWindowBits": 10},
]


def test_node(tmp_path: Path) -> None:
    """The same with Node's `ws` as client and server."""
    node = shutil.which("node")
    environment = {"PATH": "/usr/bin:/bin", "NODE_PATH": "/usr/share/nodejs:/usr/local/lib/node_modules"}
    if node is None or subprocess.run([node, "-e", 'require("ws")'], env=environment, capture_output=True).returncode:
        pytest.skip("no `ws` for node; `apt-get install node-ws` enables this")
    script = tmp_path / "conversation.js"
    script.write_text(NODE % (json.dumps(SIZES), json.dumps(NODE_OFFERS)))
    port = free_port()
    with subprocess.Popen([node, script, "serve", str(port)], env=environment) as server:
        balancer = Balancer(f'servers: [{{name: server1, url: "http://127.0.0.1:{port}"}}]\n')
        try:
            key = balancer.start().create_user("user1", 1000, 0)
            heard: dict[int, str] = {}

            def talk(at: int) -> bool:
                command = [node, str(script), "ask", f"ws://127.0.0.1:{at}/", key]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
                heard[at] = done.stdout
                return not done.returncode

            wait_until(lambda: talk(port), what="the server answers")
            assert talk(balancer.port), heard
        finally:
            balancer.close()
            server.kill()
    assert heard[port] == heard[balancer.port]
    lines = [json.loads(line) for line in heard[port].splitlines()]
    assert len(lines) == len(NODE_OFFERS) and len({digest for _, digest, _ in lines}) == 1
    assert [bool(extensions) for extensions, _, _ in lines] == [offer is not False for offer in NODE_OFFERS]
