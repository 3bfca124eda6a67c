"""Hash: requests of one key go to one server, and bounded load keeps a popular key from overloading it.

1. The key is the user, the client's address, a header, a cookie or the path; a request without that
   header or cookie is hashed by its user.  `hash_ring` maps the key to its server.
2. When that server has more than `bound` times its fair share of all exchanges in flight, or is full, the
   next server on the ring is taken.  Up to SPARE exchanges are always allowed: in a pool with little traffic
   the fair share is so small that two requests at once would go to different servers.
3. When a server is removed, its keys, about 1/n of all, move to the servers after its points; others stay.

The exchanges in flight are summed by a sweep: each choice reads SWEEP servers in turn, so that the
sum is out of date by what changed in n / SWEEP choices.
O(SWEEP + log points) per choice, and a few steps on the ring where servers are overloaded; O(points) when
servers change.
Source: V. Mirrokni et al., Consistent Hashing with Bounded Loads, 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.balancers.hash_ring import HashRing
from twisted_lb.balancers.options import OptionError, number, token, word
from twisted_lb.interfaces import IBalancer, IPeeking, IPreparing, IRequest

SWEEP = 4
SPARE = 4
DEFAULT_BOUND = 1.25
# After this many overloaded servers, the key's own server is taken although it is overloaded.
MOST_PASSED_OVER = 64

_Key = Callable[[IRequest], bytes]


@implementer(IBalancer, IPeeking, IPreparing)
class ConsistentHash:
    """One server for one key.

    `by` is consumer, address, header, cookie or path; `header` and `cookie` are the name for by: header and by:
    cookie; `bound` is how many times its fair share a server may have in flight.
    """

    def __init__(
        self, by: object = "consumer", header: object = None, cookie: object = None, bound: object = DEFAULT_BOUND
    ) -> None:
        self._by = word("by", by, ("consumer", "address", "header", "cookie", "path"))
        self._bound = number("bound", bound, 1.01, 100, "a number")
        for option, given in (("header", header), ("cookie", cookie)):
            if given is not None and option != by:
                raise OptionError(option, f"this option only with by: {option}", given)
        if by == "header":
            name = token("header", header, "the name of a header").encode()
            self._key = header_key(name)
        elif by == "cookie":
            name = token("cookie", cookie, "the name of a cookie").encode()
            self._key = cookie_key(name)
        else:
            self._key = {"consumer": consumer_key, "address": address_key, "path": path_key}[self._by]
        self._ring = HashRing()
        self._prepared: HashRing | None = None
        self._before: HashRing | None = None  # replaced by the prepared one, and freed by the next `prepare`
        self._backends: list[Backend] = []
        self._shares: dict[Backend, float] = {}  # the maximum share of all exchanges in flight
        self._seen: list[int] = []  # what each has in flight, as last seen
        self._total = 0  # their sum
        self._next = 0  # where the sweep continues

    def backends_changed(self, backends: list[Backend]) -> None:
        """From now on choose among these."""
        if self._prepared is not None:
            self._before, self._ring, self._prepared = self._ring, self._prepared, None
        self._ring.change(backends)
        self._backends = backends
        total = sum(backend.effective_weight for backend in backends)
        self._shares = {backend: self._bound * backend.effective_weight / total for backend in backends}
        self._seen = [backend.in_flight for backend in backends]
        self._total = sum(self._seen)
        self._next = 0

    def prepare(self, weights: Mapping[Backend, float]) -> Iterator[None]:
        """See IPreparing: makes another ring."""
        # Freeing a large ring takes time, too.
        self._before = None
        yield
        self._prepared = yield from (self._prepared or self._ring).changed(weights)

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The key's server, then those after it on the ring; overloaded ones come last."""
        if self._backends:
            self._sweep()
        return self.peek(request)

    def peek(self, request: IRequest) -> Iterator[Backend]:
        """See IPeeking."""
        ring = self._ring
        points = ring.points
        if not points:
            return
        start = ring.index(self._key(request))
        own = ring.owners[points[start]]
        if not self._overloaded(own):
            yield own
            passed_over = []
        else:
            passed_over = [own]
        count = len(self._backends)
        seen = {own}
        for index in chain(range(start + 1, len(points)), range(start)):
            if len(seen) == count:
                break
            backend = ring.owners.get(points[index])
            if backend is None or backend in seen:
                continue
            seen.add(backend)
            if len(passed_over) < MOST_PASSED_OVER and self._overloaded(backend):
                passed_over.append(backend)
                continue
            if len(passed_over) == MOST_PASSED_OVER:
                yield from passed_over
                passed_over = []
            yield backend
        yield from passed_over

    def _overloaded(self, backend: Backend) -> bool:
        in_flight = backend.in_flight
        if in_flight < SPARE:
            return 0 < backend.maxconn <= in_flight
        return in_flight >= self._shares.get(backend, 0) * (self._total + 1) or backend.full

    def _sweep(self) -> None:
        seen = self._seen
        index = self._next
        for backend in self._backends[index : index + SWEEP]:
            in_flight = backend.in_flight
            if in_flight != seen[index]:
                self._total += in_flight - seen[index]
                seen[index] = in_flight
            index += 1
        self._next = index if index < len(seen) else 0

    def __repr__(self) -> str:
        return f"<ConsistentHash by {self._by} among {[backend.name for backend in self._backends]}>"


def consumer_key(request: IRequest) -> bytes:
    """The user's name."""
    consumer: bytes = request.consumer
    return consumer


def address_key(request: IRequest) -> bytes:
    """The client's IP address."""
    address: str = request.client_address
    return address.encode()


def path_key(request: IRequest) -> bytes:
    """The target up to the query."""
    target: bytes = request.target
    return target.partition(b"?")[0]


def header_key(name: bytes) -> _Key:
    """The value of the header `name`."""

    def key(request: IRequest) -> bytes:
        return request.header(name) or consumer_key(request)

    return key


def cookie_key(name: bytes) -> _Key:
    """The value of the cookie `name`."""

    def key(request: IRequest) -> bytes:
        return cookie_value(request, name) or consumer_key(request)

    return key


def cookie_value(request: IRequest, name: bytes) -> bytes | None:
    """The value of the first cookie of this name (RFC 6265 section 4.2.1), or None."""
    for pair in (request.header(b"cookie") or b"").split(b";"):
        found, _, value = pair.partition(b"=")
        if found.strip(b" \t") == name:
            return value.strip(b" \t")
    return None
