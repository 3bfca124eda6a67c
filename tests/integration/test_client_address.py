"""The address of the client between real proxies: curl and HAProxy in front, nginx and HAProxy as servers."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import curl as curls
from tests.integration.curl import curl
from tests.integration.origin import Seen, Servers
from tests.integration.processes import Answer, Balancer, ask_on, wait_until
from tests.integration.redis_server import MISSING, RedisServer, free_port

CLIENT = "127.0.0.9"
ANNOUNCING = "127.0.0.2"  # PROXY_PROTOCOL_FROM
TRUSTED = "127.0.0.3"  # TRUSTED_PROXIES
ENVIRONMENT = {"PROXY_PROTOCOL_FROM": ANNOUNCING, "TRUSTED_PROXIES": f"{TRUSTED}, 10.0.0.0/8"}
MISSING_PROGRAMS = {
    name: "" if shutil.which(name) else f"no {name}; `apt-get install {name}` enables this"
    for name in ("haproxy", "nginx")
}
WITH_HAPROXY = pytest.mark.skipif(bool(MISSING_PROGRAMS["haproxy"]), reason=MISSING_PROGRAMS["haproxy"])
WITH_NGINX = pytest.mark.skipif(bool(MISSING_PROGRAMS["nginx"]), reason=MISSING_PROGRAMS["nginx"])
WITH_CURL = pytest.mark.skipif(bool(curls.MISSING), reason=curls.MISSING)

HAPROXY = """
defaults
  mode http
  timeout connect 30s
  timeout client 60s
  timeout server 60s
"""
NGINX = """
daemon off; master_process off; error_log stderr; pid nginx.pid;
events {{ }}
http {{
  access_log off;
  server {{
    listen 127.0.0.1:{port} proxy_protocol;
    location / {{ return 200 "nginx $proxy_protocol_addr $http_x_forwarded_for"; }}
  }}
}}
"""


@contextmanager
def running(port: int, *command: str, **files: str) -> Iterator[None]:
    """A program that listens on the port, in a directory with these files."""
    with tempfile.TemporaryDirectory(prefix="tokenlb-proxy-") as directory:
        for name, text in files.items():
            Path(directory, name).write_text(text)
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: listens(port), what=f"{command[0]} on port {port}")
            yield
        finally:
            process.kill()
            process.wait(60)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def balancer(servers: Servers) -> Iterator[Balancer]:
    """A balancer, with two workers where there is a Redis."""
    redis = RedisServer() if not MISSING else None
    options: tuple[str, ...] = ()
    try:
        if redis is not None:
            redis.start()
            options = "--redis-url", redis.url, "--workers", "2"
        balancer = Balancer(servers.yaml("{name: hash, by: address}"), *options, environment=ENVIRONMENT)
        try:
            yield balancer.start()
            assert "Traceback" not in balancer.log()
        finally:
            balancer.close()
    finally:
        if redis is not None:
            redis.close()


@pytest.fixture(scope="module")
def key(balancer: Balancer) -> str:
    return balancer.create_user("ann", 1000)


def ask_from(address: str, port: int, key: str, **fields: str) -> Answer:
    """One request on a connection from this address."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(address, 0))
    try:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return ask_on(connection, "GET", "/", key=key, fields=named)
    finally:
        connection.close()


def seen(servers: Servers) -> Seen:
    """The one request that has reached a server."""
    [one] = [one for origin in servers.all for one in origin.seen]
    servers.forget()
    return one


def test_fields(balancer: Balancer, servers: Servers, key: str) -> None:
    """What a trusted proxy says is believed and extended; what anyone else says is replaced."""
    said = {"X_Forwarded_For": "203.0.113.1, 198.51.100.7, 10.9.9.9", "X_Forwarded_Proto": "https"}
    assert ask_from(TRUSTED, balancer.port, key, **said).status == 200
    one = seen(servers)
    assert one.field("X-Forwarded-For") == f"203.0.113.1, 198.51.100.7, 10.9.9.9, {TRUSTED}"
    assert (one.field("X-Real-IP"), one.field("X-Forwarded-Proto")) == ("198.51.100.7", "https")
    assert ask_from(CLIENT, balancer.port, key, **said, Forwarded="for=203.0.113.1").status == 200
    one = seen(servers)
    assert (one.field("X-Forwarded-For"), one.field("X-Real-IP")) == (CLIENT, CLIENT)
    assert one.field("X-Forwarded-Proto") == "http"
    assert str(one.field("Forwarded")).startswith(f"for={CLIENT};")


@WITH_CURL
def test_curl(balancer: Balancer, servers: Servers, key: str) -> None:
    """curl's header is read from PROXY_PROTOCOL_FROM, is required there, and is a bad request from anyone else."""
    url = balancer.url + "/"
    common = "-H", f"Authorization: {key}"
    assert curl("--interface", ANNOUNCING, "--haproxy-protocol", *common, url + "?[1-2]").statuses[-1] == 200
    first, second = (one for origin in servers.all for one in origin.seen)
    assert {first.field("X-Forwarded-For"), second.field("X-Forwarded-For")} == {ANNOUNCING}
    assert curl("--interface", ANNOUNCING, *common, url).exit_status in (52, 56)
    assert curl("--interface", CLIENT, "--haproxy-protocol", *common, url).status == 400


@WITH_HAPROXY
def test_haproxy_in_front(balancer: Balancer, servers: Servers, key: str) -> None:
    """Behind HAProxy the client is HAProxy's, whichever way it says so, and so are the server and the scheme."""
    ways = {
        "send-proxy": f"send-proxy source {ANNOUNCING}",
        "send-proxy-v2": f"send-proxy-v2 check-send-proxy source {ANNOUNCING}",
        "crc32c": f"send-proxy-v2 proxy-v2-options crc32c,unique-id source {ANNOUNCING}",
        "option forwardfor": f"source {TRUSTED}",
    }
    text = HAPROXY
    ports = {}
    for way, server in ways.items():
        ports[way] = port = free_port()
        fields = "option forwardfor\n  http-request set-header X-Forwarded-Proto https" if "option" in way else ""
        text += f"\nlisten on{port}\n  bind 127.0.0.1:{port}\n  unique-id-format %pid-%rt\n  {fields}\n"
        text += f"  server b 127.0.0.1:{balancer.port} {server}\n"
    with running(port, "haproxy", "-f", "haproxy.cfg", **{"haproxy.cfg": text}):
        bodies = set()
        for way, port in ports.items():
            answer = ask_from(CLIENT, port, key)
            assert answer.status == 200, way
            bodies.add(answer.body)
            one = seen(servers)
            assert str(one.field("X-Forwarded-For")).partition(", ")[0] == one.field("X-Real-IP") == CLIENT, way
            assert one.field("X-Forwarded-Proto") == ("https" if "option" in way else "http"), way
        # The hash balancer has seen one address.
        assert len(bodies) == 1


@WITH_HAPROXY
@WITH_NGINX
def test_servers_are_told() -> None:
    """nginx and HAProxy as servers read our headers, on new and on reused connections, and pass their checks."""
    nginx, haproxy = free_port(), free_port()
    back = f"{HAPROXY}\nfrontend f\n  bind 127.0.0.1:{haproxy} accept-proxy\n"
    back += "  http-request return status 200 content-type text/plain"
    back += ' lf-string "haproxy %[src] %[req.hdr(x-forwarded-for)]"\n'
    text = (
        f"send_proxy: v2\nhealth_check: {{interval: 200ms, timeout: 30s, fails: 1}}\nservers:\n"
        f"- {{name: a, url: http://127.0.0.1:{nginx}, send_proxy: v1}}\n"
        f"- {{name: b, url: http://127.0.0.1:{nginx}}}\n"
        f"- {{name: c, url: http://127.0.0.1:{haproxy}}}\n"
        f"- {{name: d, url: http://127.0.0.1:{haproxy}, send_proxy: v1}}\n"
    )
    with (
        running(nginx, "nginx", "-p", ".", "-c", "nginx.conf", **{"nginx.conf": NGINX.format(port=nginx)}),
        running(haproxy, "haproxy", "-f", "haproxy.cfg", **{"haproxy.cfg": back}),
    ):
        balancer = Balancer(text)
        try:
            balancer.start()
            own = balancer.create_user("bob", 1000)
            clients = [
                http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60, source_address=(address, 0))
                for address in (CLIENT, "127.0.0.8")
            ]
            answers = [ask_on(client, "GET", "/", key=own) for _ in range(8) for client in clients]
            for client in clients:
                client.close()
            assert [answer.status for answer in answers] == [200] * 16
            assert {answer.body for answer in answers} == {
                f"{server} {address} {address}".encode()
                for server in ("nginx", "haproxy")
                for address in (CLIENT, "127.0.0.8")
            }
            assert "failed" not in balancer.log() and "Traceback" not in balancer.log()
        finally:
            balancer.close()
