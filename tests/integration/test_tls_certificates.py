"""Certificates of TLS listeners, their renewal, the redirect to https and HSTS, with real processes and clients."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.curl import MISSING as MISSING_CURL
from tests.integration.curl import curl
from tests.integration.origin import Servers
from tests.integration.processes import ask, wait_until
from tests.integration.redis_server import free_port
from tests.integration.test_client_address import HAPROXY, WITH_HAPROXY, running
from tests.stores.certificates import Authority


class Tls:
    """A balancer with a TLS listener, whose certificates an authority of the test signs."""

    def __init__(self, base: Path) -> None:
        self.authority = Authority(base)
        self.port = free_port()
        self.directory = base / "tls"
        self.directory.mkdir()
        self.cert_file, self.key_file = base / "default.crt", base / "default.key"
        self.pair("default.test")
        self.write("sites.pem", "site.test", "*.site.test")

    @property
    def environment(self) -> dict[str, str]:
        """The settings."""
        return {
            "TLS_LISTEN": f"tcp:{self.port}:interface=127.0.0.1",
            "TLS_CERT_FILE": str(self.cert_file),
            "TLS_KEY_FILE": str(self.key_file),
            "TLS_CERT_DIR": str(self.directory),
        }

    def pair(self, *names: str) -> None:
        """Another default certificate, as certbot replaces one: links, that of the certificate first."""
        for file, new in zip((self.cert_file, self.key_file), self.authority.sign(names[0], *names)):
            link = file.with_suffix(".link")
            link.symlink_to(new)
            link.replace(file)

    def write(self, name: str, *names: str) -> None:
        """A certificate with its key in one file of the directory."""
        files = self.authority.sign("made", *names)
        (self.directory / name).write_text("".join(Path(file).read_text() for file in files))

    def connect(self, name: str | None, own: tuple[str, str] | None = None) -> ssl.SSLSocket:
        """A connection to the balancer under this name; without one its certificate's names are not compared."""
        context = ssl.create_default_context(cafile=self.authority.ca_file)
        context.check_hostname = name is not None
        if own is not None:
            context.load_cert_chain(*own)
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return context.wrap_socket(connection, server_hostname=name)

    def names(self, name: str | None) -> list[str]:
        """The names of the certificate that a client gets that asks for `name`."""
        with self.connect(name) as connection:
            found: Any = connection.getpeercert()
            return [value for _, value in found["subjectAltName"]]


def test_renewal(new_balancer: Start, servers: Servers, processes: tuple[str, ...], tmp_path: Path) -> None:
    """Certificates are chosen by name, renewed while connections go on, and kept when a new file is broken."""
    tls = Tls(tmp_path)
    balancer = new_balancer(servers.yaml(), *processes, environment=tls.environment).start()
    key = balancer.create_user("user1", 100)
    assert tls.names("site.test") == tls.names("a.site.test") == ["site.test", "*.site.test"]
    assert tls.names("default.test") == tls.names(None) == ["default.test"]
    with tls.connect("site.test") as kept:
        serve(kept, key)
        tls.pair("default.test", "more.test")
        tls.write("sites.pem", "site.test", "other.test")
        tls.write("new.pem", "new.test")
        wait_until(lambda: all(balancer.log().count(f"{path}: the certificate is") for path in renewed(tls)))
        for name, names in (("new.test", ["new.test"]), ("other.test", ["site.test", "other.test"])):
            # All workers, one of which takes each connection.
            wait_until(lambda name=name, names=names: all(served(tls, name) == names for _ in range(24)))
        assert tls.names("more.test") == ["default.test", "more.test"]
        # The connection that began with the old certificate is still served.
        serve(kept, key)
        (tls.directory / "sites.pem").write_text("half a certif")
        os.kill(balancer.pid, signal.SIGHUP)
        wait_until(lambda: "was rejected" in balancer.log())
        assert tls.names("site.test") == ["site.test", "other.test"]
        serve(kept, key)
    assert balancer.log().count("was rejected") == 1
    assert f"TLS_CERT_DIR: {tls.directory}/sites.pem: there is no certificate in PEM" in balancer.log()
    assert balancer.log().count(f"{tls.directory}/new.pem: the certificate is new: it serves new.test") == 1
    metrics = ask(balancer.admin_port, "GET", "/metrics").body.decode()
    assert "tokenlb_tls_certificates_last_read_successful 0.0" in metrics
    assert len(re.findall(r'^tokenlb_tls_certificate_expiry_timestamp_seconds\{file="[^"]+"\} 1\.', metrics, re.M)) == 3
    # "expires within 14 days": the authority's certificates are for two.
    assert balancer.log().count(f"{tls.cert_file}: the certificate for default.test expires on") == 1


def test_other_client_authorities(
    new_balancer: Start, servers: Servers, processes: tuple[str, ...], tmp_path: Path
) -> None:
    """Other authorities for clients hold for all new connections, of workers too that are started later."""
    tls = Tls(tmp_path)
    people = [Authority(tmp_path, name) for name in ("first", "second")]
    own = [one.sign(f"person{number}") for number, one in enumerate(people)]
    file = tmp_path / "people.pem"
    file.write_bytes(people[0].pem)
    environment = {**tls.environment, "TLS_CLIENT_CA_FILE": str(file)}
    balancer = new_balancer(servers.yaml(), *processes, environment=environment).start()
    key = balancer.create_user("user1", 1000)

    def admitted(number: int) -> bool:
        """Whether this person is served."""
        try:
            with tls.connect("site.test", own[number]) as connection:
                serve(connection, key)
        except OSError:
            return False
        return True

    assert (admitted(0), admitted(1)) == (True, False)
    file.write_bytes(people[1].pem)
    # All workers, one of which takes each connection.
    wait_until(lambda: all(admitted(1) and not admitted(0) for _ in range(24)), what="the other authorities")
    assert f"{file}: certificates of clients are verified with other authorities" in balancer.log()
    if processes:
        before = set(balancer.workers())
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(balancer.workers()) - before) == 2, what="new workers")
        wait_until(lambda: "2 of 2" in str(ask(balancer.admin_port, "GET", "/readyz").body), what="they are ready")
        assert all(admitted(1) and not admitted(0) for _ in range(24))
    file.write_text("not a certificate")
    os.kill(balancer.pid, signal.SIGHUP)
    wait_until(lambda: "Authorities were rejected, those in use stay: TLS_CLIENT_CA_FILE" in balancer.log())
    assert (admitted(0), admitted(1)) == (False, True)


def renewed(tls: Tls) -> list[Path]:
    return [tls.cert_file, tls.directory / "sites.pem", tls.directory / "new.pem"]


def served(tls: Tls, name: str) -> list[str]:
    """The names of the certificate for `name`; none, if that is not one of them."""
    try:
        return tls.names(name)
    except ssl.SSLCertVerificationError:
        return []


def serve(connection: ssl.SSLSocket, key: str) -> None:
    """One request on a connection that stays open."""
    connection.sendall(f"GET / HTTP/1.1\r\nHost: site.test\r\nAuthorization: {key}\r\n\r\n".encode())
    data = b""
    while not re.search(rb"\r\n\r\nServer server\d answer", data):
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    assert data.startswith(b"HTTP/1.1 200 "), data


def test_strange_server_names(new_balancer: Start, servers: Servers, tmp_path: Path) -> None:
    """A client that asks for a name that is none gets an alert or the default, and writes no traceback to the log."""
    tls = Tls(tmp_path)
    balancer = new_balancer(servers.yaml(), environment=tls.environment).start()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="site.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    for name in (b"\xff\xfete.test", b"\x00\x00te.test", b"....test!"):
        with socket.create_connection(("127.0.0.1", tls.port), timeout=60) as connection:
            connection.sendall(hello.replace(b"site.test", name[:9]))
            # An alert or a handshake record.
            assert connection.recv(1) in (b"\x15", b"\x16")
    assert tls.names("site.test")
    assert "Traceback" not in balancer.log() and "could not be raised" not in balancer.log()


@pytest.mark.skipif(bool(MISSING_CURL), reason=MISSING_CURL)
def test_redirect(new_balancer: Start, servers: Servers, tmp_path: Path) -> None:
    """curl follows the redirect from http to https, where the response has HSTS; http never gets to a server."""
    tls = Tls(tmp_path)
    more = {"HTTP_REDIRECT": "https", "HSTS": "max-age=60; includeSubDomains", "KEY_QUERY_PARAMETER": "api_key"}
    balancer = new_balancer(servers.yaml(), environment={**tls.environment, **more})
    balancer.launch()
    wait_until(lambda: "twisted_lb listens" in balancer.log())
    safe = ["--cacert", tls.authority.ca_file]
    for port in (balancer.port, tls.port):
        safe += ["--resolve", f"site.test:{port}:127.0.0.1"]
    create = ["--json", '{"name": "user1"}', f"http://site.test:{balancer.port}/user/create"]
    created = curl(*safe, "--location", *create)
    assert created.statuses == [308, 200]
    assert created.fields["strict-transport-security"] == "max-age=60; includeSubDomains"
    url = f"http://site.test:{balancer.port}/a?api_key={created.json()['api_key']}"
    refused = curl(*safe, url)
    assert refused.fields["location"] == url.replace("http://", "https://").replace(str(balancer.port), str(tls.port))
    assert (refused.status, refused.fields["strict-transport-security"]) == (308, None)
    assert not any(server.seen for server in servers)
    followed = curl(*safe, "--location", url)
    assert (followed.statuses, followed.fields["x-ratelimit-remaining"]) == ([308, 200], "4")
    assert followed.fields.get_all("strict-transport-security") == ["max-age=60; includeSubDomains"]
    assert created.json()["api_key"] not in balancer.log()


HAPROXY_WITH_TLS = """
frontend public
  bind 127.0.0.1:{plain}
  bind 127.0.0.1:{tls} ssl crt site.pem
  option forwardfor
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  default_backend balancer
backend balancer
  server one 127.0.0.1:{balancer}
"""


@WITH_HAPROXY
@pytest.mark.skipif(bool(MISSING_CURL), reason=MISSING_CURL)
def test_tls_ends_in_front(new_balancer: Start, servers: Servers, tmp_path: Path) -> None:
    """Behind a proxy that terminates TLS the redirect leads to the proxy's https, and there is no loop."""
    authority = Authority(tmp_path)
    site = "".join(Path(file).read_text() for file in authority.sign("site.test"))
    plain, tls = free_port(), free_port()
    environment = {"TRUSTED_PROXIES": "127.0.0.1", "HTTP_REDIRECT": "https", "HTTPS_PORT": str(tls), "HSTS": "60"}
    balancer = new_balancer(servers.yaml(), environment=environment)
    balancer.launch()
    wait_until(lambda: "twisted_lb listens" in balancer.log())
    config = HAPROXY + HAPROXY_WITH_TLS.format(plain=plain, tls=tls, balancer=balancer.port)
    with running(plain, "haproxy", "-f", "proxy.cfg", **{"proxy.cfg": config, "site.pem": site}):
        safe = ["--cacert", authority.ca_file, "--location"]
        for port in (plain, tls):
            safe += ["--resolve", f"site.test:{port}:127.0.0.1"]
        created = curl(*safe, "--json", '{"name": "user1"}', f"http://site.test:{plain}/user/create")
        assert (created.statuses, created.fields["strict-transport-security"]) == ([308, 200], "max-age=60")
        url = f"https://site.test:{tls}/"
        assert curl(*safe, "-H", f"X-API-Key: {created.json()['api_key']}", url).statuses == [200]
