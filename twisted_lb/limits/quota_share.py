"""One instance's share of a quota, which it uses while the store is unavailable: see `fallback`."""

from __future__ import annotations

from twisted_lb.quotas import REQUESTS, QuotaCharge, QuotaLevel, UnknownTimeZone, period_at


class QuotaShare:
    """A part of a quota, rounded down, so that all shares together are at most what was left.

    The shares of an overdrawn quota are overdrawn as well, so that they refuse requests that cost nothing, too.
    """

    __slots__ = ("amount", "left", "spent", "starts_us", "ends_us", "charges", "_known", "_known_at", "_parts")

    def __init__(self, known: QuotaLevel, known_at: float, parts: int) -> None:
        """`known` is the quota as the store last reported it, at `known_at` (seconds) by the clock of the caller."""
        self.amount = known.amount // parts
        self.left = known.left // parts
        self.spent = 0  # in the present period
        self.starts_us = known.starts_us
        self.ends_us = known.ends_us
        self.charges: list[QuotaCharge] = []  # for periods that are over
        self._known = known
        self._known_at = known_at
        self._parts = parts

    def begin(self, now: float) -> None:
        """Begin the next period if this one is over, with a share of the whole amount: see `QuotaCount.begin`."""
        known = self._known
        now_us = known.now_us + int((now - self._known_at) * 1_000_000)
        if now_us < self.ends_us:
            return
        try:
            starts_us, ends_us = period_at(known.per, known.time_zone, now_us)
        except UnknownTimeZone:
            # The present period continues.
            return
        if not self.ends_us:
            self.starts_us = starts_us
        elif starts_us >= self.ends_us:
            self.charges += self._charge()
            self.spent = 0
            self.left = self.amount
            self.starts_us = starts_us
        self.ends_us = ends_us

    def need(self, cost: int) -> int:
        """How much of the quota a request that costs `cost` tokens uses."""
        return 1 if self._known.unit == REQUESTS else cost

    def take(self, cost: int) -> None:
        """Admit a request that costs `cost` tokens."""
        need = self.need(cost)
        self.left -= need
        self.spent += need

    def charge(self, charge: QuotaCharge) -> None:
        """Apply a charge, which corrects what was used by an admitted request: see `QuotaCount.charge`."""
        unit, starts_us, _, amount = charge
        if unit == self._known.unit and (amount > 0 or starts_us == self.starts_us):
            self.left -= amount
            self.spent += amount

    def debts(self) -> list[QuotaCharge]:
        """The charges to the store for all periods."""
        return [*self.charges, *self._charge()]

    def _charge(self) -> list[QuotaCharge]:
        charge = QuotaCharge(self._known.unit, self.starts_us, self.ends_us, self.spent)
        return [charge] if self.spent else []

    def level(self, now: float) -> QuotaLevel:
        """The share after a decision, in the form in which whole quotas are described."""
        known = self._known
        now_us = known.now_us + int((now - self._known_at) * 1_000_000)
        return known._replace(left=self.left, starts_us=self.starts_us, ends_us=self.ends_us, now_us=now_us)

    def whole(self) -> QuotaLevel:
        """The whole quota, estimated from what is left of this share, as of the last report of the store."""
        left = self.left * self._parts if self.left > 0 else self.left
        return self._known._replace(left=left, starts_us=self.starts_us, ends_us=self.ends_us)
