"""A servers file of thousands of servers, changed while clients are served."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.integration.conftest import Start
from tests.integration.processes import Balancer, ask_on, wait_until

SERVERS = 3000
# Read and swapped in one go it was half a second.  The rest is for a machine that does other things as well.
LONGEST_SECONDS = 0.15
TRIES = 10


class Handler(BaseHTTPRequestHandler):
    """A server of few words, which keeps its connections."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing to write."""


@pytest.fixture
def port() -> Iterator[int]:
    """That of a server on every address of the loopback network."""
    with ThreadingHTTPServer(("", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def text(port: int, count: int, weight: int = 1) -> str:
    """Servers of the whole loopback network, which are one; those that were there first stay."""
    places = (f"127.0.{number // 250}.{number % 250 + 1}" for number in range(count))
    lines = (f"- {{name: s{at}, url: 'http://{host}:{port}', weight: {weight}}}" for at, host in enumerate(places))
    return "\n".join(["servers:", *lines, ""])


class Asking(threading.Thread):
    """Asks again and again, and keeps the longest time that an answer took since `longest` was set to 0."""

    def __init__(self, balancer: Balancer, key: str) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self.statuses: set[int] = set()
        self.over = threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
        self._key = key

    def run(self) -> None:
        while not self.over.wait(0.004):
            began = time.monotonic()
            self.statuses.add(ask_on(self._connection, "GET", "/", key=self._key).status)
            self.longest = max(self.longest, time.monotonic() - began)
        self._connection.close()


def test_clients_do_not_wait(new_balancer: Start, port: int) -> None:
    """Thousands of servers come, and get other weights, without a client that waits for it, or an error."""
    balancer = new_balancer(text(port, 1)).start()
    asking = Asking(balancer, balancer.create_user("user1", capacity=1_000_000, rate=1_000_000))
    asking.start()
    longest = []
    for weight in range(1, TRIES + 1):
        asking.longest = 0.0
        (balancer.directory / "servers.yaml").write_text(text(port, SERVERS, weight))
        wait_until(lambda: balancer.log().count("was reloaded") == weight, what="the reload")
        longest.append(asking.longest)
        # Each of them may have met another program on the machine; all of them would not.
        if weight >= 3 and sorted(longest)[1] < LONGEST_SECONDS:
            break
    asking.over.set()
    asking.join()
    assert asking.statuses == {200}
    assert "health check" not in balancer.log() and "Traceback" not in balancer.log()
    assert sorted(longest)[1] < LONGEST_SECONDS, longest


def test_bad_file(new_balancer: Start, port: int) -> None:
    """What is wrong with a long file is told as with a short one, and a change that comes meanwhile is not missed."""
    balancer = new_balancer(text(port, 1)).start()
    file = balancer.directory / "servers.yaml"
    file.write_text(text(port, 300) + "- {name: s1, url: nonsense}\n")
    wait_until(lambda: "servers[300].name: 's1' is already the name of servers[1]" in balancer.log())
    assert "nothing changes" in balancer.log()
    file.write_text(text(port, 400))
    balancer.process.send_signal(1)
    file.write_text(text(port, 2))
    balancer.process.send_signal(1)
    wait_until(lambda: "added s1 " in balancer.log() or "removed s2" in balancer.log())
