"""The health of one server: its checks, its requests, its ejections, its slow start.

It decides nothing about other servers; `tracker` decides whether an ejection is allowed.

    healthy = checked_up and not ejected

    checked_up:  up -- `fails` checks in a row failed --> down -- `passes` in a row passed --> up
    ejected:     no -- requests failed, and it is allowed --> yes -- the time is over --> on probation
                 on probation -- first request passes --> no;  first request fails --> yes

An ejected server that was down and has recovered is on probation as soon as `passes` checks in a row have passed since
its ejection.  This applies when

1. all of the successive failures that ejected it were refused, lost or impossible connections, and
2. since the first of them a connection was refused, or a check failed, and
3. it has not already returned early from an ejection without answering a request since.

A server that was slow, answered with errors, or closed the connections of requests while its checks kept passing stays
ejected for the whole time: its checks do not detect what is wrong with it.
"""

from __future__ import annotations

from twisted_lb.backend import Backend
from twisted_lb.config.pool import Ejection, HealthCheck
from twisted_lb.health.window import Window
from twisted_lb.pool.retry_policy import Blame

# A slow start goes up in tenths, so that the balancer is notified at most nine times.
RAMP_STEPS = 10


class ServerHealth:
    """One server's state."""

    __slots__ = (
        "backend",
        "check",
        "checked_up",
        "reason",
        "counted",
        "spared",
        "probation",
        "ejected_until",
        "ejection_seconds",
        "window",
        "failed_in_a_row",
        "never_passed",
        "_returned_at",
        "_ramp_since",
        "_passes",
        "_fails",
        "_died_in_a_row",
        "_away",
        "_returned_early",
        "_may_return_early",
        "_passes_ejected",
    )

    def __init__(self, backend: Backend, check: HealthCheck | None, ejection: Ejection) -> None:
        self.backend = backend
        self.check = check
        self.checked_up = True
        self.reason = backend.reason
        self.counted = True  # in the totals for panic and ejection: a drained server is not
        self.spared = False  # it reached a limit for ejection, was not ejected, and that was logged
        self.probation = False
        self.ejected_until: float | None = None
        self.ejection_seconds = 0.0  # the latest ejection's; 0: there was none
        self.window = Window(ejection.window)
        self.failed_in_a_row = 0
        self._returned_at = 0.0
        self._ramp_since: float | None = None
        self._passes = 0
        self._fails = 0
        self._died_in_a_row = 0  # of `failed_in_a_row`: without a connection, or with a closed one
        self._away = False  # since the first of them a connection was refused, or a check failed
        self._returned_early = False  # from its latest ejection, and no request was answered since
        self._may_return_early = False  # from the current ejection, if it was away
        self._passes_ejected = 0  # checks in a row, since it was ejected
        self.never_passed = True  # no check so far

    @property
    def healthy(self) -> bool:
        """Whether its checks pass and it is not ejected."""
        return self.checked_up and self.ejected_until is None

    # Checks

    def use_check(self, check: HealthCheck | None) -> bool:
        """Use this check from now on; return whether that alone made it up."""
        if self.check is None:
            self.never_passed = True
            self._fails = self._passes = 0
        self.check = check
        changed = check is None and not self.checked_up
        if changed:
            self.checked_up = True
        return changed

    def revived(self) -> bool:
        """A check has passed; return whether that ends an ejection early.  To be called before `check_passed`."""
        if self.ejected_until is None or self.check is None or not (self._may_return_early and self._away):
            return False
        self._passes_ejected += 1
        if self._passes_ejected < self.check.passes:
            return False
        self.check_passed()
        self._returned_early = self.checked_up
        return self.checked_up

    def check_passed(self) -> bool:
        """A check has passed; return whether that made it up."""
        self._fails = 0
        self.never_passed = False
        if self.checked_up or self.check is None:
            return False
        self._passes += 1
        self.checked_up = self._passes >= self.check.passes
        return self.checked_up

    def check_failed(self) -> bool:
        """A check has failed; return whether that made it down."""
        self._passes = self._passes_ejected = 0
        if self.failed_in_a_row:
            self.was_away()
        if not self.checked_up or self.check is None:
            return False
        self._fails += 1
        # As in HAProxy: while no check has passed yet, the first failed one is enough.
        self.checked_up = not self.never_passed and self._fails < self.check.fails
        return not self.checked_up

    # Requests

    def request_passed(self, now: float) -> bool:
        """A request was answered; return whether there was no failure in the whole window."""
        self._request_answered()
        self.window.count(1, 0, now)
        return not self.window.failed

    def request_failed(self, answered: bool, now: float, fault: Blame = Blame.FAILED) -> None:
        """A request failed.  `answered`: there was a response, and it reports an error of the server."""
        self.window.count(0, 1, now)
        if answered:
            self._request_answered()
            return
        if not self.failed_in_a_row:
            self._away = False
        self.failed_in_a_row += 1
        if fault is Blame.REFUSED:
            self.was_away()
        if fault is not Blame.FAILED:
            self._died_in_a_row += 1

    def _request_answered(self) -> None:
        self.failed_in_a_row = self._died_in_a_row = 0
        self.probation = self._away = self._returned_early = False

    def was_away(self) -> None:
        """A connection was refused, or a check has failed, since its requests began to fail."""
        self._away = True

    def forget_requests(self, window_seconds: float) -> None:
        """Reset the window, to one of this length in seconds."""
        self.window = Window(window_seconds)

    def why_eject(self, ejection: Ejection, why: str) -> str | None:
        """The reason to eject it, or None; `why` is what happened to the latest request."""
        failed, total = self.window.failed, self.window.total
        if self.probation and self.failed_in_a_row:
            return f"the first request after its ejection failed: {why}"
        if 0 < ejection.consecutive_failures <= self.failed_in_a_row:
            return f"{self.failed_in_a_row} requests in a row failed, the last one: {why}"
        if total >= ejection.minimum_requests and 0 < ejection.failure_share <= failed / total:
            return f"{failed} of {total} requests in {ejection.window:g} s failed, the last one: {why}"
        return None

    # Ejection

    def eject(self, ejection: Ejection, now: float) -> None:
        """Take it out of use for a time.

        The time doubles with each ejection, and is halved for each period of the same length in which
        the server was in use since the previous one: base_time * 2^n, at most max_time.
        """
        if self.ejection_seconds:
            steps = 1 - int((now - self._returned_at) / self.ejection_seconds)
            grown = self.ejection_seconds * 2.0 ** max(steps, -64)
            self.ejection_seconds = min(max(grown, ejection.base_time), ejection.max_time)
        else:
            self.ejection_seconds = ejection.base_time
        self.ejected_until = now + self.ejection_seconds
        self._may_return_early = 0 < self.failed_in_a_row == self._died_in_a_row and not self._returned_early
        self._returned_early = False
        self._passes_ejected = 0
        self.spared = self.probation = False

    def end_ejection(self, now: float) -> None:
        """Use it again, on probation: until a request passes, the first failure ejects it again."""
        self.ejected_until = None
        self._returned_at = now
        self.probation = True
        self.failed_in_a_row = self._died_in_a_row = 0
        self._away = False
        self.window.clear()

    # Slow start

    def start_ramp(self, now: float) -> bool:
        """Begin a slow start; return whether one is configured."""
        if self.backend.slowstart <= 0:
            return False
        self._ramp_since = now
        self.backend.ramp = 1 / RAMP_STEPS
        return True

    def move_ramp(self, now: float) -> bool:
        """Advance the slow start; return whether its share has changed."""
        before = self.backend.ramp
        if self._ramp_since is not None and self.backend.slowstart > 0:
            steps = int(RAMP_STEPS * (now - self._ramp_since) / self.backend.slowstart)
            self.backend.ramp = min(max(steps, 1), RAMP_STEPS) / RAMP_STEPS
        else:
            self.backend.ramp = 1.0
        if self.backend.ramp == 1.0:
            self._ramp_since = None
        return self.backend.ramp != before

    def end_ramp(self) -> None:
        """Give it its whole weight at once."""
        self._ramp_since = None
        self.backend.ramp = 1.0

    @property
    def ramping(self) -> bool:
        """Whether a slow start is under way."""
        return self._ramp_since is not None
