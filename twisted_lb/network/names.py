"""A cache of the addresses of names.

1. For each name one look-up is under way at a time, however many callers ask; its result is kept for its TTL (within
   bounds).
2. A name in use is looked up again at the end of its TTL.  Meanwhile callers get the old addresses at once, until
   STALE_SECONDS after that; then they wait for the look-up.  When none of the addresses has accepted a connection the
   name is looked up at once: some name servers, such as Docker's, give long TTLs for names whose addresses change.
3. While the name servers do not answer, the last addresses are used, however old (RFC 8767).  An answer without any
   address is accepted as well, and kept for NO_ADDRESS_TTL.
4. A caller waits for its own timeout, counted from the beginning of the look-up.  A result that comes later is kept for
   the next caller.  No caller waits for a name without addresses whose last look-up has failed: such names are looked
   up in the background.
5. There are MAX_LOOKUPS slots for look-ups; further ones wait for a slot.  A look-up that takes longer than
   SLOT_SECONDS continues without its slot, and names whose last look-up has failed come last and get at most
   FAILED_SLOTS, so that names that cannot be resolved do not delay the others.  At most MAX_UNDER_WAY look-ups are
   under way, fewer where the process may open few files.  MAX_NAMES names are kept.
6. Some name servers return only some of a name's addresses in each answer.  So while answers overlap, connections to
   the addresses of the last RECENT_ANSWERS answers are kept; new connections go to those of the last one.  A name has
   moved when an answer has none of the addresses of the previous one.
7. Watched names are looked up again at the end of the TTL, or sooner if a watcher asks for that, with a random delay so
   that several programs do not ask at the same moments; the watchers get each answer, and log if there is no address.
8. If the addresses of one family come late, callers get those of the other at once, and the rest later (`ask_rest`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import chain
from random import random
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.listed import listed
from twisted_lb.network.dns_query import Answer, LookupFailed

MIN_TTL = 1.0  # seconds
MAX_TTL = 3600.0
NO_ADDRESS_TTL = 1.0
RETRY_SECONDS = 1.0  # after a look-up that failed
STALE_SECONDS = 30.0
MAX_LOOKUPS = 64
FAILED_SLOTS = 16
SLOT_SECONDS = 0.5
MAX_UNDER_WAY = 512
FILES_FOR_ONE = 32  # that the process may open, for each look-up under way, which opens two or more
BEGIN_SECONDS = 0.002  # for beginning look-ups, in one iteration of the reactor
MAX_NAMES = 10_000

RECENT_ANSWERS = 3
JITTER = 0.1  # the longest random delay of a watched name, as a fraction of the time between two look-ups
MAX_JITTER_SECONDS = 5.0
MOVED_LOG_SECONDS = 60.0  # between two log lines about new addresses of a name
SHOWN_ADDRESSES = 10  # in such a line

# Followed names are looked up again even without a caller; those without an address no more often than this.
FOLLOW_SECONDS = 5.0

_log = Logger()


class Unresolved(Exception):
    """There is no address to connect to."""

    def __init__(self, detail: str, shortage: bool = False) -> None:
        """`shortage`: this machine lacks a resource for the query, such as an open file."""
        super().__init__(detail)
        self.detail = detail
        self.shortage = shortage


NOT_IN_TIME = Unresolved("its name was not resolved in time")

# Called with the addresses of a name, of which there is at least one, or with the reason why there is none.
Waiter = Callable[[tuple[str, ...] | Unresolved], None]
# Called with the addresses of a name when they have changed.
Follower = Callable[[tuple[str, ...]], None]
# Called with each answer of the name servers, and with None when there is none.
Watcher = Callable[[Answer | None], None]


def is_address(host: str) -> bool:
    """Whether it is an IP address, not a name."""
    return bool(isIPAddress(host) or isIPv6Address(host))


def _with_missing(found: tuple[str, ...], before: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses that were found, and the previous ones of a family of which none was found."""
    families = {":" in address for address in found}
    return (*found, *(address for address in before if (":" in address) not in families))


def most_under_way(files: int) -> int:
    """How many look-ups may be under way in a process that may open this many files (RLIM_INFINITY: any number)."""
    return MAX_UNDER_WAY if files == RLIM_INFINITY else max(MAX_LOOKUPS, min(files // FILES_FOR_ONE, MAX_UNDER_WAY))


class _Name:
    """One name."""

    __slots__ = (
        "addresses",
        "recent",
        "fault",
        "until",
        "looked_at",
        "looking",
        "begun",
        "away",
        "waiters",
        "followers",
        "watchers",
        "answer",
        "next",
    )

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.recent: tuple[tuple[str, ...], ...] = ()  # the last answers, see 6
        self.fault: Unresolved | None = None  # why there are none
        self.until = 0.0  # when it is looked up again
        self.looked_at = 0.0  # when the last look-up ended
        self.looking = False
        self.begun: float | None = None  # when the look-up under way began; None: it waits for a slot
        self.away = False  # the last look-up has failed
        self.next: IDelayedCall | None = None  # look-up for followers
        self.waiters: dict[object, Callable[[], None]] = {}
        self.followers: list[Follower] = []
        self.watchers: dict[Watcher, float] = {}  # with the seconds after which they want another answer
        self.answer: Answer | None = None  # the last one

    @property
    def in_use(self) -> bool:
        return bool(self.looking or self.waiters or self.followers or self.watchers)


class Waiting:
    """A caller that waits for the addresses of a name."""

    def __init__(self, names: Names, name: _Name, waiter: Waiter, timeout: float) -> None:
        self._name = name
        self._waiter = waiter
        self._timer: IDelayedCall | None = names.clock.callLater(timeout, self._time_is_up)
        name.waiters[self] = self._tell

    def cancel(self) -> None:
        """Do not call the waiter."""
        self._name.waiters.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        self._timer = None
        self.cancel()
        self._waiter(self._name.addresses or NOT_IN_TIME)

    def _tell(self) -> None:
        self.cancel()
        self._waiter(self._name.addresses or self._name.fault or Unresolved("its name has no address"))


class Names:
    """The names that one process knows."""

    def __init__(
        self, clock: Any, look_up: Callable[[str], Deferred[Answer]], chance: Callable[[], float] = random
    ) -> None:
        """`clock` provides IReactorTime; `look_up` finds the addresses of a name; `chance` returns 0.0 to 1.0."""
        self._chance = chance
        self.clock = clock
        self._look_up = look_up
        self._moves = BoundedLog(_log, clock.seconds, MOVED_LOG_SECONDS)
        self._names: dict[str, _Name] = {}
        # Names whose look-up waits for a slot: those whose last look-up has failed are in the second queue.
        self._queue: deque[str] = deque()
        self._failed_queue: deque[str] = deque()
        self._under_way = 0
        self._most_under_way = most_under_way(getrlimit(RLIMIT_NOFILE)[0])
        self._beginning = False
        self._rest: IDelayedCall | None = None  # when more look-ups are begun
        self._slots: dict[object, IDelayedCall] = {}  # those in use, each with the timer that frees it
        self._failed_slots: set[object] = set()

    def ask(self, name: str, waiter: Waiter, timeout: float) -> Waiting | None:
        """Call `waiter` with the addresses of a name: at once if they are known, else within `timeout` seconds.

        In the second case the result is a Waiting, which can be cancelled.
        """
        if is_address(name):
            waiter((name,))
            return None
        known = self._known(name)
        now = self.clock.seconds()
        if known.until <= now:
            self._refresh(name, known)
        # The look-up may have ended already.
        fresh = known.until > now
        if known.addresses and (fresh or now < known.until + STALE_SECONDS):
            waiter(known.addresses)
            return None
        if known.fault is not None and not known.addresses and (fresh or known.away):
            waiter(known.fault)
            return None
        left = timeout if known.begun is None else known.begun + timeout - now
        if left <= 0:
            waiter(known.addresses or NOT_IN_TIME)
            return None
        return Waiting(self, known, waiter, left)

    def ask_rest(self, name: str, waiter: Waiter, timeout: float) -> Waiting | None:
        """Call `waiter` with the addresses at the end of the look-up under way; returns None if there is none."""
        known = self._names.get(name)
        return Waiting(self, known, waiter, timeout) if known is not None and known.looking else None

    def doubt(self, name: str) -> None:
        """None of the addresses has accepted a connection: look the name up, unless that was done a moment ago."""
        known = self._names.get(name)
        if known is not None and self.clock.seconds() - known.looked_at >= RETRY_SECONDS:
            self._refresh(name, known)

    def follow(self, name: str, follower: Follower) -> None:
        """Call `follower` each time the addresses of the name have changed."""
        known = self._known(name)
        known.followers.append(follower)
        if known.until > self.clock.seconds():
            self._look_later(name, known)
        elif not known.looked_at:
            self._refresh(name, known)

    def unfollow(self, name: str, follower: Follower) -> None:
        """Do not call it any more."""
        known = self._names.get(name)
        if known is None or follower not in known.followers:
            return
        known.followers.remove(follower)
        self._stop_unless_wanted(known)

    def watch(self, name: str, watcher: Watcher, longest: float) -> None:
        """Call `watcher` with each answer; look the name up after `longest` seconds, or sooner at the TTL."""
        known = self._known(name)
        known.watchers[watcher] = longest
        now = self.clock.seconds()
        known.until = min(known.until, known.looked_at + longest)
        if known.until <= now:
            self._refresh(name, known)
        else:
            if known.next is not None:
                # It may be later than this watcher wants.
                known.next.cancel()
                known.next = None
            self._look_later(name, known)
            watcher(known.answer if not known.away else None)

    def unwatch(self, name: str, watcher: Watcher) -> None:
        """Do not call it any more."""
        known = self._names.get(name)
        if known is not None and known.watchers.pop(watcher, None) is not None:
            self._stop_unless_wanted(known)

    def _stop_unless_wanted(self, known: _Name) -> None:
        if not known.followers and not known.watchers and known.next is not None:
            known.next.cancel()
            known.next = None

    def _look_later(self, name: str, known: _Name) -> None:
        if (known.followers or known.watchers) and known.next is None:
            seconds = known.until - self.clock.seconds()
            if known.away or not known.addresses:
                seconds = max(seconds, FOLLOW_SECONDS)
            elif known.watchers:
                seconds += min(seconds * JITTER, MAX_JITTER_SECONDS) * self._chance()
            known.next = self.clock.callLater(seconds, self._look_again, name, known)

    def _look_again(self, name: str, known: _Name) -> None:
        known.next = None
        if known.until <= self.clock.seconds():
            self._refresh(name, known)
        else:
            self._look_later(name, known)

    def _known(self, name: str) -> _Name:
        known = self._names.get(name)
        if known is None:
            if len(self._names) >= MAX_NAMES:
                self._forget_some()
            known = self._names[name] = _Name()
        return known

    def _forget_some(self) -> None:
        """Drop names that are not in use, the oldest first."""
        idle = [name for name, one in self._names.items() if not one.in_use]
        for name in idle[: MAX_NAMES // 10]:
            del self._names[name]

    # Looking up

    def _refresh(self, name: str, known: _Name) -> None:
        if known.looking:
            return
        known.looking = True
        (self._failed_queue if known.away else self._queue).append(name)
        self._begin_some()

    def _begin_some(self) -> None:
        """Begin the look-ups for which there is a slot, for BEGIN_SECONDS; the rest in the reactor's next iteration."""
        # A look-up in the hosts file ends at once, and would begin the next one from within.
        if self._beginning or self._rest is not None:
            return
        self._beginning = True
        end = self.clock.seconds() + BEGIN_SECONDS
        try:
            while len(self._slots) < MAX_LOOKUPS and self._under_way < self._most_under_way:
                if self._queue:
                    name = self._queue.popleft()
                elif self._failed_queue and len(self._failed_slots) < FAILED_SLOTS:
                    name = self._failed_queue.popleft()
                else:
                    return
                self._begin(name, self._names[name])
                if self.clock.seconds() >= end:
                    self._rest = self.clock.callLater(0, self._begin_rest)
                    return
        finally:
            self._beginning = False

    def _begin_rest(self) -> None:
        self._rest = None
        self._begin_some()

    def _begin(self, name: str, known: _Name) -> None:
        self._under_way += 1
        known.begun = self.clock.seconds()
        slot = object()
        self._slots[slot] = self.clock.callLater(SLOT_SECONDS, self._free_slot, slot)
        if known.away:
            self._failed_slots.add(slot)
        found = self._look_up(name)
        found.addCallbacks(self._found, self._failed, callbackArgs=(name, known), errbackArgs=(name, known))
        found.addBoth(self._over, slot)

    def _free_slot(self, slot: object) -> None:
        """The look-up takes a long time; others should not wait for it."""
        del self._slots[slot]
        self._failed_slots.discard(slot)
        self._begin_some()

    def _over(self, _: object, slot: object) -> None:
        self._under_way -= 1
        self._failed_slots.discard(slot)
        timer = self._slots.pop(slot, None)
        if timer is not None:
            timer.cancel()
        self._begin_some()

    def _found(self, answer: Answer, name: str, known: _Name) -> None:
        before = known.addresses
        addresses = answer.addresses if answer.whole else _with_missing(answer.addresses, before)
        known.addresses = addresses
        if addresses:
            known.fault = None
            ttl = min(max(float(answer.ttl), MIN_TTL), MAX_TTL, *known.watchers.values())
        else:
            known.fault = Unresolved("its name has no address")
            ttl = NO_ADDRESS_TTL
        if known.away:
            known.away = False
            _log.info("The name {name} is {state} again", name=name, state="resolved")
        known.answer = answer
        self._settle(name, known, ttl)
        for watcher in list(known.watchers):
            watcher(answer)
        if not answer.whole and not answer.ttl:
            # The addresses of the other family have not arrived yet.
            self._refresh(name, known)
        overlaps = not set(addresses).isdisjoint(before)
        kept = tuple(dict.fromkeys(chain(*known.recent)))
        known.recent = (addresses, *(known.recent[: RECENT_ANSWERS - 1] if overlaps else ()))
        now_kept = tuple(dict.fromkeys(chain(*known.recent)))
        if before and set(kept) != set(now_kept):
            if addresses or not known.watchers:
                shown = listed(addresses, SHOWN_ADDRESSES) or "no address"
                text = "The name {name} has other addresses: {addresses}"
                self._moves.info(name, text, name=name, state="moved", addresses=shown)
            for follower in list(known.followers):
                follower(now_kept)

    def _failed(self, failure: Failure, name: str, known: _Name) -> None:
        lookup = failure.value
        if isinstance(lookup, LookupFailed):
            detail, shortage = lookup.detail, lookup.shortage
        else:
            _log.failure("The name {name} could not be looked up", failure, name=name)
            detail, shortage = "it could not be looked up", False
        if not known.addresses:
            known.fault = Unresolved(f"its name cannot be resolved: {detail}", shortage)
        if not known.away:
            known.away = True
            still = "; its last addresses are used" if known.addresses else ""
            text = "The name {name} {state}: {reason}{still}"
            _log.warn(text, name=name, state="cannot be resolved", reason=detail, still=still)
        self._settle(name, known, RETRY_SECONDS)
        for watcher in list(known.watchers):
            watcher(None)

    def _settle(self, name: str, known: _Name, seconds: float) -> None:
        known.looking = False
        known.begun = None
        known.looked_at = self.clock.seconds()
        known.until = known.looked_at + seconds
        self._look_later(name, known)
        for tell in list(known.waiters.values()):
            tell()
