"""What is known of one server: its checks, its requests, its ejections, its slow start.

It decides nothing about other servers; whether an ejection is allowed is for `fleet` to say.

    healthy = checked_up and not ejected

    checked_up:  up -- `fails` checks in a row failed --> down -- `passes` in a row passed --> up
    ejected:     no -- the requests say so, and it is allowed --> yes -- the time is over --> on probation
                 on probation -- first request passes --> no;  first request fails --> yes
"""

from __future__ import annotations

from twisted_lb.backend import Backend
from twisted_lb.fleet_spec import Ejection, HealthCheck
from twisted_lb.health.window import Window

# A slow start goes up in tenths, so that the balancer hears of it at most nine times.
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
    )

    def __init__(self, backend: Backend, check: HealthCheck | None, ejection: Ejection) -> None:
        self.backend = backend
        self.check = check
        self.checked_up = True
        self.reason = backend.reason
        self.counted = True  # whether it takes part in the shares: it does not while it is drained
        self.spared = False  # whether it was said that it ought to be ejected, and is not
        self.probation = False
        self.ejected_until: float | None = None
        self.ejection_seconds = 0.0  # the latest ejection's; 0: there was none
        self.window = Window(ejection.window)
        self.failed_in_a_row = 0
        self._returned_at = 0.0
        self._ramp_since: float | None = None
        self._passes = 0
        self._fails = 0
        self.never_passed = True  # no check so far

    @property
    def healthy(self) -> bool:
        """Whether nothing speaks against it."""
        return self.checked_up and self.ejected_until is None

    # Checks

    def use_check(self, check: HealthCheck | None) -> bool:
        """From now on checked like this.  Whether that alone made it up."""
        if self.check is None:
            self.never_passed = True
            self._fails = self._passes = 0
        self.check = check
        changed = check is None and not self.checked_up
        if changed:
            self.checked_up = True
        return changed

    def check_passed(self) -> bool:
        """Whether that made it up."""
        self._fails = 0
        self.never_passed = False
        if self.checked_up or self.check is None:
            return False
        self._passes += 1
        self.checked_up = self._passes >= self.check.passes
        return self.checked_up

    def check_failed(self) -> bool:
        """Whether that made it down."""
        self._passes = 0
        if not self.checked_up or self.check is None:
            return False
        self._fails += 1
        # As in HAProxy: before anything is known of it, the first check decides alone.
        self.checked_up = not self.never_passed and self._fails < self.check.fails
        return not self.checked_up

    # Requests

    def request_passed(self, now: float) -> bool:
        """Whether it has had no failure for a whole window."""
        self.failed_in_a_row = 0
        self.probation = False
        self.window.count(1, 0, now)
        return not self.window.failed

    def request_failed(self, answered: bool, now: float) -> None:
        """`answered`: there was a response, but it reports an error of the server."""
        self.window.count(0, 1, now)
        if answered:
            self.failed_in_a_row = 0
            self.probation = False
        else:
            self.failed_in_a_row += 1

    def forget_requests(self, window_seconds: float) -> None:
        """Count anew, in a window of this length."""
        self.window = Window(window_seconds)

    def why_eject(self, ejection: Ejection, why: str) -> str | None:
        """What speaks for an ejection, if anything does; `why` is what happened to the latest request."""
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
        """Leave it alone for a time.

        The time doubles with each ejection, and halves for each time of its own length that the
        server was in use since the one before: base_time * 2^n, at most max_time.
        """
        if self.ejection_seconds:
            steps = 1 - int((now - self._returned_at) / self.ejection_seconds)
            grown = self.ejection_seconds * 2.0 ** max(steps, -64)
            self.ejection_seconds = min(max(grown, ejection.base_time), ejection.max_time)
        else:
            self.ejection_seconds = ejection.base_time
        self.ejected_until = now + self.ejection_seconds
        self.spared = self.probation = False

    def end_ejection(self, now: float) -> None:
        """Use it again.  Until a request passes, the first failure ejects it anew."""
        self.ejected_until = None
        self._returned_at = now
        self.probation = True
        self.failed_in_a_row = 0
        self.window.clear()

    # Slow start

    def start_ramp(self, now: float) -> bool:
        """Begin with a small share of its weight; whether it has a slow start at all."""
        if self.backend.slowstart <= 0:
            return False
        self._ramp_since = now
        self.backend.ramp = 1 / RAMP_STEPS
        return True

    def move_ramp(self, now: float) -> bool:
        """Whether its share has changed."""
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
        """Its whole weight at once."""
        self._ramp_since = None
        self.backend.ramp = 1.0

    @property
    def ramping(self) -> bool:
        """Whether a slow start is under way."""
        return self._ramp_since is not None
