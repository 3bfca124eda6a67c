"""Servers as people run them behind the balancer, each a program of its own, and Python's http.client before it."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import blocks, content_hash
from tests.integration.processes import PROJECT, ask, ask_on, wait_until
from tests.integration.redis_server import free_port
from tests.integration.relay import CountingRelay

MIB = 1024 * 1024
UPLOAD_BYTES = 8 * MIB + 1
DOWNLOAD_BYTES = 64 * MIB
APPS = Path(__file__).parent / "apps"

NGINX = """\
worker_processes 1; daemon off; pid nginx.pid; error_log stderr;
events {{ }}
http {{
  access_log off; client_max_body_size 0;
  client_body_temp_path tmp1; proxy_temp_path tmp2; fastcgi_temp_path tmp3; uwsgi_temp_path tmp4; scgi_temp_path tmp5;
  server {{ listen 127.0.0.1:{port}; root files; location = / {{ return 200 "hello"; }} }}
}}
"""


class Kind(NamedTuple):
    """A kind of server."""

    command: Callable[[int, Path], list[str]]  # for a port and a directory with the files that it serves
    missing: str = ""  # why it cannot be had here
    keeps_connections: bool = True
    takes_uploads: bool = True


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _nginx(port: int, directory: Path) -> list[str]:
    # Started by root it would become nobody, who may not read the files.
    user = "user root; " if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(user + NGINX.format(port=port))
    # Debian has it where only root's PATH looks.
    return [str(nginx_program()), "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]


def nginx_program() -> str | None:
    return shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")


def _http_server(port: int, directory: Path) -> list[str]:
    return _python("http.server", str(port), "--bind", "127.0.0.1", "--directory", str(directory / "files"))


def _gunicorn(port: int, directory: Path) -> list[str]:
    options = ["--worker-class", "gthread", "--threads", "4", "--keep-alive", "30", "--log-level", "error"]
    return _python("gunicorn", "--bind", f"127.0.0.1:{port}", *options, "tests.integration.apps.wsgi:application")


def _uvicorn(port: int, directory: Path) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(port), "--timeout-keep-alive", "30", "--log-level", "error"]
    return _python("uvicorn", *options, "tests.integration.apps.asgi:application")


def _no_program(found: object, name: str, package: str) -> str:
    return "" if found else f"no {name}; `apt-get install {package}` enables this"


def _no_package(name: str) -> str:
    return "" if find_spec(name) else f"no {name}; `pip install {name}` enables this"


KINDS = {
    "nginx": Kind(_nginx, _no_program(nginx_program(), "nginx", "nginx-light"), takes_uploads=False),
    "http.server": Kind(_http_server, keeps_connections=False, takes_uploads=False),
    "node": Kind(
        lambda port, _: ["node", str(APPS / "node_server.mjs"), str(port)],
        _no_program(shutil.which("node"), "node", "nodejs"),
    ),
    "gunicorn": Kind(_gunicorn, _no_package("gunicorn")),
    "uvicorn": Kind(_uvicorn, _no_package("uvicorn")),
    "twisted.web": Kind(lambda port, _: _python("tests.integration.apps.twisted_web", str(port))),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of server that can be had."""
    kind = KINDS[request.param]
    if kind.missing:
        pytest.skip(kind.missing)
    return kind


@pytest.fixture
def relay(kind: Kind, tmp_path: Path) -> Iterator[CountingRelay]:
    """Counts the connections to a running server of this kind."""
    files = tmp_path / "files" / "size"
    files.mkdir(parents=True)
    if not kind.takes_uploads:
        with (files / str(DOWNLOAD_BYTES)).open("wb") as file:
            file.writelines(blocks(DOWNLOAD_BYTES))
    port = free_port()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            kind.command(port, tmp_path),
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    relay = CountingRelay(port).start()
    try:
        wait_until(lambda: answers(port) or process.poll() is not None, what="the server answers")
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield relay
    finally:
        relay.stop()
        # Some have processes of their own; all are of one group.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def answers(port: int) -> bool:
    """Whether a server is there."""
    try:
        return ask(port, "GET", "/").status == 200
    except OSError:
        return False


def test_a_server_gets_and_gives_all(new_balancer: Start, kind: Kind, relay: CountingRelay) -> None:
    """Ten GETs, HEAD, uploads with a length and in chunks, and 64 MiB, on as few connections as the server allows."""
    balancer = new_balancer(f"servers: [{{name: a, url: 'http://127.0.0.1:{relay.port}'}}]").start()
    key = balancer.create_user("user1", 1000)
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=120)
    try:
        for _ in range(10):
            assert ask_on(connection, "GET", "/", key=key).status == 200
        one_socket = connection.sock
        if kind.takes_uploads:
            content = b"".join(blocks(UPLOAD_BYTES))
            whole = ask_on(connection, "POST", "/", content, key)
            chunked = {"Authorization": key, "Transfer-Encoding": "chunked"}
            connection.request("POST", "/", map(bytes, blocks(UPLOAD_BYTES)), chunked, encode_chunked=True)
            for text in (whole.body, connection.getresponse().read()):
                assert json.loads(text) == {"bytes": UPLOAD_BYTES, "sha256": content_hash(UPLOAD_BYTES)}
        target = f"/size/{DOWNLOAD_BYTES}"
        head = ask_on(connection, "HEAD", target, key=key)
        assert (head.status, head.fields["Content-Length"], head.body) == (200, str(DOWNLOAD_BYTES), b"")
        download = ask_on(connection, "GET", target, key=key)
        assert hashlib.sha256(download.body).hexdigest() == content_hash(DOWNLOAD_BYTES)
        # What the server does with its connections is nothing to the client.
        assert connection.sock is one_socket
        assert relay.connections == 1 if kind.keeps_connections else relay.connections == 12
    finally:
        connection.close()
