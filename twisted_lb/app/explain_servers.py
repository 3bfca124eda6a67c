"""Which servers a request would be sent to, in which order, and why not to each other one: for GET /explain.

Balancers are asked by `peek` (see IPeeking), which changes nothing.  The question is plain values, so that a worker can
be asked it: each process has balancers, health and counts of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final

from twisted.logger import Logger
from zope.interface import implementer

from twisted_lb.api.status import shown_server
from twisted_lb.app.gateway import Gateway
from twisted_lb.backend import Backend
from twisted_lb.balancers.sticky import Sticky
from twisted_lb.bounded_log import BoundedLog, shown
from twisted_lb.interfaces import IPeeking, IRequest
from twisted_lb.pool.pool import Pool
from twisted_lb.wire.field_value import field_value
from twisted_lb.wire.head import HeadLimits, RequestHead, read_request_head

CANNOT_TELL: Final = "the balancer cannot tell its choices"
FAILED: Final = "the balancer's peek failed; see the log"
NO_SERVER: Final = "the balancer's peek is wrong: it yields what is not a server of the pool; see the log"

_log = BoundedLog(Logger())


@implementer(IRequest)
class ExplainedRequest:
    """A request that is not sent, as balancers see it."""

    content_length = 0

    def __init__(self, head: RequestHead, client: str, user: str) -> None:
        self.method = head.method
        self.target = head.target
        self.consumer = user.encode()
        self.client_address = client
        self._head = head

    def header(self, name: bytes) -> bytes | None:
        """See IRequest."""
        return field_value(self._head, name)


def question(head: RequestHead, client: str, user: str, pools: Sequence[str]) -> dict[str, Any]:
    """What `choices` is asked."""
    lines = [b"%b %b HTTP/1.1\r\nHost: %b%b" % (head.method, head.target, head.host, head.fields)]
    lines += [b"%b: %b" % (name, value) for name, values in head.notable.items() for value in values if name != b"host"]
    text = b"\r\n".join([*lines, b"", b""]).decode("latin-1")
    return {"head": text, "client": client, "user": user, "pools": list(pools)}


def choices(gateway: Gateway, asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By the names of the pools: `order`, names of servers, or None with the reason; and `why_not` of each server.

    `why_not` is None for the server to which the request would be sent.
    """
    head = read_request_head(asked["head"].encode("latin-1"), 0, HeadLimits())
    assert head is not None
    request = ExplainedRequest(head, asked["client"], asked["user"])
    return {name: _in_pool(gateway.pools[name].pool, request) for name in asked["pools"] if name in gateway.pools}


def _in_pool(pool: Pool, request: ExplainedRequest) -> dict[str, Any]:
    order, reason = _order(pool, request)
    first = next((one for one in order or () if not one.full), None)
    cookie = pool.balancer.server_of(request) if isinstance(pool.balancer, Sticky) else None
    return {
        "order": None if order is None else [backend.name for backend in order],
        "reason": reason,
        "why_not": {one.name: _why_not(one, first, cookie, reason) for one in pool.backends},
    }


def _order(pool: Pool, request: ExplainedRequest) -> tuple[list[Backend] | None, str]:
    """The choices, or None with the reason.  The balancer may be a custom class."""
    balancer: Any = pool.balancer
    if not IPeeking.providedBy(balancer):
        return None, CANNOT_TELL
    try:
        order = [*islice(balancer.peek(request), len(pool.backends))]
    except Exception:
        _log.failure("peek", "The balancer failed to tell its choices", balancer=type(balancer).__name__)
        return None, FAILED
    known = set(pool.backends)
    wrong = [one for one in order if not isinstance(one, Backend) or one not in known]
    if wrong:
        _log.error(
            "peek",
            "peek of the balancer {balancer} yields what is not a server of the pool: {found}",
            balancer=type(balancer).__name__,
            found=shown(wrong[0]),
        )
        return None, NO_SERVER
    return order, ""


def _why_not(backend: Backend, first: Backend | None, cookie: Backend | None, reason: str) -> str | None:
    if not backend.available:
        unavailable: str = shown_server(backend, "")["reason"]
        return unavailable
    if backend.full:
        return f"it is full: {backend.in_flight} of {backend.maxconn} requests are in flight"
    if reason:
        return reason
    if backend is first:
        return None
    if backend.backup and (first is None or not first.backup):
        return "it is a backup, for when no other server can be used"
    if cookie is not None and cookie is first:
        return f"the client's cookie leads to {cookie.name}"
    return f"{first.name} comes first" if first is not None else "all servers before it are full"
