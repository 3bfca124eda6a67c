"""Servers behind https:// URLs: real ones, with certificates of every kind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import WITHOUT_REDIS, Start
from tests.integration.origin import Origin, blocks, content_hash
from tests.integration.processes import Answer, Balancer, ask, wait_until
from tests.integration.raw_server import CLOSE, CUT, RawServer, Script
from tests.integration.redis_server import RedisServer, free_port
from tests.integration.test_servers import nginx_program
from tests.stores.certificates import Authority

# A server that has failed is used again at once.
CALM = "\nejection: false\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificates are."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return Authority(directory, "ca")


def context_of(files: tuple[str, str], client_ca: str = "", version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """The server's side of TLS; with `client_ca` it wants a certificate of its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


NewOrigin = Callable[..., Origin]


@pytest.fixture
def new_origin(authority: Authority) -> Iterator[NewOrigin]:
    """Makes servers with TLS: new_origin(name, *names of the certificate, client_ca="", version=None, days=2)."""
    made: list[Origin] = []

    def new(
        name: str = "server1",
        *names: str,
        days: int = 2,
        client_ca: str = "",
        version: ssl.TLSVersion | None = None,
        by: Authority = authority,
        idle_seconds: float = 60.0,
    ) -> Origin:
        files = by.sign(f"{name}-{len(made)}", *(names or ("localhost", "127.0.0.1")), days=days)
        origin = Origin(name, idle_seconds, tls=context_of(files, client_ca, version))
        made.append(origin)
        origin.start()
        return origin

    yield new
    for origin in made:
        origin.stop()


def yaml_of(*origins: Origin, tls: str = "", more: str = CALM, url: str = "") -> str:
    """A servers.yaml with these servers, all with this `tls`; `url` is another host in their URLs."""
    lines = [
        f"- {{name: {one.name}, url: '{one.url.replace('127.0.0.1', url or '127.0.0.1')}'}}\n" for one in origins
    ]
    return f"balancer: first\nservers:\n{''.join(lines)}" + (f"tls: {{{tls}}}" if tls else "") + more


def use(balancer: Balancer, text: str) -> None:
    """Have a running balancer use another file now."""
    (balancer.directory / "servers.yaml").write_text(text)
    before = balancer.log().count("was reloaded")
    os.kill(balancer.pid, signal.SIGHUP)
    wait_until(lambda: balancer.log().count("was reloaded") > before, what="it is read")


def get(balancer: Balancer, key: str, path: str = "/", body: bytes | None = None) -> Answer:
    return ask(balancer.port, "POST" if body is not None else "GET", path, body, key)


def log_of(balancer: Balancer, words: str) -> None:
    wait_until(lambda: words in balancer.log(), what=words)


def test_who_is_trusted(
    new_balancer: Start, new_origin: NewOrigin, authority: Authority, directory: Path, tmp_path: Path
) -> None:
    """A certificate must be signed by an authority that is trusted, be valid now, and be for the name or address."""
    other = Authority(tmp_path, "other")
    good, named = new_origin("good"), new_origin("named", "api.test")
    old, foreign = new_origin("old", days=-1), new_origin("foreign", by=other)
    origins = (good, named, old, foreign)
    ours = f"ca_file: '{authority.ca_file}'"
    # The server, the host of its url, `tls`, and what the log says of it; "": it answers.
    cases: list[tuple[Origin, str, str, str]] = [
        (good, "127.0.0.1", ours, ""),
        (good, "localhost", ours, ""),
        (good, "localhost", "", "unable to get local issuer certificate"),
        (good, "127.0.0.1", f"{ours}, server_name: 127.0.0.2", "IP address mismatch, certificate is not valid for"),
        (good, "127.0.0.1", f"{ours}, server_name: localhost", ""),
        (good, "localhost", f"{ours}, server_name: 127.0.0.1", ""),
        (named, "localhost", ours, "Hostname mismatch, certificate is not valid for 'localhost'"),
        (named, "localhost", f"{ours}, server_name: api.test", ""),
        (named, "localhost", f"{ours}, server_name: API.Test", ""),
        (named, "localhost", "verify: false", ""),
        (old, "localhost", ours, "certificate has expired"),
        (old, "localhost", "verify: false", ""),
        (foreign, "localhost", ours, "unable to get local issuer certificate"),
        (foreign, "localhost", f"ca_file: '{other.ca_file}'", ""),
        # Its own certificate, as a file of what is trusted.
        (foreign, "localhost", f"ca_file: '{tmp_path / 'foreign-3.pem'}'", ""),
    ]
    balancer = new_balancer(yaml_of(good, tls=ours)).start()
    key = balancer.create_user("user1", 1000)
    for number, (origin, host, tls, problem) in enumerate(cases):
        for one in origins:
            one.forget()
        use(balancer, yaml_of(origin, tls=tls, url=host, more=f"{CALM}panic_threshold: 0.{number + 1:02}\n"))
        answer = get(balancer, key, "/", b"a body")
        assert answer.status == (503 if problem else 200), (host, tls, balancer.log()[-2000:])
        if not problem:
            name = tls.partition("server_name: ")[2] or host
            shown = None if name[0].isdigit() else name
            assert {one.server_name for one in origin.handshakes} == {shown}, (host, tls)
            continue
        assert origin.seen == [] and b"certificate" not in answer.body
        where = f"A request to {origin.name} failed: it could not be reached: its certificate cannot be verified: "
        log_of(balancer, where + problem)
        assert balancer.tokens(key) > 900


def test_what_a_server_sees(new_balancer: Start, new_origin: NewOrigin, authority: Authority) -> None:
    """The request is what it is without TLS; ALPN is for HTTP/1.1 alone; connections are kept and reused."""
    origin = new_origin()
    balancer = new_balancer(yaml_of(origin, tls=f"ca_file: '{authority.ca_file}'")).start()
    key = balancer.create_user("user1", 1000)
    for _ in range(5):
        assert ask(balancer.port, "GET", "/a?b", None, key, {"Host": "api.example"}).status == 200
    assert [(one.protocol, one.version) for one in origin.handshakes] == [("http/1.1", "TLSv1.3")]
    assert origin.connections == 1
    seen = origin.seen[0]
    assert (seen.field("Host"), seen.field("X-Forwarded-Proto"), seen.field("Via")) == (
        "api.example", "http", "1.1 twisted_lb"
    )
    (shown,) = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    assert shown["url"] == origin.url


def test_bodies(new_balancer: Start, new_origin: NewOrigin, authority: Authority) -> None:
    """Bodies of 20 MB pass unchanged in both directions, with a length and in chunks."""
    origin, size = new_origin(), 20_000_000
    balancer = new_balancer(yaml_of(origin, tls=f"ca_file: '{authority.ca_file}'")).start()
    key = balancer.create_user("user1", 1000)
    for kind in ("size", "chunks"):
        answer = get(balancer, key, f"/{kind}/{size}")
        assert hashlib.sha256(answer.body).hexdigest() == content_hash(size)
    body = os.urandom(size)
    received = json.loads(get(balancer, key, "/", body).body)
    assert (received["bytes"], received["sha256"]) == (size, hashlib.sha256(body).hexdigest())


def stands_still(origin: Origin) -> bool:
    """Whether a server has begun a response, and cannot go on with it."""
    sent = origin.sent
    time.sleep(0.3)
    return 0 < sent == origin.sent


def test_a_slow_client_slows_the_server(new_balancer: Start, new_origin: NewOrigin, authority: Authority) -> None:
    """A client that does not read leaves a large response with the server, and the memory of the balancer small."""
    origin, size = new_origin(), 200_000_000
    balancer = new_balancer(yaml_of(origin, tls=f"ca_file: '{authority.ca_file}'")).start()
    key = balancer.create_user("user1", 1000)
    assert get(balancer, key).status == 200
    before = balancer.rss()
    with socket.create_connection(("127.0.0.1", balancer.port)) as client:
        client.sendall(f"GET /size/{size} HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n".encode())
        wait_until(lambda: stands_still(origin), what="the server waits")
        sent = origin.sent
        assert sent < size / 2
        assert balancer.rss() - before < 20_000_000
        # It is not stuck.
        client.settimeout(60)
        wait_until(lambda: client.recv(1 << 20) and origin.sent > sent, what="it goes on")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed(
    new_balancer: Start, new_origin: NewOrigin, authority: Authority, version: ssl.TLSVersion
) -> None:
    """After the first handshake all are resumed, of requests and of health checks; other settings begin anew."""
    origin = new_origin(version=version, idle_seconds=0.05)
    check = f"{CALM}health_check: {{interval: 100ms, timeout: 30s}}\n"
    tls = f"ca_file: '{authority.ca_file}'"
    balancer = new_balancer(yaml_of(origin, tls=tls, more=check)).start()
    key = balancer.create_user("user1", 1000)
    wait_until(lambda: len(origin.seen) > 3, what="checks")
    # The first check and the first request each bring a session.
    assert [one.resumed for one in origin.handshakes].count(False) == 1
    for number in range(4):
        assert get(balancer, key, f"/{number}").status == 200
        wait_until(lambda: origin.closed == origin.connections, what="the server closes the connection")
    assert [one.resumed for one in origin.handshakes].count(False) == 2
    origin.forget()
    use(balancer, yaml_of(origin, tls=f"{tls}, server_name: localhost", more=check))
    assert get(balancer, key).status == 200
    wait_until(lambda: any(one.server_name == "localhost" for one in origin.handshakes), what="the new name")
    assert not next(one.resumed for one in origin.handshakes if one.server_name == "localhost")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificates(
    new_balancer: Start, new_origin: NewOrigin, authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """A server gets ours; one that wants another, or gets none, was not reached, and the next one is asked."""
    strict = new_origin("strict", client_ca=authority.ca_file, version=version)
    spare = new_origin("spare")
    tls = f"ca_file: '{authority.ca_file}'"
    ours, theirs = authority.sign("ours"), Authority(tmp_path, "theirs").sign("stranger")
    certificate = "cert_file: '{}', key_file: '{}'"
    balancer = new_balancer(yaml_of(strict, spare, tls=f"{tls}, {certificate.format(*ours)}")).start()
    key = balancer.create_user("user1", 1000)
    # More than once: the handshakes that follow are resumed.
    for _ in range(3):
        assert get(balancer, key, "/", b"a body").body.startswith(b'{"server": "strict"')
    assert {one.subject for one in strict.handshakes} == {"ours"}
    for wrong, alert in ((certificate.format(*theirs), "unknown ca"), ("verify: true", "")):
        strict.forget()
        use(balancer, yaml_of(strict, spare, tls=f"{tls}, {wrong}"))
        answer = get(balancer, key, "/", b"a body")
        assert (answer.status, strict.seen) == (200, []) and b'"server": "spare"' in answer.body
        failed = "A request to strict failed: it could not be reached: the TLS handshake failed: "
        log_of(balancer, failed)
        assert re.search(f"{failed}(ssl|tls)v[13]3? alert {alert}", balancer.log())
    use(balancer, yaml_of(strict, tls=tls, more=f"{CALM}health_check: {{interval: 200ms, timeout: 30s, fails: 1}}\n"))
    answer = get(balancer, key, "/", b"a body")
    assert answer.status == 503 and b"alert" not in answer.body and b"TLS" not in answer.body
    log_of(balancer, "strict is down")
    assert "alert" in json.loads(ask(balancer.admin_port, "GET", "/servers").body)[0]["reason"]


def test_the_wrong_scheme(new_balancer: Start, new_origin: NewOrigin, authority: Authority) -> None:
    """HTTP where TLS is expected, and TLS where HTTP is: no request is read, and the next server is asked."""
    secure, spare = new_origin("secure"), new_origin("spare")
    plain = Origin("plain", idle_seconds=0.5)
    plain.start()
    as_http = f"{{name: secure, url: 'http://127.0.0.1:{secure.port}'}}"
    as_https = f"{{name: plain, url: 'https://127.0.0.1:{plain.port}'}}"
    text = f"balancer: first\nservers:\n- {as_http}\n- {as_https}\n- {{name: spare, url: '{spare.url}'}}\n"
    balancer = new_balancer(f"{text}tls: {{ca_file: '{authority.ca_file}'}}{CALM}").start()
    key = balancer.create_user("user1", 1000)
    try:
        answer = get(balancer, key)
        assert (answer.status, answer.body) == (200, b"Server spare answer")
        assert plain.seen == secure.seen == []
        # OpenSSL closes the connection without a word.
        log_of(balancer, "secure failed: The server closed the connection before its response was whole.")
        log_of(balancer, "plain failed: it could not be reached: the TLS handshake failed: wrong version number (it ")
    finally:
        plain.stop()


class Silent:
    """Takes connections and says nothing, or ends each after some bytes."""

    def __init__(self, close_after: int | None = None) -> None:
        self.listening = socket.create_server(("127.0.0.1", free_port()))
        self.port: int = self.listening.getsockname()[1]
        self.accepted = 0
        self._open: list[socket.socket] = []
        self._close_after = close_after
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            self.accepted += 1
            if self._close_after is None:
                self._open.append(connection)
            else:
                connection.recv(self._close_after)
                connection.close()

    def close(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for connection in self._open:
            connection.close()


@pytest.mark.parametrize(("close_after", "reason"), [(None, "was not complete in time"), (100_000, "ended the")])
def test_a_handshake_that_does_not_end(
    new_balancer: Start, new_origin: NewOrigin, authority: Authority, close_after: int | None, reason: str
) -> None:
    """One that hangs is over with CONNECT_TIMEOUT, one that is cut at once; meanwhile others are served."""
    silent, spare = Silent(close_after), new_origin("spare")
    servers = f"- {{name: silent, url: 'https://127.0.0.1:{silent.port}'}}\n- {{name: spare, url: '{spare.url}'}}\n"
    text = f"balancer: first\nservers:\n{servers}tls: {{ca_file: '{authority.ca_file}'}}{CALM}"
    balancer = new_balancer(text, environment={"CONNECT_TIMEOUT": "2s"}).start()
    key = balancer.create_user("user1", 1000)
    try:
        began = time.monotonic()
        assert b'"server": "spare"' in get(balancer, key, "/", b"a body").body
        if close_after is None:
            assert time.monotonic() - began > 1.9
        log_of(balancer, "silent failed: it could not be reached: ")
        assert reason in balancer.log()
    finally:
        silent.close()


def test_a_response_without_an_end(new_balancer: Start, directory: Path, authority: Authority) -> None:
    """Content that ends with the connection is whole with a close_notify, and cut without (RFC 9112 section 9.8)."""
    files = authority.sign("raw", "127.0.0.1")
    server = RawServer(context_of(files)).start()
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    server.scripts["whole"] = Script((head + b"content",), CLOSE)
    server.scripts["cut"] = Script((head + b"content",), CUT)
    length = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\ncontent"
    server.scripts["length"] = Script((length,), CUT)
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ncontent\r\n0\r\n\r\n"
    server.scripts["chunks"] = Script((chunks,), CUT)
    text = f"servers: [{{name: raw, url: 'https://127.0.0.1:{server.port}'}}]\n"
    balancer = new_balancer(f"{text}tls: {{ca_file: '{authority.ca_file}'}}{CALM}").start()
    key = balancer.create_user("user1", 1000)
    try:
        for name in ("whole", "length", "chunks"):
            assert get(balancer, key, f"/script/{name}").body == b"content", name
        with pytest.raises(OSError):
            get(balancer, key, "/script/cut")
        log_of(balancer, "A request to raw failed: The server closed the connection before its response was whole")
    finally:
        server.stop()


def test_reload(new_balancer: Start, new_origin: NewOrigin, authority: Authority, tmp_path: Path) -> None:
    """Other settings, and renewed files, are for new connections; counts stay; what is wrong is not used."""
    origin = new_origin(client_ca=authority.ca_file)
    own = Authority(tmp_path, "unused")
    ca_file, cert_file, key_file = (tmp_path / name for name in ("ca.pem", "ours.pem", "ours.key"))

    def renew(name: str) -> None:
        certificate, key = authority.sign(name)
        cert_file.write_bytes(Path(certificate).read_bytes())
        key_file.write_bytes(Path(key).read_bytes())

    ca_file.write_bytes(authority.pem)
    renew("first")
    tls = f"ca_file: '{ca_file}', cert_file: '{cert_file}', key_file: '{key_file}'"
    balancer = new_balancer(yaml_of(origin, tls=tls)).start()
    key = balancer.create_user("user1", 1000)
    for _ in range(2):
        assert get(balancer, key).status == 200
    assert [one.subject for one in origin.handshakes] == ["first"]
    renew("second")
    log_of(balancer, "changed server1 (tls)")
    wait_until(lambda: origin.closed == 1, what="the idle connection is closed")
    assert get(balancer, key).status == 200
    assert [one.subject for one in origin.handshakes] == ["first", "second"]
    # No longer a file that can be used.
    file_name = balancer.directory / "servers.yaml"
    for path, content, words in (
        (key_file, own.pem, f"tls.key_file: {key_file}: there is no private key in PEM"),
        (ca_file, b"", "tls.ca_file: expected certificates in PEM"),
    ):
        before = path.read_bytes()
        path.write_bytes(content)
        os.kill(balancer.pid, signal.SIGHUP)
        log_of(balancer, f"The servers file was rejected, nothing changes: {file_name}:4: {words}")
        path.write_bytes(before)
    assert get(balancer, key).status == 200
    assert len(origin.handshakes) == 2
    (shown,) = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    assert shown["requests"] == 4
    # The same, but plain HTTP is expected now, and then TLS again.
    plain = yaml_of(origin, tls="").replace("https:", "http:")
    use(balancer, plain)
    assert get(balancer, key).status == 502
    use(balancer, yaml_of(origin, tls=tls))
    assert get(balancer, key).status == 200
    (shown,) = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    assert shown["requests"] == 6


def test_settings_change_under_a_request(new_balancer: Start, new_origin: NewOrigin, authority: Authority) -> None:
    """A request that is under way keeps its connection, which is not used again."""
    origin = new_origin()
    tls = f"ca_file: '{authority.ca_file}'"
    balancer = new_balancer(yaml_of(origin, tls=tls)).start()
    key = balancer.create_user("user1", 1000)
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(get(balancer, key, "/drip/1")))
    asking.start()
    wait_until(lambda: bool(origin.seen), what="it has begun")
    use(balancer, yaml_of(origin, tls="verify: false"))
    log_of(balancer, "tls: verify: false for server1")
    asking.join()
    assert answers[0].body == b"firstother"
    wait_until(lambda: origin.closed == 1, what="the connection is closed")
    assert get(balancer, key).status == 200
    assert origin.connections == 2


def test_a_verification_that_is_switched_off(new_balancer: Start, new_origin: NewOrigin) -> None:
    """`verify: false` is in the log at the start, and in the output of --check, which shows what is used."""
    origin = new_origin()
    text = yaml_of(origin, tls="verify: false")
    balancer = new_balancer(text).start()
    assert "servers.yaml: tls: verify: false for server1: " in balancer.log()
    ended = new_balancer(text, "--check").run_to_end()
    assert (ended.status, "verify: false for server1" in ended.output) == (0, True)
    assert f"server1, {origin.url}, weight 1, TLS not verified" in ended.output


def test_a_tunnel(new_balancer: Start, authority: Authority) -> None:
    """What comes after a switch of protocols passes in both directions, and so does the end of each direction."""
    context = context_of(authority.sign("raw", "127.0.0.1"))
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    head = b""
                    while not head.endswith(b"\r\n\r\n"):
                        head += secured.recv(65536)
                    secured.sendall(b"HTTP/1.1 101 Switching\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
                    while data := secured.recv(65536):
                        secured.sendall(data)
                    secured.sendall(b"end")
                    secured.unwrap()
            except OSError:
                """A connection that looks whether it runs."""

    threading.Thread(target=serve, daemon=True).start()
    port = listening.getsockname()[1]
    text = f"servers: [{{name: raw, url: 'https://127.0.0.1:{port}'}}]\ntls: {{ca_file: '{authority.ca_file}'}}{CALM}"
    balancer = new_balancer(text).start()
    key = balancer.create_user("user1", 1000)
    with socket.create_connection(("127.0.0.1", balancer.port), timeout=60) as client:
        fields = f"Host: a\r\nX-API-Key: {key}\r\nUpgrade: echo\r\nConnection: Upgrade"
        client.sendall(f"GET / HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        stream = client.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 101")
        while stream.readline() != b"\r\n":
            pass
        for size in (1, 100_000):
            data = os.urandom(size)
            client.sendall(data)
            assert stream.read(size) == data
        client.shutdown(socket.SHUT_WR)
        assert stream.read() == b"end"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


@WITHOUT_REDIS
def test_workers(
    redis: RedisServer, new_balancer: Start, new_origin: NewOrigin, authority: Authority, tmp_path: Path
) -> None:
    """Workers have what the parent has read, at the start and after a reload, also when they cannot read it."""
    origin = new_origin(client_ca=authority.ca_file)
    redis.start()
    certificate, key_file = (Path(name) for name in authority.sign("ours"))
    lines = [f"- {{name: spare{number}, url: 'http://127.0.0.1:1', weight: 0}}\n" for number in range(300)]
    tls = f"ca_file: '{authority.ca_file}', cert_file: '{certificate}', key_file: '{key_file}'"
    balancer = new_balancer(yaml_of(origin, tls=tls), "--redis-url", redis.url, "--workers", "2").start()
    key = balancer.create_user("user1", 1000)
    assert get(balancer, key).status == 200
    # So long that another process reads it.
    use(balancer, yaml_of(origin, tls=tls).replace("servers:\n", f"servers:\n{''.join(lines)}"))
    key_file.unlink()
    victim = balancer.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(set(balancer.workers()) - {victim}) == 2, what="a new worker")
    wait_until(lambda: "2 of 2" in str(ask(balancer.admin_port, "GET", "/readyz").body), what="it is ready")
    for _ in range(10):
        assert get(balancer, key).status == 200


NGINX = """\
{user}worker_processes 1; daemon off; pid nginx.pid; error_log stderr;
events {{ }}
http {{
  log_format tls '$ssl_session_reused $ssl_server_name $ssl_client_s_dn $request'; access_log log tls;
  client_body_temp_path tmp1; proxy_temp_path tmp2; fastcgi_temp_path tmp3; uwsgi_temp_path tmp4; scgi_temp_path tmp5;
  ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_session_cache shared:a:1m;
  ssl_client_certificate {ca}; ssl_verify_client on;
  server {{ listen 127.0.0.1:{port} ssl; root files; keepalive_timeout 100ms; location = / {{ return 200 "hello"; }} }}
  server {{ listen 127.0.0.1:{announced} ssl proxy_protocol; location = / {{ return 200 $proxy_protocol_addr; }} }}
}}
"""


@pytest.mark.skipif(not nginx_program(), reason="no nginx; `apt-get install nginx-light` enables this")
def test_nginx(new_balancer: Start, authority: Authority, tmp_path: Path) -> None:
    """nginx that wants a certificate and closes idle connections soon: all requests succeed, and resume sessions.

    The header of the PROXY protocol comes before the handshake.
    """
    size, port, announced = 20_000_001, free_port(), free_port()
    (tmp_path / "files").mkdir()
    with (tmp_path / "files" / "large").open("wb") as file:
        file.writelines(blocks(size))
    certificate, key = authority.sign("nginx", "localhost")
    ours = authority.sign("ours")
    user = "user root; " if os.geteuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(
        NGINX.format(
            user=user, certificate=certificate, key=key, ca=authority.ca_file, port=port, announced=announced
        )
    )
    nginx = subprocess.Popen([str(nginx_program()), "-p", str(tmp_path), "-c", "nginx.conf", "-e", "stderr"])
    tls = f"ca_file: '{authority.ca_file}', cert_file: '{ours[0]}', key_file: '{ours[1]}'"
    text = f"servers: [{{name: nginx, url: 'https://localhost:{port}'}}]\ntls: {{{tls}}}{CALM}"
    balancer = new_balancer(text).start()
    try:
        wait_until(lambda: accepts(port), what="nginx")
        user_key = balancer.create_user("user1", 1000)
        assert hashlib.sha256(get(balancer, user_key, "/large").body).hexdigest() == content_hash(size)
        for number in range(10):
            # nginx closes the connection at about the time of a request.
            time.sleep(0.095 + number * 0.002)
            assert get(balancer, user_key).body == b"hello"
        wait_until(lambda: len((tmp_path / "log").read_text().splitlines()) == 11, what="its log")
        lines = (tmp_path / "log").read_text().splitlines()
        assert lines[0] == ". localhost CN=ours GET /large HTTP/1.1"
        assert lines[-1] in ("r localhost CN=ours GET / HTTP/1.1", "r localhost - GET / HTTP/1.1")
        check = "health_check: {interval: 100ms, timeout: 30s, passes: 1}"
        for version in ("v1", "v2"):
            server = f"{{name: nginx, url: 'https://localhost:{announced}', send_proxy: {version}}}"
            use(balancer, f"servers: [{server}]\ntls: {{{tls}}}\n{check}{CALM}")
            for _ in range(3):
                assert get(balancer, user_key).body == b"127.0.0.1"
        time.sleep(0.3)
        assert "is down" not in balancer.log()
    finally:
        nginx.terminate()
        nginx.wait(60)


def accepts(port: int) -> bool:
    """Whether there is a listener."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
