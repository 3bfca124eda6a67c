"""The health of all servers of a pool, and the limits on taking servers out of use.

Checks and requests are reported here.  A report changes the state of one server.  Before the change is
announced, two limits apply:

1. A server is not ejected (by failed requests) when it is the last healthy one, or when `max_share` of
   the servers are ejected already.  Failed checks always count.
2. Panic: when less than `panic_threshold` of the servers is healthy, all of them are used, because the few
   would break down under the whole load, and because checks can be wrong.  Backups are counted
   separately, and only while no other server is healthy.

Slowness alone never ejects a server: only a request without a whole response head counts, and,
if so configured, a response with a server error.

This is the only place that writes `up`, `reason` and `ramp` of a Backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted_lb.backend import Backend
from twisted_lb.config.pool import Ejection, HealthCheck
from twisted_lb.health.news import News, ejected, panic, panic_is_over, server_news, spared, with_slow_start
from twisted_lb.health.server import ServerHealth
from twisted_lb.pool.retry_policy import Blame
from twisted_lb.steps import STEP, Steps, finish

# Server errors that are about the request, and do not mean that the server has failed.
ABOUT_THE_REQUEST = frozenset((501, 505))


class _Tier:
    """The servers, or the backups: how many there are, and how many are healthy."""

    __slots__ = ("total", "healthy", "panic")

    def __init__(self) -> None:
        self.total = 0
        self.healthy = 0
        self.panic = False


class Health:
    """The health of one pool.  Time is in seconds on a steady clock, the same one in all calls."""

    def __init__(self, ejection: Ejection, panic_threshold: float, changed: Callable[[News], None]) -> None:
        """`changed` is called once for each change of state, after all of it has been written.

        The balancer has to be notified of the change as well.
        """
        self._ejection = ejection
        self._panic_threshold = panic_threshold
        self._changed = changed
        self._servers: dict[Backend, ServerHealth] = {}
        self._begun = False
        self._tiers = {False: _Tier(), True: _Tier()}  # by Backend.backup
        # The servers in transition; others cost nothing.
        self._troubled: dict[Backend, ServerHealth] = {}  # with a failure in the window, or on probation
        self._ejected: dict[Backend, ServerHealth] = {}
        self._ramping: dict[Backend, ServerHealth] = {}

    # The pool

    def configure(self, ejection: Ejection, panic_threshold: float) -> None:
        """Change the settings; `follow` has to be called next."""
        if ejection.window != self._ejection.window:
            for server in self._servers.values():
                server.forget_requests(ejection.window)
        self._ejection = ejection
        self._panic_threshold = panic_threshold

    def follow(self, servers: Iterable[tuple[Backend, HealthCheck | None]], now: float) -> None:
        """Set the servers and their checks; their weights may have changed.

        A server that is known already keeps its state.  The servers of the first call have their whole
        weight; those that are added later, or are taken into service again, have a slow start.
        """
        finish(self.follow_in_steps(servers, now))

    def follow_in_steps(self, servers: Iterable[tuple[Backend, HealthCheck | None]], now: float) -> Steps[None]:
        """The same in steps; until the last one, new servers have no state."""
        before = dict(self._servers)
        following: dict[Backend, ServerHealth] = {}
        news: list[News] = []
        for count, (backend, check) in enumerate(servers):
            if count % STEP == STEP - 1:
                yield
            server = before.pop(backend, None)
            if server is None:
                server = ServerHealth(backend, check, self._ejection)
                if self._begun and server.start_ramp(now):
                    self._ramping[backend] = server
            else:
                if server.use_check(check):
                    one = server_news(backend, "up", "it is not checked any more")
                    server.reason = one.state
                    news.append(one)
                if backend.in_service and not server.counted and server.healthy and server.start_ramp(now):
                    self._ramping[backend] = server
            following[backend] = server
        self._servers = following
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
            server.counted = server.backend.in_service
            if server.counted:
                tier = self._tiers[server.backend.backup]
                tier.total += 1
                tier.healthy += server.healthy

    def check_of(self, backend: Backend) -> HealthCheck | None:
        """How a server is checked; None when it is not, or is unknown."""
        server = self._servers.get(backend)
        return server.check if server else None

    # Checks

    def probe_passed(self, backend: Backend, now: float) -> None:
        """A check passed."""
        server = self._servers.get(backend)
        if server is None or server.check is None:
            return
        was = server.healthy
        if server.revived():
            self._return(server, now, f"{_times(server.check.passes, 'check')} passed since it had died")
        elif server.check_passed():
            passes = _times(server.check.passes, "check")
            if server.ejected_until is None:
                self._settle(server, was, server_news(backend, "up", f"{passes} passed"), now)
            else:
                reason = f"{passes} passed, but its requests had failed"
                self._settle(server, was, server_news(backend, "still ejected", reason), now)

    def probe_failed(self, backend: Backend, now: float, why: str) -> None:
        """A check failed; `why` is a text such as "connection refused"."""
        server = self._servers.get(backend)
        if server is None or server.check is None:
            return
        was = server.healthy
        if server.check_failed():
            checks = "its first check" if server.never_passed else _times(server.check.fails, "check")
            self._settle(server, was, server_news(backend, "down", f"{checks} failed: {why}"), now)

    # Requests

    def request_ended(
        self, backend: Backend, status: int, now: float, why: str, fault: Blame = Blame.FAILED
    ) -> None:
        """The result of a request: the status of the response, or 0 with the reason and the kind of failure."""
        if status:
            self.answered(backend, status, now)
        else:
            self.seen(backend, False, now, why, fault)

    def seen(
        self, backend: Backend, ok: bool, now: float, why: str = "", fault: Blame = Blame.FAILED
    ) -> None:
        """An exchange has received a whole response head (`ok`), or none, and `why` is the reason as text.

        `fault` is REFUSED, DIED or FAILED.  Failures that are not the server's, such as a client that disconnected, or
        a kept connection that the server had closed, are not reported (see `pool.retry_policy`).
        """
        if not ok:
            self._failed(backend, False, now, why, fault)
        elif backend in self._troubled:
            self._passed(backend, now)

    def answered(self, backend: Backend, status: int, now: float) -> None:
        """An exchange has received a whole response head with this final status."""
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

    def _failed(
        self, backend: Backend, answered: bool, now: float, why: str, fault: Blame = Blame.FAILED
    ) -> None:
        server = self._servers.get(backend)
        if server is None or not server.counted:
            return
        if not server.healthy:
            # Requests that were under way when it was taken out of use add nothing, except evidence that it was away.
            if fault is Blame.REFUSED:
                server.was_away()
            return
        server.request_failed(answered, now, fault)
        self._troubled[backend] = server
        reason = server.why_eject(self._ejection, why)
        if reason is None:
            return
        rail = self._rail()
        if rail is None:
            server.eject(self._ejection, now)
            del self._troubled[backend]
            self._ejected[backend] = server
            self._settle(server, True, ejected(backend, server.ejection_seconds, reason), now)
        elif not server.spared:
            server.spared = True
            news = spared(backend, reason, rail)
            server.reason = backend.reason = news.state
            self._changed(news)

    def _rail(self) -> str | None:
        """The limit that prevents an ejection now, or None."""
        total = sum(tier.total for tier in self._tiers.values())
        if sum(tier.healthy for tier in self._tiers.values()) <= 1:
            return "the last healthy server is never ejected"
        share = self._ejection.max_share
        # The margin is for rounding, as in 0.29 * 100.
        allowed = max(int(share * total + 1e-9), 1) if share else 0
        ejected = sum(server.counted for server in self._ejected.values())
        if ejected >= allowed:
            return f"{ejected} of {total} servers are ejected already, and no more may be"
        return None

    # Time

    def tick(self, now: float) -> bool:
        """To be called several times a second: ends ejections, advances slow starts.

        Returns whether weights have changed, of which the balancer has to be notified.
        """
        for server in list(self._ejected.values()):
            if server.ejected_until is not None and server.ejected_until <= now:
                self._return(server, now, f"its ejection of {server.ejection_seconds:g} s is over")
        moved = False
        for server in list(self._ramping.values()):
            moved |= server.move_ramp(now)
            if not server.ramping:
                del self._ramping[server.backend]
        return moved

    def _return(self, server: ServerHealth, now: float, over: str) -> None:
        was = server.healthy
        server.end_ejection(now)
        del self._ejected[server.backend]
        self._troubled[server.backend] = server
        if server.checked_up:
            self._settle(server, was, server_news(server.backend, "up", over), now)
        else:
            self._settle(server, was, server_news(server.backend, "down", f"{over}, but its checks fail"), now)

    # Consequences

    def _settle(self, server: ServerHealth, was_healthy: bool, news: News, now: float) -> None:
        """Count and announce the new state of a server."""
        backend = server.backend
        if server.counted:
            self._tiers[backend.backup].healthy += server.healthy - was_healthy
        server.reason = news.state
        # A server that was used in panic mode needs no slow start.
        if server.healthy and not backend.up and server.start_ramp(now):
            self._ramping[backend] = server
            news = with_slow_start(news, backend.slowstart)
        self._tell([news], now)

    def _tell(self, news: list[News], now: float) -> None:
        """Write the state of the backends, and announce the changes."""
        writing = [self._servers[one.backend] for one in news if one.backend is not None]
        for backups, tier in self._tiers.items():
            wanted = self._wants_panic(backups)
            if wanted != tier.panic:
                tier.panic = wanted
                writing = list(self._servers.values())
                if wanted:
                    news.append(panic(backups, tier.healthy, tier.total, self._panic_threshold))
                else:
                    news.append(panic_is_over(backups, tier.healthy, tier.total))
        for server in writing:
            self._write(server)
        for one in news:
            self._changed(one)

    def _wants_panic(self, backups: bool) -> bool:
        servers, spares = self._tiers[False], self._tiers[True]
        # A tier is not needed while the other one has a healthy server.
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
