"""The servers of one pool, and the balancer that chooses among them.

The fleet is the one list of servers.  Who keeps something for each of them (connections, health,
probes) subscribes, and hears which come and which go.

A change is applied as a whole, or not at all:

1. A server that is in the list as before (same name, host and port) stays the same object, with its
   exchanges, counters and health; what is asked of it (weight, maxconn, ...) is taken over.
2. The balancer is told of the new list.  When it fails, everything is as it was.
3. The subscribers hear of the new servers, and then of those that are gone.  These have no weight
   any more and are not chosen again; the exchanges that they have go on to their end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from twisted.logger import Logger

from twisted_lb.backend import Backend
from twisted_lb.bounded_log import BoundedLog, shown
from twisted_lb.fleet_spec import ServerSpec
from twisted_lb.interfaces import IBalancer, IRequest, IResponseFields
from twisted_lb.wire.fields import HOP_BY_HOP
from twisted_lb.wire.grammar import TRAILERS, field_splitter

# What a balancer may not say to clients: it frames the response, or speaks of the connection.
FRAMING_FIELDS = tuple(sorted(name.decode() for name in HOP_BY_HOP | {b"content-length", b"date", b"trailer"}))
FRAMING = field_splitter([name.encode() for name in FRAMING_FIELDS])

# What a change takes over into a server that stays.
ASKED = ("weight", "maxconn", "backup", "slowstart")
REMOVED = "removed"

_log = BoundedLog(Logger())


class BalancerRaised(Exception):
    """A balancer has raised what is no Exception; the text says what."""


class Observer(Protocol):
    """Who keeps something for each server.  Neither call may raise."""

    def backend_added(self, backend: Backend) -> None:
        """It may be chosen from now on."""

    def backend_removed(self, backend: Backend) -> None:
        """It is not chosen again; the exchanges that it has go on."""


class Change(NamedTuple):
    """What became different.  A server that moved to another address was removed, and added under its name."""

    added: tuple[Backend, ...]
    removed: tuple[Backend, ...]
    changed: tuple[tuple[Backend, str], ...]  # with words such as "weight 1 -> 2"
    reordered: bool  # those that stay


class Fleet:
    """Keeps the balancer told of the backends it may choose."""

    def __init__(self, balancer: IBalancer, backends: Sequence[Backend]) -> None:
        self.balancer = balancer
        self.backends = list(backends)
        self._leaving: list[Backend] = []
        self._observers: list[Observer] = []
        # Called after the balancer has been told, for who waits for a server.
        self.refreshed: list[Callable[[], None]] = []
        self.refresh()

    @property
    def leaving(self) -> list[Backend]:
        """The removed servers that still have exchanges."""
        self._leaving = [backend for backend in self._leaving if backend.in_flight]
        return list(self._leaving)

    def subscribe(self, observer: Observer) -> None:
        """From now on `observer` hears of servers that come and go; it has to look at `backends` first."""
        self._observers.append(observer)

    def refresh(self) -> None:
        """A backend's state or weight has changed."""
        _tell(self.balancer, self.backends)
        for hear in self.refreshed:
            hear()

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The backends for `request`, best first."""
        return self.balancer.choices(request)

    @property
    def balancer(self) -> IBalancer:
        return self._balancer

    @balancer.setter
    def balancer(self, balancer: IBalancer) -> None:
        self._balancer = balancer
        # Whether the balancer has something to say to the clients; most have not.
        self.speaks = IResponseFields.providedBy(balancer)

    def response_fields(self, request: IRequest, backend: Backend) -> bytes:
        """The header lines that the balancer adds to this response; only where it `speaks`.

        What is not well-formed, or is for this gateway to say, is logged and left out: it would break the framing.
        """
        try:
            fields: object = self._balancer.response_fields(request, backend)  # type: ignore[attr-defined]
        except BaseException:
            # A balancer may be anybody's class.
            _log.failure("fields", "The balancer failed to say what to tell the client")
            return b""
        if type(fields) is bytes and (not fields or (TRAILERS.fullmatch(fields) and not FRAMING.search(fields))):
            return fields
        _log.error(
            "wrong fields",
            "The balancer's response_fields returned {fields}, which is left out; expected bytes of field lines, each"
            " with CRLF before it, and none of {framing}",
            fields=shown(fields),
            framing=", ".join(FRAMING_FIELDS),
        )
        return b""

    def change(self, balancer: IBalancer, wanted: Sequence[ServerSpec]) -> Change:
        """Have these servers, and this balancer, which may be the one that is there.

        Raises what the balancer raises when it cannot take the servers; then nothing has changed.
        """
        here = {place(backend): backend for backend in self.backends}
        before = [(backend, asked_of(backend)) for backend in self.backends]
        backends = [_taken_over(here[place(one)], one) if place(one) in here else made(one) for one in wanted]
        try:
            _tell(balancer, backends)
        except Exception:
            for backend, values in before:
                for name, value in zip(ASKED, values):
                    setattr(backend, name, value)
            # When it is the same balancer, it may have taken half of the change.
            self.refresh()
            raise
        stay = set(backends)
        change = Change(
            tuple(backend for backend in backends if place(backend) not in here),
            tuple(backend for backend in self.backends if backend not in stay),
            tuple((one, _difference(one, values)) for one, values in before if one in stay and asked_of(one) != values),
            [one for one in backends if place(one) in here] != [one for one in self.backends if one in stay],
        )
        self.balancer = balancer
        self.backends = backends
        self._announce(change)
        return change

    def _announce(self, change: Change) -> None:
        for backend in change.added:
            for observer in self._observers:
                observer.backend_added(backend)
        for backend in change.removed:
            backend.weight = 0
            backend.reason = REMOVED
            self._leaving.append(backend)
            for observer in self._observers:
                observer.backend_removed(backend)
        for hear in self.refreshed:
            hear()


def _tell(balancer: IBalancer, backends: Sequence[Backend]) -> None:
    """Raises what the balancer raises, as an Exception: SystemExit would end the reactor."""
    try:
        balancer.backends_changed(choosable(backends))
    except Exception:
        raise
    except BaseException as error:
        raise BalancerRaised(f"{type(error).__name__}: {error}") from error


def choosable(backends: Sequence[Backend]) -> list[Backend]:
    """What a balancer is told of."""
    return [backend for backend in backends if backend.available]


def made(wanted: ServerSpec) -> Backend:
    """A new backend, as a configuration asks for it."""
    return Backend(wanted.name, wanted.host, wanted.port, *asked_of(wanted))


def place(server: ServerSpec | Backend) -> tuple[str, str, int]:
    """What makes it the same server as before."""
    return server.name, server.host, server.port


def asked_of(server: ServerSpec | Backend) -> tuple[int, int, bool, float]:
    """The values of ASKED."""
    return server.weight, server.maxconn, server.backup, server.slowstart


def _taken_over(backend: Backend, wanted: ServerSpec) -> Backend:
    for name, value in zip(ASKED, asked_of(wanted)):
        setattr(backend, name, value)
    return backend


def _difference(backend: Backend, before: tuple[int, int, bool, float]) -> str:
    pairs = zip(ASKED, before, asked_of(backend))
    return ", ".join(f"{name} {_shown(was)} -> {_shown(now)}" for name, was, now in pairs if was != now)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
