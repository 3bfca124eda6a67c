"""Clients as people use them, each a program of its own.  curl and ab, which are more particular, have test_curl.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.clients.plan import GETS
from tests.integration.origin import Servers, content_hash
from tests.integration.processes import PROJECT, Balancer
from tests.integration.relay import CountingRelay

MIB = 1024 * 1024
UPLOAD_BYTES = 8 * MIB + 1
DOWNLOAD_BYTES = 64 * MIB
PROGRAMS = Path(__file__).parent / "clients"

# Each program, and the Python package it needs.
PYTHON_CLIENTS = {
    "http_client": "http",
    "requests_client": "requests",
    "httpx_client": "httpx",
    "aiohttp_client": "aiohttp",
    "treq_client": "treq",
}
NO_NODE = "no node; `apt-get install nodejs` enables this"


@pytest.fixture(scope="module")
def store_options() -> Iterator[tuple[str, ...]]:
    """What is shown here has nothing to do with the store."""
    yield ()


@pytest.fixture(scope="module")
def download_hash() -> str:
    """Of the whole download."""
    return content_hash(DOWNLOAD_BYTES)


@pytest.fixture
def relay(balancer: Balancer) -> Iterator[CountingRelay]:
    """Counts the connections that a client opens."""
    relay = CountingRelay(balancer.port).start()
    yield relay
    relay.stop()


def command(client: str) -> list[str]:
    """What runs this client; skips where something is missing."""
    if client == "node":
        if not shutil.which("node"):
            pytest.skip(NO_NODE)
        return ["node", str(PROGRAMS / "node_client.mjs")]
    package = PYTHON_CLIENTS[client]
    if find_spec(package) is None:
        pytest.skip(f"no {package}; `pip install {package}` enables this")
    return [sys.executable, "-m", f"tests.integration.clients.{client}"]


@pytest.mark.parametrize("client", [*PYTHON_CLIENTS, "node"])
def test_a_client_gets_all_it_asks_for(
    balancer: Balancer, servers: Servers, relay: CountingRelay, download_hash: str, client: str
) -> None:
    """GET, uploads with a length and in chunks, and 64 MiB with a length and in chunks, on kept connections."""
    key = balancer.create_user(f"user-{uuid4()}", 1000)
    arguments = [f"http://127.0.0.1:{relay.port}", key, str(UPLOAD_BYTES), str(DOWNLOAD_BYTES)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([*command(client), *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["get"] == [f"Server server{number % 3 + 1} answer" for number in range(GETS)]
    for kind in ("post", "chunked"):
        assert (results[kind]["bytes"], results[kind]["sha256"]) == (UPLOAD_BYTES, content_hash(UPLOAD_BYTES))
    assert (results["download"], results["chunks"]) == (download_hash, download_hash)
    # Node's fetch opens a second one, before any server.
    assert relay.connections == (2 if client == "node" else 1)
    framings = [one for origin in servers.all for one in origin.seen if one.method == "POST"]
    assert sorted(bool(one.field("Transfer-Encoding")) for one in framings) == [False, True]
