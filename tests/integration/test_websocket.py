"""WebSockets through a real process, with the clients and servers that people use."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.conftest import Start, assert_calm
from tests.integration.processes import Balancer, ask, twistd, wait_until
from tests.integration.redis_server import RedisServer
from tests.integration.test_tls import NAME, Tls
from twisted_lb.credentials import digest

pytest.importorskip("websockets")

from websockets.asyncio.client import ClientConnection, connect  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

from tests.integration.websocket_server import MAX_BYTES, WebSocketServer  # noqa: E402

SECONDS = 120.0
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[WebSocketServer]:
    server = WebSocketServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def balancer(server: WebSocketServer) -> Iterator[Balancer]:
    balancer = Balancer(server.yaml())
    try:
        yield balancer.start()
        assert_calm(balancer)
    finally:
        balancer.close()


@pytest.fixture(scope="module")
def key(balancer: Balancer) -> str:
    """Of a user with many tokens, none of which come back."""
    return balancer.create_user("user1", 1_000_000, 0)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine, for SECONDS at most."""
    return asyncio.run(asyncio.wait_for(work, SECONDS))


@asynccontextmanager
async def opened(
    balancer: Balancer, key: str, path: str, url: str = "", **more: Any
) -> AsyncIterator[ClientConnection]:
    """A WebSocket through the balancer, by default through its listener without TLS."""
    url = (url or f"ws://127.0.0.1:{balancer.port}") + path
    headers = {"Authorization": key}
    more = {"max_size": MAX_BYTES, "ping_interval": None, "proxy": None, **more}
    async with connect(url, additional_headers=headers, **more) as socket:
        yield socket


def number(balancer: Balancer, metric: str) -> float:
    """The value of a metric, of all its labels together."""
    text = ask(balancer.admin_port, "GET", "/metrics").body.decode()
    found = [line.split()[-1] for line in text.splitlines() if line.startswith((metric + " ", metric + "{"))]
    return sum(float(value) for value in found)


def tunnels(balancer: Balancer) -> float:
    """How many are open."""
    return number(balancer, "tokenlb_server_tunnels")


def test_messages(balancer: Balancer, key: str, server: WebSocketServer) -> None:
    """Text, binary, empty, fragmented and 16 MiB messages come back as they were, and the bytes are counted."""
    texts = ["hello", "", "\u00e4\u20ac\U0001f600"]
    messages = [*texts, b"", b"\x00\xff", b"x" * 125, b"x" * 126, b"x" * 65536, b"y" * 16 * MIB]

    async def talk() -> None:
        async with opened(balancer, key, "/echo", compression=None) as socket:
            assert socket.response is not None and "X-RateLimit-Remaining" in socket.response.headers
            for message in messages:
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(["frag", "men", "ted"])
            assert await socket.recv() == "fragmented"
            assert await (await socket.ping(b"1")) >= 0

    before = number(balancer, "tokenlb_tunnel_bytes_total")
    run(talk())
    wait_until(lambda: number(balancer, "tokenlb_tunnel_bytes_total") - before > 32 * MIB, what="the bytes are counted")
    assert server.headers[-1]["X-Consumer-Username"] == "user1"
    assert key not in str(server.headers[-1])


def test_compression(balancer: Balancer, key: str) -> None:
    """permessage-deflate is negotiated between client and server."""

    async def talk() -> None:
        async with opened(balancer, key, "/echo") as socket:
            assert socket.response is not None
            assert "permessage-deflate" in socket.response.headers["Sec-WebSocket-Extensions"]
            await socket.send("a" * 100_000)
            assert await socket.recv() == "a" * 100_000

    run(talk())


def test_closes(balancer: Balancer, key: str, server: WebSocketServer) -> None:
    """Codes and reasons arrive both ways; an end without a close frame is one for the other side as well."""

    async def talk() -> None:
        for code in (1000, 1001, 1011, 3000, 4999):
            async with opened(balancer, key, f"/close/{code}/{name}") as socket:
                await socket.wait_closed()
                assert (socket.close_code, socket.close_reason) == (code, "as asked")
            async with opened(balancer, key, f"/listen/{name}") as socket:
                await socket.close(code, "bye")
        async with opened(balancer, key, f"/abort/{name}") as socket:
            await socket.wait_closed()
            assert socket.close_code == 1006
        async with opened(balancer, key, f"/ping/{name}") as socket:
            assert await socket.recv() == "pong"
            socket.transport.abort()

    # Connections of other tests may end meanwhile.
    name = str(uuid4())
    run(talk())
    wait_until(lambda: len(server.codes_of(name)) == 12, what="the server has seen all ends")
    assert set(server.codes_of(name)) == {1000, 1001, 1011, 3000, 4999, 1006}
    wait_until(lambda: number(balancer, "tokenlb_server_in_flight") == 0, what="nothing is in flight")
    assert number(balancer, "tokenlb_server_failures_total") == 0


def test_handshakes(balancer: Balancer, key: str) -> None:
    """Each handshake costs one token; what is refused is an ordinary response."""
    poor = balancer.create_user(f"user-{uuid4()}", 2, 0)

    async def talk() -> None:
        async with opened(balancer, poor, "/echo") as socket:
            for _ in range(20):
                await socket.send("free")
                await socket.recv()
        for its_key, path, status in ((poor, "/refuse", 403), (poor, "/echo", 429), ("nobody", "/echo", 401)):
            with pytest.raises(InvalidStatus) as refused:
                async with opened(balancer, its_key, path):
                    pass
            assert refused.value.response.status_code == status

    run(talk())
    assert balancer.tokens(poor) == 0


def test_slow_reader(balancer: Balancer, key: str, server: WebSocketServer) -> None:
    """A client that does not read stops its server, whatever that has; the memory of the balancer is bounded."""

    async def talk() -> None:
        async with opened(balancer, key, path, max_queue=1, compression=None) as socket:
            await socket.recv()
            before = -1
            while server.flooded[path] != before:
                before = server.flooded[path]
                await asyncio.sleep(0.3)
            stopped_at = server.flooded[path]
            assert balancer.rss() - memory < 8 * MIB
            for _ in range(stopped_at + 100):
                await socket.recv()
            assert server.flooded[path] > stopped_at
            socket.transport.abort()

    path = f"/flood/{uuid4()}"
    memory = balancer.rss()
    run(talk())


def test_many(balancer: Balancer, key: str) -> None:
    """200 at a time, each with its own messages."""
    together = asyncio.Barrier(201)

    async def talk(name: str) -> None:
        async with opened(balancer, key, "/echo") as socket:
            await together.wait()
            for n in range(5):
                await socket.send(f"{name} {n}")
                assert await socket.recv() == f"{name} {n}"
            await together.wait()

    async def all_of_them() -> None:
        talks = asyncio.gather(*[talk(str(n)) for n in range(200)])
        await together.wait()
        assert await asyncio.to_thread(tunnels, balancer) == 200
        await together.wait()
        await talks

    wait_until(lambda: tunnels(balancer) == 0, what="those of other tests have ended")
    run(all_of_them())
    wait_until(lambda: tunnels(balancer) == 0, what="all have ended")


def test_aiohttp(balancer: Balancer, key: str) -> None:
    """aiohttp's client."""
    aiohttp = pytest.importorskip("aiohttp")

    async def talk() -> None:
        async with aiohttp.ClientSession(headers={"Authorization": key}) as session:
            async with session.ws_connect(f"{balancer.url}/echo", max_msg_size=MAX_BYTES) as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
                await socket.send_bytes(b"x" * 16 * MIB)
                assert len(await socket.receive_bytes()) == 16 * MIB
                await socket.close(code=4000)
            async with session.ws_connect(f"{balancer.url}/close/3001") as socket:
                message = await socket.receive()
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 3001)
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(f"{balancer.url}/refuse")
            assert refused.value.status == 403

    run(talk())


def test_aiohttp_server(new_balancer: Start) -> None:
    """aiohttp's server."""
    web = pytest.importorskip("aiohttp.web")

    async def echo(request: Any) -> Any:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def talk() -> None:
        app = web.Application()
        app.router.add_get("/echo", echo)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        [port] = [sock.getsockname()[1] for sock in site._server.sockets]
        pool = f'servers: [{{name: a, url: "http://127.0.0.1:{port}"}}]\n'
        balancer = await asyncio.to_thread(new_balancer(pool).start)
        key = await asyncio.to_thread(balancer.create_user, "user1")
        async with opened(balancer, key, "/echo") as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
        await runner.cleanup()

    run(talk())


def test_reload_idle_limit_and_drain(new_balancer: Start, server: WebSocketServer) -> None:
    """A reload without its server cuts no WebSocket, nor does SIGTERM before DRAIN_SECONDS; an idle one is closed."""
    environment = {"DRAIN_SECONDS": "3", "TUNNEL_TIMEOUT": "3s"}
    balancer = new_balancer(server.yaml(), environment=environment).start()
    key = balancer.create_user("user1", 100)

    async def talk() -> None:
        async with opened(balancer, key, "/echo") as idle, opened(balancer, key, "/echo") as socket:

            async def works() -> None:
                await socket.send("hello")
                assert await socket.recv() == "hello"

            text = server.yaml("another").replace("127.0.0.1", "127.0.0.2")
            (balancer.directory / "servers.yaml").write_text(text)
            while "removed" not in (await asyncio.to_thread(ask, balancer.admin_port, "GET", "/servers")).body.decode():
                await works()
                await asyncio.sleep(0.1)
            await works()
            while idle.close_code is None:
                await works()
                await asyncio.sleep(0.1)
            assert idle.close_code == 1006
            balancer.terminate()
            began = asyncio.get_running_loop().time()
            with pytest.raises(ConnectionClosed):
                while True:
                    await works()
                    await asyncio.sleep(0.1)
            assert asyncio.get_running_loop().time() - began > 2.5

    run(talk())
    assert balancer.wait() == 0


def test_workers(redis: RedisServer, new_balancer: Start, server: WebSocketServer) -> None:
    """With workers and Redis a WebSocket counts as in flight for its key until it ends, and all are counted."""
    redis.start()
    options = ("--redis-url", redis.url, "--workers", "2")
    balancer = new_balancer(server.yaml(), *options, environment={"MAX_IN_FLIGHT_PER_KEY": "3"}).start()
    key = balancer.create_user("user1", 100)

    async def talk() -> None:
        async with (
            opened(balancer, key, "/echo") as first,
            opened(balancer, key, "/echo"),
            opened(balancer, key, "/echo"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                async with opened(balancer, key, "/echo"):
                    pass
            assert refused.value.response.status_code == 429
            assert await asyncio.to_thread(tunnels, balancer) == 3
            await first.close()
            for _ in range(1000):
                try:
                    async with opened(balancer, key, "/echo") as socket:
                        await socket.send("room")
                        assert await socket.recv() == "room"
                    break
                except InvalidStatus:
                    await asyncio.sleep(0.05)
            else:
                raise AssertionError("the place of the first one is not free")

    run(talk())
    wait_until(lambda: tunnels(balancer) == 0, what="all have ended")
    assert number(balancer, "tokenlb_tunnels_total") == 4


def test_tls(new_balancer: Start, tmp_path: Any) -> None:
    """wss on both sides: messages, a slow reader, and closes from either side."""
    tls = Tls(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*tls.authority.sign("localhost"))
    server = WebSocketServer(context).start()
    text = server.yaml().replace("http://127.0.0.1", "https://localhost")
    pool = text + f"tls: {{ca_file: '{tls.authority.ca_file}'}}\n"
    balancer = new_balancer(pool, environment=tls.environment()).start()
    key = balancer.create_user("user1", 100)

    async def talk() -> None:
        more: dict[str, Any] = {"ssl": tls.context(), "server_hostname": NAME, "compression": None}
        url = f"wss://127.0.0.1:{tls.port}"
        async with opened(balancer, key, "/echo", url=url, **more) as socket:
            for message in ("hello", b"x" * 16 * MIB):
                await socket.send(message)
                assert await socket.recv() == message
        async with opened(balancer, key, "/close/3000", url=url, **more) as socket:
            await socket.wait_closed()
            assert socket.close_code == 3000
        async with opened(balancer, key, "/flood", url=url, max_queue=1, **more) as socket:
            await socket.recv()
            await asyncio.sleep(0.5)
            for _ in range(300):
                assert len(await socket.recv()) == 65536
            socket.transport.abort()

    run(talk())
    wait_until(lambda: tunnels(balancer) == 0, what="all have ended")
    server.stop()


REVOKING = """
import signal

from twisted.application.service import Application
from twisted.internet import reactor

from twisted_lb.app.services import ProxyService
from twisted_lb.tap import Options, makeService

options = Options()
options.parseOptions(OPTIONS)
service = makeService(options)
[proxy] = [part for part in service if isinstance(part, ProxyService)]


def revoke():
    with open("revoked") as file:
        closed = [proxy.factory.close_tunnels(digest) for digest in file.read().split()]
    print("tunnels closed:", *closed, flush=True)


def signalled(number, frame):
    reactor.callFromThread(revoke)


reactor.callWhenRunning(signal.signal, signal.SIGUSR2, signalled)
application = Application("tokenlb")
service.setServiceParent(application)
"""


class RevokingBalancer(Balancer):
    """The program in an application that ends the tunnels of the keys in the file `revoked` on SIGUSR2."""

    def command(self) -> list[str]:
        (self.directory / "revoking.tac").write_text(REVOKING.replace("OPTIONS)", f"{self.options()!r})"))
        return [*twistd(), "-n", "--pidfile=", "-y", "revoking.tac"]

    def revoke(self, *keys: str) -> None:
        (self.directory / "revoked").write_text(" ".join(digest(key.encode()) for key in keys))
        os.kill(self.pid, signal.SIGUSR2)


def test_revoked_key(server: WebSocketServer, tmp_path: Any) -> None:
    """The WebSockets of a key can be ended at once, with TLS too and whatever is on its way; others go on."""
    tls = Tls(tmp_path)
    balancer = RevokingBalancer(server.yaml(), environment=tls.environment())
    name = str(uuid4())

    async def talk() -> None:
        secured: dict[str, Any] = {"url": f"wss://127.0.0.1:{tls.port}", "ssl": tls.context(), "server_hostname": NAME}
        async with (
            opened(balancer, revoked, f"/listen/{name}") as idle,
            opened(balancer, revoked, f"/listen/{name}", **secured) as idle_with_tls,
            opened(balancer, revoked, f"/flood/{name}", max_queue=1) as slow,
            opened(balancer, revoked, f"/flood/{name}", max_queue=1, **secured) as slow_with_tls,
            opened(balancer, other, "/echo") as going_on,
        ):
            for one in (slow, slow_with_tls):
                await one.recv()
            balancer.revoke(revoked, other_without_tunnels)
            for one in (idle, idle_with_tls, slow, slow_with_tls):
                with pytest.raises(ConnectionClosed):
                    while True:
                        await one.recv()
                assert one.close_code == 1006
            await going_on.send("hello")
            assert await going_on.recv() == "hello"
            await asyncio.to_thread(wait_until, lambda: tunnels(balancer) == 1, what="only the other one is open")
            await asyncio.to_thread(wait_until, lambda: len(server.codes_of(name)) == 4, what="the server has seen it")

    try:
        balancer.start()
        revoked, other = balancer.create_user("revoked", 100), balancer.create_user("other", 100)
        other_without_tunnels = balancer.create_user("third", 100)
        run(talk())
        assert "tunnels closed: 4 0\n" in balancer.log()
        assert number(balancer, "tokenlb_server_failures_total") == 0
        assert_calm(balancer)
    finally:
        balancer.close()


NODE_CLIENT = """
const socket = new WebSocket(process.argv[2]);
socket.binaryType = "arraybuffer";
socket.onopen = () => { socket.send("hello"); socket.send(new Uint8Array(1 << 20)); };
let got = 0;
socket.onmessage = (event) => {
  got += event.data.byteLength ?? event.data.length;
  if (got === (1 << 20) + 5) socket.close(4001, "done");
};
socket.onclose = (event) => { console.log(got, event.code, event.wasClean); };
"""


def test_browser_client(new_balancer: Start, server: WebSocketServer, tmp_path: Any) -> None:
    """The WebSocket of browsers, which can send a key in the query only, as Node has it."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node; `apt-get install nodejs` enables this")
    import subprocess

    balancer = new_balancer(server.yaml(), environment={"KEY_QUERY_PARAMETER": "api_key"}).start()
    url = f"ws://127.0.0.1:{balancer.port}/echo?api_key={balancer.create_user('user1')}"
    (tmp_path / "client.js").write_text(NODE_CLIENT)
    command = [node, "--experimental-websocket", str(tmp_path / "client.js"), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if "bad option" in done.stderr:
        pytest.skip("this node has no WebSocket")
    assert done.stdout == f"{MIB + 5} 4001 true\n", done.stderr
