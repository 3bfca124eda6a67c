"""A client that is still sending reads its refusal, whatever it sends, and however much of it."""

from __future__ import annotations

import http.client
import socket
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, wait_until

UPLOADS = 20
BODY = b"x" * 20_000_000


@pytest.fixture
def balancer(servers: Servers, new_balancer: Start) -> Balancer:
    limits = {"MAX_BODY_BYTES": "19m", "MAX_CONNECTIONS": "8", "MAX_CONNECTIONS_PER_ADDRESS": "0"}
    return new_balancer(servers.yaml(), environment=limits).start()


def upload(port: int, fields: dict[str, str], body: bytes = BODY, path: str = "/") -> int:
    """POST all of a body, and only then read the answer, as http.client does; its status, or 0 when it was lost."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, fields)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_refusals_of_large_uploads(balancer: Balancer) -> None:
    """401, 413, 429, and 413 of the user API and of the admin listener reach clients that send 20 MB."""
    rich = {"Authorization": balancer.create_user("rich", 1000)}
    spent = {"Authorization": balancer.create_user("poor", 1, 0)}
    assert upload(balancer.port, spent, b"") == 200
    allowed = BODY[:19_000_000]
    for port, fields, path, body, expected in [
        (balancer.port, {}, "/", allowed, 401),
        (balancer.port, rich, "/", BODY, 413),
        (balancer.port, spent, "/", allowed, 429),
        (balancer.port, {}, "/user/create", allowed, 413),
        (balancer.admin_port, {}, "/users", BODY, 413),
    ]:
        statuses = Counter(upload(port, fields, body, path) for _ in range(UPLOADS))
        assert statuses == {expected: UPLOADS}, path


@pytest.mark.parametrize("size", [0, 1000, 20_000_000])
def test_no_room(balancer: Balancer, servers: Servers, size: int) -> None:
    """The 503 of MAX_CONNECTIONS reaches each client, whatever it had sent by then."""
    key = balancer.create_user("busy", 100)
    servers.hold()
    with ExitStack() as stack:
        for _ in range(8):
            busy = stack.enter_context(socket.create_connection(("127.0.0.1", balancer.port)))
            busy.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\nAuthorization: %b\r\n\r\n" % key.encode())
        wait_until(lambda: len(servers.paths()) == 8, what="all connections are busy")
        statuses = Counter(upload(balancer.port, {}, b"x" * size) for _ in range(UPLOADS))
    assert statuses == {503: UPLOADS}
