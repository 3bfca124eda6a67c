"""The health of all servers together: what may follow from the failures of one.

Checks and requests report here.  A report changes one server's state, and then, before anybody is
told, the safety rails are looked at:

1. An ejection (the requests' verdict) is not carried out when the server is the last healthy one, or
   when as many as may be are ejected already.  The checks' verdict always holds.
2. Panic: when too small a share of the servers is healthy, all of them are used, because the few
   would break down under the load of all, and because checks can be wrong.  Backups are judged by
   themselves, and only while no other server is healthy.

Nobody is ever ejected for being slow: only a request without a whole response head counts, and,
where it is so configured, a response that says that the server has failed.

This is the only place that writes `up`, `reason` and `ramp` of a Backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted_lb.backend import Backend
from twisted_lb.fleet_spec import Ejection, HealthCheck
from twisted_lb.health.server import ServerHealth

# These say that a request is beyond the server, and not that the server has failed.
ABOUT_THE_REQUEST = frozenset((501, 505))

News = tuple[Backend | None, str]


class _Tier:
    """The servers, or the backups: how many there are, and how many of them are healthy."""

    __slots__ = ("total", "healthy", "panic")

    def __init__(self) -> None:
        self.total = 0
        self.healthy = 0
        self.panic = False


class Health:
    """Time is in seconds on any clock that does not go back by much; all calls use the same clock."""

    def __init__(
        self, ejection: Ejection, panic_threshold: float, changed: Callable[[Backend | None, str], None]
    ) -> None:
        """`changed` is told of each change of state, once, after all of it has been written.

        Its text is a sentence for the log.  The backend is None when it is about all of them.  A
        balancer has to be told of the change as well.
        """
        self._ejection = ejection
        self._panic_threshold = panic_threshold
        self._changed = changed
        self._servers: dict[Backend, ServerHealth] = {}
        self._begun = False
        self._tiers = {False: _Tier(), True: _Tier()}  # by Backend.backup
        # Those in transition; all others cost nothing.
        self._troubled: dict[Backend, ServerHealth] = {}  # failed in the window, or on probation
        self._ejected: dict[Backend, ServerHealth] = {}
        self._ramping: dict[Backend, ServerHealth] = {}

    # The fleet

    def configure(self, ejection: Ejection, panic_threshold: float) -> None:
        """Other rules from now on; `follow` has to be called next."""
        if ejection.window != self._ejection.window:
            for server in self._servers.values():
                server.forget_requests(ejection.window)
        self._ejection = ejection
        self._panic_threshold = panic_threshold

    def follow(self, servers: Iterable[tuple[Backend, HealthCheck | None]], now: float) -> None:
        """These are the servers and their checks, and their weights may have changed.

        A server that is here already keeps its state.  The first servers of all have their whole
        weight; those that come later start slowly.
        """
        before, self._servers = self._servers, {}
        news: list[News] = []
        for backend, check in servers:
            server = before.pop(backend, None)
            if server is None:
                server = ServerHealth(backend, check, self._ejection)
                if self._begun and server.start_ramp(now):
                    self._ramping[backend] = server
            elif server.use_check(check):
                server.reason = "up: it is not checked any more"
                news.append((backend, f"server {backend.name} is {server.reason}"))
            self._servers[backend] = server
        self._begun = True
        for backend in before:
            for those in (self._troubled, self._ejected, self._ramping):
                those.pop(backend, None)
        self._count()
        self._tell(news, now)

    def _count(self) -> None:
        for tier in self._tiers.values():
            tier.total = tier.healthy = 0
        for server in self._servers.values():
            server.counted = server.backend.weight > 0
            if server.counted:
                tier = self._tiers[server.backend.backup]
                tier.total += 1
                tier.healthy += server.healthy

    def check_of(self, backend: Backend) -> HealthCheck | None:
        """How it is checked; None: not at all, or there is no such server."""
        server = self._servers.get(backend)
        return server.check if server else None

    # Checks

    def probe_passed(self, backend: Backend, now: float) -> None:
        """A check passed."""
        server = self._servers.get(backend)
        if server is None or server.check is None:
            return
        was = server.healthy
        if server.check_passed():
            passes = _times(server.check.passes, "check")
            if server.ejected_until is None:
                self._settle(server, was, "up", f"{passes} passed", now)
            else:
                self._settle(server, was, "still ejected", f"{passes} passed, but its requests had failed", now)

    def probe_failed(self, backend: Backend, now: float, why: str) -> None:
        """A check failed; `why` in words, such as "connection refused"."""
        server = self._servers.get(backend)
        if server is None or server.check is None:
            return
        was = server.healthy
        if server.check_failed():
            checks = "its first check" if server.never_passed else _times(server.check.fails, "check")
            self._settle(server, was, "down", f"{checks} failed: {why}", now)

    # Requests

    def seen(self, backend: Backend, ok: bool, now: float, why: str = "") -> None:
        """An exchange: a whole response head came (`ok`), or it did not and `why` tells in words.

        Not for a client that left, and not for a kept connection that the server had closed.
        """
        if not ok:
            self._failed(backend, False, now, why)
        elif backend in self._troubled:
            self._passed(backend, now)

    def answered(self, backend: Backend, status: int, now: float) -> None:
        """A whole response head of this final status came."""
        if status >= 500 and self._ejection.server_errors and status not in ABOUT_THE_REQUEST:
            self._failed(backend, True, now, f"status {status}")
        elif backend in self._troubled:
            self._passed(backend, now)

    def _passed(self, backend: Backend, now: float) -> None:
        server = self._troubled[backend]
        if server.request_passed(now):
            del self._troubled[backend]
            if server.spared:
                server.spared = False
                server.reason = backend.reason = "up: its requests pass again"

    def _failed(self, backend: Backend, answered: bool, now: float, why: str) -> None:
        server = self._servers.get(backend)
        # What was under way when it was taken out of use says nothing new.
        if server is None or not server.healthy or not server.counted:
            return
        server.request_failed(answered, now)
        self._troubled[backend] = server
        reason = server.why_eject(self._ejection, why)
        if reason is None:
            return
        rail = self._rail()
        if rail is None:
            server.eject(self._ejection, now)
            del self._troubled[backend]
            self._ejected[backend] = server
            self._settle(server, True, f"ejected for {server.ejection_seconds:g} s", reason, now)
        elif not server.spared:
            server.spared = True
            server.reason = backend.reason = f"used although {reason}; {rail}"
            self._changed(backend, f"server {backend.name} is {server.reason}")

    def _rail(self) -> str | None:
        """Why no server may be ejected now, if that is so."""
        total = sum(tier.total for tier in self._tiers.values())
        if sum(tier.healthy for tier in self._tiers.values()) <= 1:
            return "the last healthy server is never ejected"
        share = self._ejection.max_share
        # The margin is for products such as 0.29 * 100.
        allowed = max(int(share * total + 1e-9), 1) if share else 0
        ejected = sum(server.counted for server in self._ejected.values())
        if ejected >= allowed:
            return f"{ejected} of {total} servers are ejected already, and no more may be"
        return None

    # Time

    def tick(self, now: float) -> bool:
        """To be called some times a second: ends ejections, moves slow starts.

        Whether a balancer has to be told of other weights (of all else `changed` has been told).
        """
        for server in list(self._ejected.values()):
            if server.ejected_until is not None and server.ejected_until <= now:
                self._return(server, now)
        moved = False
        for server in list(self._ramping.values()):
            moved |= server.move_ramp(now)
            if not server.ramping:
                del self._ramping[server.backend]
        return moved

    def _return(self, server: ServerHealth, now: float) -> None:
        was = server.healthy
        server.end_ejection(now)
        del self._ejected[server.backend]
        self._troubled[server.backend] = server
        over = f"its ejection of {server.ejection_seconds:g} s is over"
        if server.checked_up:
            self._settle(server, was, "up", over, now)
        else:
            self._settle(server, was, "down", f"{over}, but its checks fail", now)

    # What follows

    def _settle(self, server: ServerHealth, was_healthy: bool, state: str, why: str, now: float) -> None:
        """A server's state has changed."""
        backend = server.backend
        if server.counted:
            self._tiers[backend.backup].healthy += server.healthy - was_healthy
        server.reason = f"{state}: {why}"
        text = f"server {backend.name} is {server.reason}"
        # In panic it was used all along, and is warm.
        if server.healthy and not backend.up and server.start_ramp(now):
            self._ramping[backend] = server
            text += f"; slow start of {backend.slowstart:g} s"
        self._tell([(backend, text)], now)

    def _tell(self, news: list[News], now: float) -> None:
        """Write down what follows for `up`, and tell."""
        writing = [self._servers[backend] for backend, _ in news if backend is not None]
        for backups, tier in self._tiers.items():
            panic = self._wants_panic(backups)
            if panic != tier.panic:
                tier.panic = panic
                writing = list(self._servers.values())
                count = f"{tier.healthy} of {tier.total} {'backup servers' if backups else 'servers'} healthy"
                least = f"{self._panic_threshold:.0%}"
                told = f"panic: {count}, less than {least}; all are used" if panic else f"panic is over: {count}"
                news.append((None, told))
        for server in writing:
            self._write(server)
        for backend, text in news:
            self._changed(backend, text)

    def _wants_panic(self, backups: bool) -> bool:
        servers, spares = self._tiers[False], self._tiers[True]
        # Only a healthy server makes the other tier needless.
        if backups:
            tier = spares
            needed = not servers.healthy
        else:
            tier = servers
            needed = bool(servers.healthy) or not spares.healthy
        return needed and tier.total > 0 and tier.healthy < self._panic_threshold * tier.total

    def _write(self, server: ServerHealth) -> None:
        backend = server.backend
        backend.up = server.healthy or self._tiers[backend.backup].panic
        backend.reason = server.reason
        if not server.healthy:
            server.end_ramp()
            self._ramping.pop(backend, None)
            if backend.up:
                backend.reason = f"{server.reason}; used in panic"


def _times(number: int, what: str) -> str:
    return f"{number} {what}s in a row" if number > 1 else f"one {what}"
