"""How long it takes to find the route of a request, and to make the table, with 1 to 5,000 routes.

    bench/routes.py

Times are those of this process and of this machine; what counts is that they do not grow with the number of routes.
"""

from __future__ import annotations

import sys
import timeit
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from twisted_lb.routing.match import Match  # noqa: E402
from twisted_lb.routing.readings import certain_route  # noqa: E402
from twisted_lb.routing.table import RouteTable  # noqa: E402
from twisted_lb.wire.head import HeadLimits, read_request_head  # noqa: E402

ROUNDS = 20_000
COUNTS = (1, 100, 5000)


def routes(count: int) -> list[tuple[Match, int]]:
    """Ten paths of each host, and a route for any host."""
    made = [(Match(b"h%d.example.com" % (n // 10), b"/v1/p%d/" % (n % 10)), n) for n in range(count - 1)]
    return [*made, (Match(b"", b""), count - 1)]


def tenants(count: int) -> list[tuple[Match, int]]:
    """Told apart by the value of a field."""
    return [*((Match(headers=((b"x-tenant", b"%d" % n),)), n) for n in range(count - 1)), (Match(), count - 1)]


def main() -> None:
    """Print two lines for each number of routes."""
    of_paths = {
        "a route of its host": b"GET /v1/p7/users/42?page=2 HTTP/1.1\r\nHost: h3.example.com:8443\r\n\r\n",
        "the last resort": b"GET /a/b/c/d/e?page=2 HTTP/1.1\r\nHost: other.example.com\r\n\r\n",
        "an unusual path": b"GET /v1/../v1//p7/%7euser HTTP/1.1\r\nHost: H3.example.com\r\n\r\n",
    }
    of_fields = {
        "a tenant": b"GET /v1/x HTTP/1.1\r\nHost: a.example.com\r\nAccept: */*\r\nX-Tenant: 37\r\n\r\n",
        "no tenant": b"GET /v1/x HTTP/1.1\r\nHost: a.example.com\r\nAccept: */*\r\n\r\n",
    }
    for count in COUNTS:
        measure(routes(count), of_paths)
        measure(tenants(count), of_fields)


def measure(made: list[tuple[Match, int]], heads: dict[str, bytes]) -> None:
    """Print how long it takes to find routes for these heads, and to make the table."""
    seconds = min(timeit.repeat(lambda: RouteTable(made), number=1, repeat=5))
    table = RouteTable(made)
    found = []
    for name, data in heads.items():
        head = read_request_head(data, 0, HeadLimits())
        assert head is not None
        each = min(timeit.repeat(lambda: certain_route(table, head), number=ROUNDS, repeat=5)) / ROUNDS
        found.append(f"{name} {each * 1e6:5.2f} us")
    print(f"{len(made):5d} routes: table {seconds * 1e3:6.2f} ms; {'; '.join(found)}")


if __name__ == "__main__":
    main()
