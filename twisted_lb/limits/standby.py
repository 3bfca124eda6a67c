"""Who answers for the store while it is away: a bounded share of each bucket that this process has seen lately.

Strategy: each answer of the store is remembered (`recent`).  In an outage the first request of a key makes a
share: the last policy and level, refilled since, divided by the number of live instances.

The law across an outage.  Let one bucket have capacity c and rate r, n instances, each with the share (c/n,
r/n), and a level L that all of them know.  All times count from when L was.

1. During the outage each share is a bucket of its own, which admits at most L/n + r/n * t; together L + r * t, which
   the bucket itself would have admitted.
2. The store, of which nobody takes meanwhile, refills to R = min(L + r * t, c).  Each instance knows its part of
   this: R/n = min(L/n + r/n * t, c/n), its share if nothing had been spent.  Its share stands at l.  It charges
   R/n - l, and so the store goes on from R - sum(R/n - l) = sum(l): with what is left of the shares.

   Instances come back one after another, within RETURN_SECONDS.  The first ones have the whole rate while the
   others still have their shares, so what is charged covers the refill of that time as well, where it was spent.

   That is never more than was spent, because a share that is full forgets what it spent before, as a bucket does;
   and it is never so little that a long outage's refill counts in the share and in the store.
   What is given back to a full share is lost, as it would be in a full bucket.
3. What is left of a share is what is known of the key from then on, until the store answers for it again: another
   outage soon after, or one that has not let the charge through, does not begin from L again.

What differs from this is said in docs/limits.md:

- An instance may know an L that others have spent from since.  All shares together hold at most c, so one outage
  admits at most c more than the law, or c and one instance's part of the rate where the others still have the store.
- A share has at least one whole token, so n instances have max(c, n) of them.
- A request that is settled into debt holds back the share of its own instance, not those of the others.
- Whole microtokens: the store may go on with n microtokens more than what is left of the shares, which were cut
  to whole ones, and each share's taking drops less than one.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, KEY, MICROTOKENS, Limits, Taken
from twisted_lb.limits.addresses import NetworkBuckets
from twisted_lb.limits.bucket import LOWEST_LEVEL

LOCAL = "local"
DENY = "deny"
ALLOW = "allow"

# A key that was not seen for this long, or for half of it, is forgotten.
FORGET_SECONDS = 600.0

# Within this time all instances are back, once the store is: they try to connect twice a second.
RETURN_SECONDS = 0.6

ADMITTED = "standby_admitted"
REFUSED = "standby_refused"
UNKNOWN = "standby_unknown"
# What IStoreReport.counts tells of a store that has a standby.
COUNTS = ("store_up", "store_outages", ADMITTED, REFUSED, UNKNOWN, "script_calls", "takes", "instances")


class _Share:
    """A part of a bucket: levels in microtokens, rates in tokens per second, times in seconds."""

    __slots__ = ("full", "rate", "first", "since", "level", "at", "spent", "parts")

    def __init__(self, full: int, rate: float, level: int, at: float, parts: int = 1) -> None:
        """One of `parts` shares."""
        self.parts = parts
        self.full = full
        self.rate = rate
        self.first = self.level = min(level, full)
        self.since = self.at = at
        self.spent = 0

    def level_at(self, now: float) -> int:
        return self._refilled(self.level, self.at, now)

    def spend(self, amount: int, now: float) -> None:
        """Also into debt.  Negative: give back, up to the capacity."""
        self.level = max(min(self.level_at(now) - amount, self.full), LOWEST_LEVEL)
        self.at = max(self.at, now)
        self.spent += amount

    def debt(self, now: float, late: float) -> int:
        """What the store has to be charged, so that it has what is left here: below zero, to be given."""
        debt = self._refilled(self.first, self.since, now) - self.level_at(now)
        if self.parts == 1 or self.spent <= debt:
            return debt
        # Refill that was spent here, and was above the store's capacity: unless others were back before.
        return debt + min(self.spent - debt, int(min(now - self.since, late) * self.rate * MICROTOKENS))

    def _refilled(self, level: int, since: float, now: float) -> int:
        if now <= since:
            return level
        return min(level + int((now - since) * self.rate * MICROTOKENS), self.full)


class Standby:
    """Decides for the requests of an outage."""

    def __init__(self, mode: str, now: Callable[[], float], keys: int, limits: Limits) -> None:
        """`mode` is LOCAL, DENY or ALLOW; `now` a steady clock in seconds; `keys` are remembered at most."""
        self.mode = mode
        self.now = now
        # Written by the store with each answer about a key's own bucket: the answer, and when it came.
        self.recent: dict[str, tuple[Taken, float]] = {}
        self.instances = 1  # live ones, as last known
        self.counts: dict[str, float] = {ADMITTED: 0, REFUSED: 0, UNKNOWN: 0}
        self._keys = keys
        self._limits = limits
        self._older: dict[str, tuple[Taken, float]] = {}
        self._turned_at = now()
        self._shares: dict[str, _Share] = {}
        self._networks = NetworkBuckets(limits.address)
        self._pending: dict[str, int] = {}  # microtokens to charge to keys of which nothing is known
        # The whole bucket of everyone as last known, this process's share of it, and what else to charge to it.
        everyone = limits.everyone
        full = everyone.capacity * MICROTOKENS
        self._whole_of_all = _Share(full, everyone.rate_per_sec, full, self._turned_at) if full else None
        self._share_of_all: _Share | None = None
        self._pending_of_all = 0

    def tidy(self) -> None:
        """Forget old keys; to be called now and then while the store answers."""
        now = self.now()
        age = now - self._turned_at
        if len(self.recent) > self._keys // 2 or age > FORGET_SECONDS / 2:
            self._older = self.recent if age <= FORGET_SECONDS else {}
            self.recent = {}
            self._turned_at = now

    def seen_of_all(self, level: int) -> None:
        """The store has told the level of the bucket of everyone, in microtokens."""
        whole = self._whole_of_all
        if whole is not None:
            self._whole_of_all = _Share(whole.full, whole.rate, level, self.now())

    def settled(self, digest: str, tokens: int) -> None:
        """The store is being told that a request cost `tokens` more (or less) than it was admitted for."""
        known = self._known(digest)
        if known is not None:
            taken, seen_at = known
            now = self.now()
            whole = _Share(taken.capacity * MICROTOKENS, taken.rate_per_sec, taken.level, seen_at)
            whole.spend(tokens * MICROTOKENS, now)
            self.recent[digest] = taken._replace(level=whole.level), now

    def take(self, digest: str, cost: int, in_flight: int) -> Taken | None:
        """Decide for a request that costs `cost` tokens; None when that cannot be done.

        `in_flight` are the requests of this key that this process has admitted and that are not over.
        """
        known = self._known(digest)
        if known is None or self.mode == DENY:
            self.counts[UNKNOWN] += 1
            return None
        if self.mode == ALLOW:
            self.counts[ADMITTED] += 1
            return known[0]._replace(admitted=True, limit=KEY)
        taken = self._decide(digest, known, cost * MICROTOKENS, in_flight)
        self.counts[ADMITTED if taken.admitted else REFUSED] += 1
        return taken

    def knows(self, digest: str) -> bool:
        """Whether the store has answered for this key not long ago."""
        return self._known(digest) is not None

    def _known(self, digest: str) -> tuple[Taken, float] | None:
        return self.recent.get(digest) or self._older.get(digest)

    def _decide(self, digest: str, known: tuple[Taken, float], amount: int, in_flight: int) -> Taken:
        now = self.now()
        share = self._share(digest, known, now)
        name, capacity = known[0].name, known[0].capacity
        # A refusal writes nothing, not even the refill: asking often must not cost fractions of a microtoken.
        level = share.level_at(now)
        if level < amount:
            return Taken(False, name, capacity, share.rate, level)
        if self._limits.in_flight:
            most = max(1, self._limits.in_flight // self.instances)
            if in_flight >= most:
                return Taken(False, name, most, 0.0, 0, IN_FLIGHT)
        everyone = self._everyone(now)
        if everyone is not None:
            if (left := everyone.level_at(now)) < amount:
                return Taken(False, name, self._limits.everyone.capacity, everyone.rate, left, GLOBAL)
            everyone.spend(amount, now)
        share.spend(amount, now)
        return Taken(True, name, capacity, share.rate, share.level)

    def _share(self, digest: str, known: tuple[Taken, float], now: float) -> _Share:
        """The share of a key's bucket; a new one begins with what is known of it."""
        share = self._shares.get(digest)
        if share is None:
            taken, seen_at = known
            whole = _Share(taken.capacity * MICROTOKENS, taken.rate_per_sec, taken.level, seen_at)
            share = self._shares[digest] = self._divided(whole, now)
        return share

    def _everyone(self, now: float) -> _Share | None:
        """The share of the bucket of everyone, if there is one."""
        if self._share_of_all is None and self._whole_of_all is not None:
            self._share_of_all = self._divided(self._whole_of_all, now)
        return self._share_of_all

    def _divided(self, whole: _Share, now: float) -> _Share:
        parts = self.instances
        level = whole.level_at(now) // parts
        return _Share(max(whole.full // parts, MICROTOKENS), whole.rate / parts, level, now, parts)

    def of_network(self, network: str, spend: bool) -> Taken:
        """What the bucket of a client's network says in an outage, one of this process alone: keys can be guessed then
        as little as ever.  It begins full, and admits all where networks have none.  `spend`: a token, if it is there.
        """
        policy = self._limits.address
        if not policy.capacity:
            return Taken(True, b"", 0, 0.0, 0, ADDRESS)
        now_us = int(self.now() * 1_000_000)
        if spend:
            admitted, level = self._networks.take(network, now_us)
        else:
            level = self._networks.level(network, now_us)
            admitted = level >= MICROTOKENS
        return Taken(admitted, b"", policy.capacity, policy.rate_per_sec, level, ADDRESS)

    def give_back_to_network(self, network: str) -> None:
        """Put that token back."""
        self._networks.give_back(network)

    def release(self, digest: str, tokens: int) -> None:
        """A request that was admitted, by whomever, is over in the outage, and costs `tokens` more (or less)."""
        if not tokens or self.mode == ALLOW:
            return
        now = self.now()
        amount = tokens * MICROTOKENS
        known = self._known(digest)
        if known is not None and self.mode == LOCAL:
            self._share(digest, known, now).spend(amount, now)
        elif digest in self._pending or len(self._pending) < self._keys:
            self._pending[digest] = self._pending.get(digest, 0) + amount
        everyone = self._everyone(now)
        if everyone is not None and self.mode == LOCAL:
            everyone.spend(amount, now)
        elif everyone is not None:
            self._pending_of_all += amount

    def debts(self, late: float = RETURN_SECONDS) -> tuple[list[tuple[str, int]], int]:
        """The outage is over: what to charge, in microtokens, for each digest and for everyone; negative gives back.

        `late` is by how many seconds other instances were back before.

        To be called once for each outage.  What is left of the shares is known from then on; the rest is forgotten.
        """
        now = self.now()
        charges, of_all = self._pending, self._pending_of_all
        for digest, share in self._shares.items():
            charges[digest] = charges.get(digest, 0) + share.debt(now, min(late, RETURN_SECONDS))
            known = self._known(digest)
            if known is not None:
                level = min(share.level_at(now) * share.parts, known[0].capacity * MICROTOKENS)
                self.recent[digest] = known[0]._replace(level=level), now
        if self._share_of_all is not None and self._whole_of_all is not None:
            share, whole = self._share_of_all, self._whole_of_all
            of_all += share.debt(now, min(late, RETURN_SECONDS))
            self._whole_of_all = _Share(whole.full, whole.rate, share.level_at(now) * share.parts, now)
        self._shares, self._pending, self._share_of_all, self._pending_of_all = {}, {}, None, 0
        return [(digest, amount) for digest, amount in charges.items() if amount], of_all
