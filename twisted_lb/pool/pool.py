"""The servers of one pool, and the balancer that chooses among them.

The pool is the only list of servers.  Components with state for each server (connections, health,
checks) are observers, and are notified of servers that are added and removed.

A change is applied as a whole, or not at all:

1. A server that is in the list as before (same name, host and port) stays the same object, with its
   exchanges, counters and health; its settings (weight, maxconn, tls, ...) are updated.
2. The balancer gets the new list.  When it raises, everything is as it was.
3. The observers are notified of the new servers, and then of the removed ones.  These have weight 0
   and are not chosen again; their exchanges go on to their end.

With thousands of servers this takes some time: it is done in steps, of which 2 is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from twisted.logger import Logger

from twisted_lb.backend import Backend, place_of
from twisted_lb.bounded_log import BoundedLog, described, shown
from twisted_lb.config.pool import READY, ServerSpec, ServerTls
from twisted_lb.interfaces import IBalancer, IPreparing, IRequest, IResponse, IResponseFields
from twisted_lb.steps import STEP, Steps, chunks, finish
from twisted_lb.wire.fields import HOP_BY_HOP
from twisted_lb.wire.grammar import TRAILERS, field_splitter

# Fields that a balancer must not add to a response: those of its framing and of the connection.
FRAMING_FIELDS: Final = tuple(sorted(name.decode() for name in HOP_BY_HOP | {b"content-length", b"date", b"trailer"}))
FRAMING: Final = field_splitter([name.encode() for name in FRAMING_FIELDS])

# The settings that a change updates in a server that stays.
ASKED: Final = ("weight", "maxconn", "backup", "slowstart", "send_proxy", "tls", "authority", "admin_state")
_Asked = tuple[int, int, bool, float, int, ServerTls | None, bytes, str]
_TLS: Final = 5  # the index of `tls`
REMOVED: Final = "removed"
PREPARATIONS: Final = 4  # attempts, while servers go on changing

_log = BoundedLog(Logger(__name__))


class BalancerRaised(Exception):
    """A balancer has raised a BaseException that is not an Exception; the text describes it."""


class Observer(Protocol):
    """A component with state for each server.  No method may raise."""

    def backend_added(self, backend: Backend) -> None:
        """A server was added.  It may have been chosen already: of many servers, some are announced a little later."""

    def backend_removed(self, backend: Backend) -> None:
        """A server was removed.  It is not chosen again; its exchanges go on."""

    def tls_changed(self, backend: Backend) -> None:
        """The settings for TLS of a server, or the contents of their files, have changed."""


class Change(NamedTuple):
    """A change that was applied.  A server with a new address counts as removed, and as added under its name."""

    added: tuple[Backend, ...]
    removed: tuple[Backend, ...]
    changed: tuple[tuple[Backend, str], ...]  # with a text such as "weight 1 -> 2"
    reordered: bool  # the servers that stay


class Pool:
    """The servers of a pool, and their balancer, which is notified of each change."""

    def __init__(self, balancer: IBalancer, backends: Sequence[Backend]) -> None:
        self.balancer = balancer
        self.backends = list(backends)
        self._leaving: list[Backend] = []
        self._observers: list[Observer] = []
        # Called after the balancer was notified, for requests that wait for a server.
        self.refreshed: list[Callable[[], None]] = []
        self.refresh()

    @property
    def leaving(self) -> list[Backend]:
        """The removed servers that still have exchanges."""
        self._leaving = [backend for backend in self._leaving if backend.in_flight]
        return list(self._leaving)

    def subscribe(self, observer: Observer) -> None:
        """Notify `observer` of servers that are added and removed from now on; it has to read `backends` first."""
        self._observers.append(observer)

    def refresh(self) -> None:
        """Notify the balancer: the state or weight of a backend has changed."""
        _tell(self.balancer, self.backends)
        for hear in self.refreshed:
            hear()

    def refresh_in_steps(self) -> Steps[None]:
        """The same in steps: an IPreparing balancer prepares first, and again for what changes meanwhile."""
        prepared: dict[Backend, float] = {}
        for _ in range(PREPARATIONS if IPreparing.providedBy(self.balancer) else 0):
            weights = {one: one.effective_weight for one in choosable(self.backends)}
            if len(weights.items() ^ prepared.items()) < STEP:
                break
            yield from _prepare(self.balancer, weights)
            prepared = weights
        self.refresh()

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The backends for `request`, best first."""
        return self.balancer.choices(request)

    @property
    def balancer(self) -> IBalancer:
        return self._balancer

    @balancer.setter
    def balancer(self, balancer: IBalancer) -> None:
        self._balancer = balancer
        # Whether it has the optional methods, see `interfaces.OPTIONAL_METHODS`; most have none.
        self.hears_of_choices = callable(getattr(balancer, "server_chosen", None))
        self.hears_of_responses = callable(getattr(balancer, "response_started", None))
        # Whether the balancer adds fields to responses; most do not.
        self.adds_response_fields = IResponseFields.providedBy(balancer)
        # Whether it wants to know when a request is over; see `IBalancer.request_finished`.
        self.hears_of_ends = callable(getattr(balancer, "request_finished", None))

    def request_finished(self, request: IRequest, backend: Backend) -> None:
        """Notify the balancer that `backend` no longer has `request`; only when `hears_of_ends`."""
        try:
            self._balancer.request_finished(request, backend)  # type: ignore[attr-defined]
        except BaseException:
            self._method_failed("request_finished", backend)

    def response_fields(self, request: IRequest, backend: Backend) -> bytes:
        """The lines of the fields that the balancer adds to this response; only when `adds_response_fields`.

        If one is malformed, or one of FRAMING_FIELDS, which would break the framing, that is logged, and none is added.
        """
        fields: Any = None
        try:
            fields = self._balancer.response_fields(request, backend)  # type: ignore[attr-defined]
            lines = field_lines(fields)
        except BaseException:
            # A balancer may be a class of the user's own.
            _log.failure(
                "fields",
                "The balancer's response_fields failed; the response has no fields of the balancer",
                balancer=type(self._balancer).__name__,
                server=backend.name,
            )
            return b""
        if lines is not None:
            return lines
        _log.error(
            "wrong fields",
            "The balancer's response_fields returned {fields}, which is left out; expected pairs of bytes, the name and"
            " value of each field, and none of {framing}",
            fields=shown(fields),
            framing=", ".join(FRAMING_FIELDS),
            balancer=type(self._balancer).__name__,
            server=backend.name,
        )
        return b""

    def server_chosen(self, request: IRequest, backend: Backend) -> None:
        """Notify the balancer that the request goes to `backend`; only when `hears_of_choices`."""
        try:
            self._balancer.server_chosen(request, backend)  # type: ignore[attr-defined]
        except BaseException:
            self._method_failed("server_chosen", backend)

    def response_started(self, request: IRequest, backend: Backend, response: IResponse) -> None:
        """Notify the balancer that `backend` has begun to respond; only when `hears_of_responses`."""
        try:
            self._balancer.response_started(request, backend, response)  # type: ignore[attr-defined]
        except BaseException:
            self._method_failed("response_started", backend)

    def _method_failed(self, name: str, backend: Backend) -> None:
        """Log the exception that is being handled: a balancer may be a class of the user's own."""
        _log.failure(
            name,
            "The balancer's {method} failed; the request is not affected",
            method=name,
            balancer=type(self._balancer).__name__,
            server=backend.name,
        )

    def change(self, balancer: IBalancer, wanted: Sequence[ServerSpec]) -> Change:
        """Use these servers, and this balancer, which may be the current one.

        Raises what the balancer raises when it does not accept the servers; then nothing has changed.
        """
        return finish(self.change_in_steps(balancer, wanted))

    def change_in_steps(self, balancer: IBalancer, wanted: Sequence[ServerSpec]) -> Steps[Change]:
        """The same in steps; a second change must not begin before the first has ended.

        Servers and balancer change together, in one of the steps.
        """
        here: dict[tuple[str, str, int], Backend] = {}
        for some in chunks(self.backends):
            here.update({place(backend): backend for backend in some})
            yield
        backends: list[Backend] = []
        added: list[Backend] = []
        differing: list[tuple[Backend, _Asked, _Asked]] = []
        for few in chunks(wanted):
            for one in few:
                backend = here.get(place(one))
                if backend is None:
                    backend = made(one)
                    added.append(backend)
                elif (before := asked_of(backend)) != (asked := asked_of(one)):
                    differing.append((backend, before, asked))
                backends.append(backend)
            yield
        stay = set(backends)
        removed = [backend for backend in self.backends if backend not in stay]
        new = set(added)
        kept = [backend for backend in backends if backend not in new]
        reordered = kept != [backend for backend in self.backends if backend in stay]
        yield
        other = {backend: (asked[0], asked[-1]) for backend, _, asked in differing}
        asked_of_all = ((one, other.get(one, (one.weight, one.admin_state))) for one in backends if one.up)
        weights = {one: weight * one.ramp for one, (weight, state) in asked_of_all if weight and state == READY}
        yield from _prepare(balancer, weights)
        self._take_over(balancer, backends, differing, removed)
        yield
        for hear in self.refreshed:
            hear()
        other_tls = [backend for backend, before, now in differing if before[_TLS] != now[_TLS]]
        yield from self._announce(added, removed, other_tls)
        changed = tuple((backend, _difference(before, now)) for backend, before, now in differing)
        return Change(tuple(added), tuple(removed), changed, reordered)

    def _take_over(
        self,
        balancer: IBalancer,
        backends: list[Backend],
        differing: Sequence[tuple[Backend, _Asked, _Asked]],
        removed: Sequence[Backend],
    ) -> None:
        """Apply the change; when this raises, nothing has changed."""
        for backend, _, asked in differing:
            _ask(backend, asked)
        try:
            _tell(balancer, backends)
        except Exception:
            for backend, before, _ in differing:
                _ask(backend, before)
            # If it is the same balancer, it may have applied half of the change.
            self.refresh()
            raise
        self.balancer = balancer
        self.backends = backends
        # Servers of earlier changes that have no exchanges left are dropped here.
        self._leaving = [*self.leaving, *removed]
        for backend in removed:
            backend.weight = 0
            backend.reason = REMOVED

    def _announce(
        self, added: Sequence[Backend], removed: Sequence[Backend], other_tls: Sequence[Backend]
    ) -> Iterator[None]:
        for some in chunks(added):
            for backend in some:
                for observer in self._observers:
                    observer.backend_added(backend)
            yield
        for some in chunks(removed):
            for backend in some:
                for observer in self._observers:
                    observer.backend_removed(backend)
            yield
        for some in chunks(other_tls):
            for backend in some:
                for observer in self._observers:
                    observer.tls_changed(backend)
            yield


def field_lines(fields: Any) -> bytes | None:
    """The lines of fields that a plug-in has returned, each with a CRLF before it; None where they cannot be used.

    Raises what the plug-in's objects raise.
    """
    if not isinstance(fields, (list, tuple)):
        return None
    lines = b""
    for field in fields:
        if not isinstance(field, (list, tuple)) or len(field) != 2:
            return None
        name, value = field
        if type(name) is not bytes or type(value) is not bytes or b"\r" in value or b":" in name:
            return None
        lines += b"\r\n%b: %b" % (name, value)
    return lines if TRAILERS.fullmatch(lines) and not FRAMING.search(lines) else None


def _tell(balancer: IBalancer, backends: Sequence[Backend]) -> None:
    """Notify the balancer.  Raises what it raises, as an Exception: SystemExit would end the reactor."""
    try:
        balancer.backends_changed(choosable(backends))
    except Exception:
        raise
    except BaseException as error:
        raise BalancerRaised(described(error)) from error


def _prepare(balancer: IBalancer, weights: Mapping[Backend, float]) -> Iterator[None]:
    if IPreparing.providedBy(balancer):
        yield from balancer.prepare(weights)


def choosable(backends: Sequence[Backend]) -> list[Backend]:
    """The servers that a balancer may choose."""
    return [backend for backend in backends if backend.available]


def made(wanted: ServerSpec) -> Backend:
    """A new backend with the settings of a configuration."""
    return Backend(wanted.name, wanted.host, wanted.port, *asked_of(wanted))


def place(server: ServerSpec | Backend) -> tuple[str, str, int]:
    """The identity of a server across changes of the configuration."""
    return server.name, server.host, server.port


def asked_of(server: ServerSpec | Backend) -> _Asked:
    """The values of ASKED."""
    if isinstance(server, Backend):
        authority = server.authority
    else:
        authority = (server.authority or place_of(server.host, server.port)).encode()
    limits = server.weight, server.maxconn, server.backup, server.slowstart
    return (*limits, server.send_proxy, server.tls, authority, server.admin_state)


def _ask(backend: Backend, asked: _Asked) -> None:
    weight, maxconn, backup, slowstart, send_proxy, tls, authority, admin_state = asked
    backend.weight, backend.maxconn, backend.backup, backend.slowstart = weight, maxconn, backup, slowstart
    backend.send_proxy, backend.tls, backend.authority, backend.admin_state = send_proxy, tls, authority, admin_state


def _difference(before: Sequence[object], now: Sequence[object]) -> str:
    pairs = zip(ASKED, before, now)
    return ", ".join(_changed(name, one, other) for name, one, other in pairs if one != other)


def _changed(name: str, before: object, now: object) -> str:
    # The settings for TLS are long, and include the contents of files.
    return name if name == "tls" else f"{name} {_shown(before)} -> {_shown(now)}"


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return str(value).lower() if isinstance(value, (bool, str)) else f"{value:g}"
