"""TLS listeners with real processes and clients: curl, openssl and Python's ssl."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import WITHOUT_REDIS, Start, assert_calm
from tests.integration.curl import MISSING as MISSING_CURL
from tests.integration.origin import Servers, blocks, content_hash
from tests.integration.processes import Asking, Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer, free_port
from tests.stores.certificates import Authority

NAME = "a.test"
LARGE = 20_000_000
MISSING_OPENSSL = "" if shutil.which("openssl") else "no openssl"


class Tls:
    """An authority, a listener with a certificate for NAME, and clients of it."""

    def __init__(self, base: Path) -> None:
        self.authority = Authority(base)
        self.port = free_port()
        self.cert_file, self.key_file = self.authority.sign(NAME)

    def environment(self, **more: str) -> dict[str, str]:
        """Settings for the listener."""
        return {
            "TLS_LISTEN": f"tcp:{self.port}:interface=127.0.0.1",
            "TLS_CERT_FILE": self.cert_file,
            "TLS_KEY_FILE": self.key_file,
            **more,
        }

    def context(self) -> ssl.SSLContext:
        """Of a client."""
        return ssl.create_default_context(cafile=self.authority.ca_file)

    def connect(self, context: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        """A connection to the listener."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        return (context or self.context()).wrap_socket(plain, server_hostname=NAME, session=session)

    def ask(self, path: str, key: str, body: bytes | None = None, context: ssl.SSLContext | None = None) -> Any:
        """Status and body of one request on a connection of its own."""
        with self.connect(context) as connection:
            return ask_on(connection, path, key, body)


def ask_on(connection: ssl.SSLSocket, path: str, key: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of one request on an open connection."""
    length = f"Content-Length: {len(body)}\r\n" if body is not None else ""
    method = "GET" if body is None else "POST"
    head = f"{method} {path} HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: {key}\r\n{length}\r\n".encode()
    # Not in a thread: two threads must not use one connection of Python's ssl at a time.
    connection.sendall(head + (body or b""))
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    content = response.read()
    return response.status, content


@pytest.fixture(scope="module")
def tls(tmp_path_factory: Any) -> Tls:
    return Tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def own_tls(tmp_path: Path) -> Tls:
    """That of one test."""
    return Tls(tmp_path)


@pytest.fixture(scope="module")
def secured(servers: Servers, tls: Tls) -> Iterator[Balancer]:
    """A balancer with a TLS listener."""
    balancer = Balancer(servers.yaml(), environment=tls.environment(TLS_HANDSHAKE_TIMEOUT="2s"))
    try:
        yield balancer.start()
        assert_calm(balancer)
    finally:
        balancer.close()


@pytest.fixture(scope="module")
def key(secured: Balancer) -> str:
    return secured.create_user("user1", 100_000)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(secured: Balancer, servers: Servers, tls: Tls, key: str, version: ssl.TLSVersion) -> None:
    """Both versions: kept connections, bodies both ways, pipelining, sessions; servers learn that it was https."""
    context = tls.context()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with tls.connect(context) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"
        for _ in range(5):
            assert ask_on(connection, "/a", key)[0] == 200
        content = ask_on(connection, f"/size/{LARGE}", key)[1]
        assert hashlib.sha256(content).hexdigest() == content_hash(LARGE)
        upload = b"".join(blocks(3_000_000))
        received = json.loads(ask_on(connection, "/upload", key, upload)[1])
        assert content_hash(3_000_000) in received.values()
        one = f"GET /p HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: {key}\r\n\r\n".encode()
        connection.sendall(one * 20)
        found = b""
        while found.count(b" answer") < 20:
            found += connection.recv(65536)
        session = connection.session
    assert all(one.field("X-Forwarded-Proto") == "https" for origin in servers for one in origin.seen)
    assert {one.path for origin in servers for one in origin.seen} >= {"/a", "/upload", "/p"}
    with tls.connect(context, session) as again:
        assert again.session_reused
        assert ask_on(again, "/a", key)[0] == 200


def test_slow_reader(secured: Balancer, servers: Servers, tls: Tls, key: str) -> None:
    """A client that reads slowly gets every byte, and the balancer does not hold them in memory."""
    secured.forget_peak()
    before = secured.rss()
    with tls.connect() as connection:
        connection.sendall(f"GET /size/{4 * LARGE} HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: {key}\r\n\r\n".encode())
        time.sleep(0.5)
        assert sum(origin.sent for origin in servers) < 3 * LARGE
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert hashlib.sha256(response.read()).hexdigest() == content_hash(4 * LARGE)
    assert secured.peak_rss() - before < 20_000_000


def test_many_small_records(secured: Balancer, tls: Tls, key: str) -> None:
    """A request and a body in records of one byte; others are served meanwhile."""
    with tls.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"POST /u HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: {key}\r\nContent-Length: 20000\r\n\r\n".encode()
        for byte in head + b"x" * 20_000:
            connection.send(bytes([byte]))
        assert tls.ask("/other", key)[0] == 200
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        assert hashlib.sha256(b"x" * 20_000).hexdigest() in response.read().decode()


@pytest.mark.skipif(bool(MISSING_CURL), reason=MISSING_CURL)
def test_curl(secured: Balancer, tls: Tls, key: str, tmp_path: Path) -> None:
    """curl verifies the certificate, keeps its connection, and sees it end in order."""
    file = tmp_path / "body"
    file.write_bytes(b"".join(blocks(LARGE)))
    command = ["curl", "-sS", "-v", "--cacert", tls.authority.ca_file, "--resolve", f"{NAME}:{tls.port}:127.0.0.1"]
    url = f"https://{NAME}:{tls.port}"
    fields = ["-H", f"Authorization: {key}"]
    done = subprocess.run(
        [*command, *fields, f"{url}/a", f"{url}/b", "-T", str(file), f"{url}/c"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Re-using existing connection" in done.stderr
    closing = subprocess.run(
        [*command, *fields, "-H", "Connection: close", f"{url}/a"], capture_output=True, text=True, timeout=120
    )
    assert "close notify" in closing.stderr and closing.returncode == 0, closing.stderr


@pytest.mark.skipif(bool(MISSING_OPENSSL), reason=MISSING_OPENSSL)
def test_openssl(secured: Balancer, tls: Tls, key: str) -> None:
    """s_client is served in each version; renegotiation, old versions and compression are not offered."""
    request = f"GET /a HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: {key}\r\nConnection: close\r\n\r\n"

    def s_client(*options: str, text: str = request) -> str:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{tls.port}", "-CAfile", tls.authority.ca_file]
        command += ["-servername", NAME, "-ign_eof", *options]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
        return done.stdout + done.stderr

    for version in ("-tls1_2", "-tls1_3"):
        shown = s_client(version)
        assert "HTTP/1.1 200 OK" in shown and "Verify return code: 0 (ok)" in shown and "Compression: NONE" in shown
    assert "HTTP/1.1 200" not in s_client("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{tls.port}", "-tls1_2", "-servername", NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as asking:
        assert asking.stdin is not None and asking.stdout is not None
        # A line "R" asks for a renegotiation.
        asking.stdin.write(b"R\n")
        asking.stdin.flush()
        shown = asking.stdout.read().decode(errors="replace")
    assert "RENEGOTIATING" in shown and "no renegotiation" in shown, shown


def test_not_tls(secured: Balancer, tls: Tls, key: str) -> None:
    """Plain HTTP gets 400 in clear; garbage, a half handshake and silence end soon; others are served meanwhile."""
    answer = ask(tls.port, "GET", "/", key=key)
    assert answer.status == 400 and "plain HTTP" in json.loads(answer.body)["detail"]
    began = time.monotonic()
    ends = []
    for sent in (b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\x16", b"", b"\x80\x80\x01\x03\x01" * 50):
        connection = socket.create_connection(("127.0.0.1", tls.port), timeout=60)
        connection.sendall(sent)
        ends.append(connection)
    leaver = socket.create_connection(("127.0.0.1", tls.port), timeout=60)
    leaver.sendall(b"\x16\x03\x01")
    leaver.close()
    assert tls.ask("/a", key)[0] == 200
    for connection in ends:
        with connection:
            try:
                while connection.recv(1000):
                    pass
            except ConnectionResetError:
                pass
    # The default is ten seconds.
    assert time.monotonic() - began < 9
    metrics = ask(secured.admin_port, "GET", "/metrics").body.decode()
    for result in ("complete", "failed", "timeout", "plain_http"):
        assert re.search(rf'tokenlb_tls_handshakes_total\{{result="{result}"\}} [1-9]', metrics), metrics


def test_cut_in_the_middle(secured: Balancer, servers: Servers, tls: Tls, key: str) -> None:
    """A client whose connection ends without close_notify is gone: its server is not kept busy."""
    with tls.connect() as connection:
        connection.sendall(f"GET /slow/40 HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: {key}\r\n\r\n".encode())
        wait_until(lambda: any(one.path == "/slow/40" for origin in servers for one in origin.seen))
        # A FIN, and no alert.
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: not in_flight(secured), 20, "the end of the exchange")


def in_flight(balancer: Balancer) -> int:
    """How many requests are at the servers."""
    metrics = ask(balancer.admin_port, "GET", "/metrics").body.decode()
    return sum(int(float(found)) for found in re.findall(r"^tokenlb_server_in_flight\{.*\} (.*)$", metrics, re.M))


@pytest.mark.parametrize("auth", ["required", "optional"])
def test_client_certificates(new_balancer: Start, servers: Servers, own_tls: Tls, tmp_path: Path, auth: str) -> None:
    """The subject of a verified certificate reaches servers, and nothing that a client says of itself does."""
    people, others = Authority(tmp_path, "people"), Authority(tmp_path, "others")
    environment = own_tls.environment(TLS_CLIENT_CA_FILE=people.ca_file, TLS_CLIENT_AUTH=auth)
    balancer = new_balancer(servers.yaml(), environment=environment).start()
    key = balancer.create_user("user1", 1000)
    known, unknown = own_tls.context(), own_tls.context()
    known.load_cert_chain(*people.sign("ann, of Zürich", "ann.test"))
    unknown.load_cert_chain(*others.sign("eve"))
    forged = f"{key}\r\nX-Client-Cert-Subject: CN=root\r\nX-Client_Cert_Subject: CN=root"
    assert own_tls.ask("/known", forged, context=known)[0] == 200
    session = None
    with own_tls.connect(known) as connection:
        assert ask_on(connection, "/known", key)[0] == 200
        session = connection.session
    with own_tls.connect(known, session) as connection:
        assert connection.session_reused and ask_on(connection, "/known", key)[0] == 200
    with pytest.raises((ssl.SSLError, OSError)):
        own_tls.ask("/unknown", key, context=unknown)
    if auth == "required":
        with pytest.raises((ssl.SSLError, OSError)):
            own_tls.ask("/none", key)
    else:
        assert own_tls.ask("/none", forged)[0] == 200
    assert ask(balancer.port, "GET", "/plain", key=key, fields={"X-Client-Cert-Subject": "CN=root"}).status == 200
    seen = [one for origin in servers for one in origin.seen]
    subjects = {one.path: [value for name, value in one.fields if "cert" in name.lower()] for one in seen}
    expected = {"/known": ["CN=ann\\, of Z\\C3\\BCrich"], "/plain": []}
    assert subjects == (expected if auth == "required" else {**expected, "/none": []})
    assert "A TLS handshake with 127.0.0.1 failed: " in balancer.log()


@pytest.mark.skipif(WITHOUT_REDIS.args[0], reason="no redis-server")
def test_workers(new_balancer: Start, servers: Servers, own_tls: Tls, redis: RedisServer) -> None:
    """Each worker serves the listener and resumes sessions of the others, and a stop lets requests finish."""
    redis.start()
    options = ("--redis-url", redis.url, "--workers", "2")
    balancer = new_balancer(servers.yaml(), *options, environment=own_tls.environment()).start()
    key = balancer.create_user("user1", 1000)
    assert "https://127.0.0.1:" in balancer.log()
    for _ in range(20):
        assert own_tls.ask("/a", key)[0] == 200
    context = own_tls.context()
    with own_tls.connect(context) as first:
        assert ask_on(first, "/a", key)[0] == 200
        session = first.session
    # All at once, so that both workers accept some.
    with ExitStack() as stack:
        connections = [stack.enter_context(own_tls.connect(context, session)) for _ in range(40)]
        assert all(connection.session_reused for connection in connections)
    check_drain(balancer, servers, own_tls, key)


def test_drain(new_balancer: Start, servers: Servers, own_tls: Tls) -> None:
    """At SIGTERM idle connections end with close_notify, and a request that is under way gets its response."""
    balancer = new_balancer(servers.yaml(), environment=own_tls.environment()).start()
    check_drain(balancer, servers, own_tls, balancer.create_user("user1", 1000))


def check_drain(balancer: Balancer, servers: Servers, tls: Tls, key: str) -> None:
    servers.hold()
    plain = Asking(balancer, key, "/held")
    with tls.connect() as busy, tls.connect() as idle:
        assert ask_on(idle, "/a", key)[0] == 200
        busy.sendall(f"GET /held HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: {key}\r\n\r\n".encode())
        wait_until(lambda: servers.paths().count("/held") == 2)
        half = socket.create_connection(("127.0.0.1", tls.port), timeout=60)
        balancer.terminate()
        # Python's ssl raises for an end without close_notify.
        idle.suppress_ragged_eofs = False
        assert idle.recv(100) == b""
        servers.release()
        with half:
            try:
                assert half.recv(100) == b""
            except ConnectionResetError:
                pass
        busy.suppress_ragged_eofs = False
        response = http.client.HTTPResponse(busy)
        response.begin()
        assert response.status == 200 and response.read().endswith(b"answer") and response.will_close
        assert busy.recv(100) == b""
    assert balancer.wait() == 0
    plain.join(60)
    assert plain.status == 200


def test_half_open_handshakes(new_balancer: Start, servers: Servers, own_tls: Tls) -> None:
    """Ten thousand connections that begin a handshake and do nothing more keep nobody out, and little memory."""
    environment = own_tls.environment(TLS_MAX_HANDSHAKES="200", MAX_CONNECTIONS_PER_ADDRESS="0")
    balancer = new_balancer(servers.yaml(), environment=environment).start()
    key = balancer.create_user("user1", 1000)
    before = balancer.rss()
    hello = client_hello(own_tls.context())
    kept = own_tls.connect()
    assert ask_on(kept, "/a", key)[0] == 200
    open_ones: list[socket.socket] = []
    for number in range(10_000):
        one = socket.create_connection(("127.0.0.1", own_tls.port), timeout=60)
        one.sendall(hello if number % 2 else hello[:50])
        open_ones.append(one)
        if len(open_ones) > 400:
            open_ones.pop(0).close()
        if number % 1000 == 999:
            assert own_tls.ask("/a", key)[0] == 200
            assert ask_on(kept, "/a", key)[0] == 200
    for one in open_ones:
        one.close()
    kept.close()
    assert balancer.rss() - before < 60_000_000
    metrics = ask(balancer.admin_port, "GET", "/metrics").body.decode()
    assert 'tokenlb_tls_handshakes_total{result="no_room"}' in metrics


def client_hello(context: ssl.SSLContext) -> bytes:
    """The first flight of a client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=NAME).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()
