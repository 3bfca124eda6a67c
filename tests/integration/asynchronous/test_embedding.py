"""The applications of docs/embedding.md, run by twistd, with treq as their client."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import treq
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.integration.asynchronous.conftest import Ask
from tests.integration.origin import Origin, Servers, blocks, content_hash
from tests.integration.processes import PROJECT, WAIT_SECONDS, twistd, wait_until
from tests.integration.processes import ask as ask_once
from tests.integration.redis_server import free_port
from tests.integration.test_tls_servers import context_of
from tests.stores.certificates import Authority

MIB = 1024 * 1024
SITE, PROGRAM = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "embedding.md").read_text(), re.DOTALL)


class Application:
    """A .tac file that twistd runs."""

    def __init__(self, text: str, directory: Path, servers_yaml: str, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory
        (directory / "servers.yaml").write_text(servers_yaml)
        (directory / "site.tac").write_text(text.replace("tcp:8080", f"tcp:{self.port}"))
        self.log = directory / "site.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*twistd(), "-noy", "site.tac", "--pidfile="],
                cwd=directory,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self.answers, what="an answer")
        except BaseException:
            self.process.kill()
            raise RuntimeError(self.log.read_text()) from None

    def answers(self) -> bool:
        try:
            return ask_once(self.port, "GET", "/user/tokens/profile").status == 401
        except OSError:
            return False

    def end(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def site(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    yaml = servers.yaml() + "ejection: {base_time: 100ms}\n"
    site = Application(SITE, tmp_path_factory.mktemp("site"), yaml, DEFAULT_RATE_PER_SEC="0", SEND_TIMEOUT="2s")
    try:
        yield site
        assert "Traceback" not in site.log.read_text()
    finally:
        site.process.kill()
        site.process.wait()


async def new_key(site: Application, ask: Ask, name: str, capacity: int = 1000) -> str:
    created = await ask("POST", site.url + "/user/create", json={"name": name, "capacity": capacity})
    assert created.code == 200, await created.text()
    return str((await treq.json_content(created))["api_key"])


@ensureDeferred
async def test_routes(site: Application, servers: Servers, ask: Ask) -> None:
    """The application's own routes, the user API, and the pool stand side by side; the prefix is taken off."""
    assert await treq.text_content(await ask("GET", site.url + "/hello")) == "Hello\n"
    name = f"routes-{uuid4()}"
    key = await new_key(site, ask, name, 3)
    texts = {await treq.text_content(await ask("GET", site.url + "/v1/a%2Fb?c=%20d", key)) for _ in range(3)}
    assert texts == {f"Server server{number} answer" for number in (1, 2, 3)}
    [seen, *_] = [request for origin in servers for request in origin.seen]
    assert seen.path == "/a%2Fb?c=%20d"
    assert seen.field("x-consumer-username") == name
    assert seen.field("authorization") is None
    assert seen.field("x-forwarded-for") == "127.0.0.1"
    assert (await ask("GET", site.url + "/elsewhere", key)).code == 404


@ensureDeferred
async def test_limits(site: Application, ask: Ask) -> None:
    """No key is 401 and an empty bucket 429, as problem documents and with the fields of the limits."""
    key = await new_key(site, ask, f"limits-{uuid4()}", 2)
    assert (await ask("GET", site.url + "/v1/")).code == 401
    answers = [await ask("GET", site.url + "/v1/", key) for _ in range(3)]
    assert [answer.code for answer in answers] == [200, 200, 429]
    left = [answer.headers.getRawHeaders("X-RateLimit-Remaining") for answer in answers]
    assert left == [["1"], ["0"], ["0"]]
    problem = await treq.json_content(answers[2])
    assert (problem["status"], answers[2].headers.getRawHeaders("Content-Type")) == (429, ["application/problem+json"])
    # Once, though twisted.web has a date too.
    assert len(answers[0].headers.getRawHeaders("Date")) == 1


@ensureDeferred
async def test_servers_with_tls(tmp_path: Path, ask: Ask) -> None:
    """Servers behind https:// URLs are reached and verified; that one of them is not is in the log."""
    authority = Authority(tmp_path, "ca")
    files = authority.sign("server", "127.0.0.1")
    origin = Origin("server1", tls=context_of(files))
    origin.start()
    other = "{name: server2, url: 'https://a', weight: 0, tls: {verify: false}}"
    yaml = f"servers: [{{name: server1, url: '{origin.url}'}}, {other}]\ntls: {{ca_file: ca.pem}}\n"
    site = Application(SITE, tmp_path, yaml)
    try:
        key = await new_key(site, ask, "tls")
        assert await treq.text_content(await ask("GET", site.url + "/v1/", key)) == "Server server1 answer"
        assert "tls: verify: false for server2: " in site.log.read_text()
    finally:
        site.process.kill()
        site.process.wait()
        origin.stop()


@ensureDeferred
async def test_routes_of_the_file(tmp_path: Path, servers: Servers, ask: Ask) -> None:
    """The routes of servers.yaml are for the paths that the resource passes on."""
    pools = f"pools: {{p: {{servers: [{{url: '{servers[0].url}'}}]}}}}\nroutes:\n"
    routes = [
        "{path: /health, respond: {body: ok}, key: none}",
        "{path: /old, redirect: {to: '/new{path}'}, key: none}",
        "{path: /later, pool: p, maintenance: true}",
        "{path: /open/, pool: p, key: optional, strip_prefix: /open, max_body: 10}",
    ]
    site = Application(SITE, tmp_path, pools + "".join(f"- {route}\n" for route in routes))
    try:
        answer = await ask("GET", site.url + "/v1/health")
        assert (answer.code, await treq.text_content(answer)) == (200, "ok")
        assert answer.headers.getRawHeaders("Content-Type") == ["text/plain; charset=utf-8"]
        answer = await ask("GET", site.url + "/v1/old?x=1", allow_redirects=False)
        assert (answer.code, answer.headers.getRawHeaders("Location")) == (308, ["/new/old?x=1"])
        assert [(await ask("GET", f"{site.url}/v1/{path}")).code for path in ("later", "none")] == [503, 404]
        assert await treq.text_content(await ask("GET", site.url + "/v1/open/x")) == "Server server1 answer"
        assert servers[0].seen[-1].path == "/x"
        assert (await ask("POST", site.url + "/v1/open/", data=b"x" * 11)).code == 413
    finally:
        site.process.kill()
        site.process.wait()


@ensureDeferred
async def test_upgrade(site: Application, servers: Servers, ask: Ask) -> None:
    """A request for another protocol is an ordinary one: twisted.web would read what follows as requests."""
    key = await new_key(site, ask, f"upgrade-{uuid4()}")
    fields = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert ask_once(site.port, "GET", "/v1/upgrade", key=key, fields=fields).status == 200
    [seen] = [request for origin in servers for request in origin.seen if request.path == "/upgrade"]
    assert (seen.field("upgrade"), seen.field("connection")) == (None, None)


@ensureDeferred
async def test_bodies(site: Application, ask: Ask) -> None:
    """Large bodies arrive byte for byte in both directions, with a length and in chunks."""
    key = await new_key(site, ask, f"bodies-{uuid4()}")
    size = 8 * MIB + 1
    received = await treq.json_content(await ask("POST", site.url + "/v1/upload", key, data=b"".join(blocks(size))))
    assert (received["bytes"], received["sha256"]) == (size, content_hash(size))
    for kind in ("size", "chunks"):
        digest = hashlib.sha256()
        response = await ask("GET", f"{site.url}/v1/{kind}/{size}", key, unbuffered=True)
        await treq.collect(response, digest.update)
        assert digest.hexdigest() == content_hash(size)
    head = await ask("HEAD", f"{site.url}/v1/size/{size}", key)
    assert (head.code, head.headers.getRawHeaders("Content-Length")) == (200, [str(size)])


@ensureDeferred
async def test_retries(site: Application, servers: Servers, ask: Ask) -> None:
    """While a server is away, its requests go to the others."""
    key = await new_key(site, ask, f"retries-{uuid4()}")
    servers[0].stop()
    try:
        codes = [(await ask("GET", site.url + "/v1/", key)).code for _ in range(12)]
    finally:
        servers[0].start()
    assert codes == [200] * 12


@ensureDeferred
async def test_back_pressure(site: Application, servers: Servers, ask: Ask) -> None:
    """A client that does not read holds up its server's response, and ends after SEND_TIMEOUT; no memory is filled."""
    key = await new_key(site, ask, f"slow-{uuid4()}")
    before = memory(site)
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(f"GET /v1/size/{256 * MIB} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode())
        await until(lambda: sum(origin.sent for origin in servers) > MIB)
        await deferLater(reactor, 1.0, lambda: None)
        assert memory(site) - before < 32 * MIB
        await until(lambda: any(str(256 * MIB) in path for origin in servers for path in origin.cut))
        client.settimeout(60)
        received = 0
        try:
            while piece := client.recv(MIB):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < 64 * MIB


@ensureDeferred
async def test_client_leaves(site: Application, servers: Servers, ask: Ask) -> None:
    """The server's connection is closed when the client has left, and the next request is served."""
    key = await new_key(site, ask, f"leaves-{uuid4()}")
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(f"GET /v1/slow/5 HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode())
        # It does not come to a server while another test is played.
        await until(lambda: servers.paths() == ["/slow/5"])
    assert (await ask("GET", site.url + "/v1/", key)).code == 200


@ensureDeferred
async def test_key_in_the_query(servers: Servers, tmp_path: Path, ask: Ask) -> None:
    """A key in the query reaches neither a server nor the access log of the site."""
    site = Application(SITE, tmp_path, servers.yaml(), KEY_QUERY_PARAMETER="api_key")
    try:
        key = await new_key(site, ask, "query")
        assert (await ask("GET", f"{site.url}/v1/events?a=1&api_key={key}&b=2")).code == 200
        assert servers.all and [one.path for origin in servers for one in origin.seen] == ["/events?a=1&b=2"]
        assert key not in site.log.read_text()
        assert "/v1/events?a=1&b=2" in site.log.read_text()
    finally:
        site.process.kill()


@ensureDeferred
async def test_stop(servers: Servers, tmp_path: Path, ask: Ask) -> None:
    """When the application stops, requests that are under way are finished."""
    site = Application(SITE, tmp_path, servers.yaml())
    try:
        key = await new_key(site, ask, "stop")
        servers.hold()
        slow = Deferred.fromCoroutine(ask("GET", site.url + "/v1/held", key))
        await until(lambda: servers.paths() == ["/held"])
        site.process.send_signal(signal.SIGTERM)
        await until(lambda: not site.answers())
        servers.release()
        answer = await slow
        assert answer.code == 200
        assert site.process.wait(60) is not None
    finally:
        site.process.kill()


@ensureDeferred
async def test_the_program(servers: Servers, tmp_path: Path, ask: Ask) -> None:
    """The program as a .tac file serves and ends as it does as a plug-in."""
    site = Application(PROGRAM, tmp_path, servers.yaml(), ADMIN_LISTEN=f"tcp:{free_port()}:interface=127.0.0.1")
    try:
        key = await new_key(site, ask, "program")
        assert (await ask("GET", site.url + "/", key)).code == 200
        assert site.end() == 0, site.log.read_text()
    finally:
        site.process.kill()


async def until(condition: Callable[[], object]) -> None:
    """Look again and again, while the reactor goes on, until `condition()` is true."""
    give_up_at = reactor.seconds() + WAIT_SECONDS  # type: ignore[attr-defined]
    while not condition():
        assert reactor.seconds() < give_up_at  # type: ignore[attr-defined]
        await deferLater(reactor, 0.01, lambda: None)


def memory(site: Application) -> int:
    """Bytes of memory that it has."""
    lines = Path(f"/proc/{site.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


