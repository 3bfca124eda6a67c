"""Queues of requests that wait for their tokens, after `Prefer: wait=N` (RFC 7240 section 4.3).

Each key has its own queue, first in, first out.  Only the first request of a queue calls the store, usually not before
its tokens can be available, so the number of calls depends on the number of tokens, not on the length of the queue.

1. A request that cannot get its tokens within the time that it is willing to wait is refused immediately.
2. No other request of the key overtakes a queue.  A request that is not willing to wait, or for which there is no room,
   joins the queue too, but only until the store has answered that the first request must wait longer.
3. Every request that joins makes the first one call the store, as the request itself would have done.  So a changed
   policy applies to the whole queue from the next request on.
4. The number of waiting requests is limited, and each key may have a tenth of them.  Requests that have joined without
   waiting are not counted: they use no more memory than any request with a pending call to the store.

Other instances have their own queues for the same key; between instances, the first call to the store gets the tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from twisted_lb.interfaces import IN_FLIGHT, MICROTOKENS, QUOTA, Taken
from twisted_lb.quotas import REQUESTS

# Between calls to the store because of the limit on requests in flight: it is not known here when requests of other
# instances end.
POLL_SECONDS: Final = 0.1
# Timers have a resolution of about a millisecond; a premature call to the store would need a second one.
MARGIN_SECONDS: Final = 0.001
SHARE_OF_A_KEY: Final = 10


class Waiting(Protocol):
    """A request that waits."""

    def ask_again(self) -> None:
        """Call the store, and report its decision to the queue with `served`, `refused` or `leave`."""

    def wait_timed_out(self, taken: Taken, ahead: int) -> None:
        """The request was removed from the queue without its tokens.

        `taken` is the store's last decision about the key; other requests wait for `ahead` tokens now.
        """


class _Place:
    """A request's place in its queue."""

    __slots__ = ("cost", "until", "timeout")

    def __init__(self, cost: int, until: float) -> None:
        self.cost = cost
        self.until = until  # the time until which it is willing to wait
        self.timeout: IDelayedCall | None = None  # None: it does not wait yet


class KeyQueue:
    """The waiting requests of one key, in the order of their arrival."""

    __slots__ = ("taken", "known_at", "cost", "waiting", "places", "turn", "asking")

    def __init__(self, taken: Taken, now: float) -> None:
        self.taken = taken  # the store's last decision
        self.known_at = now
        self.cost = 0  # tokens, of all requests in the queue
        self.waiting = 0  # number of requests with a timeout
        self.places: OrderedDict[Waiting, _Place] = OrderedDict()
        self.turn: IDelayedCall | None = None  # the first one's next call to the store
        self.asking = False  # whether that call is pending

    def seconds_until(self, tokens: int, now: float) -> float:
        """Seconds until the bucket can hold `tokens`, as far as is known."""
        _, _, capacity, rate, level, limit, more, _, _, _ = self.taken
        if limit == IN_FLIGHT:
            return 0.0
        age = now - self.known_at
        seconds = _seconds_until(tokens, capacity, rate, level, age)
        for one in more:
            seconds = max(seconds, _seconds_until(tokens, one.capacity, one.rate_per_sec, one.level, age))
        return seconds

    def holds_never(self, cost: int) -> bool:
        """Whether the bucket that has refused can never hold that many tokens, as far as is known."""
        taken = self.taken
        if taken.limit == QUOTA and taken.quota is not None:
            # Requests do not wait for the next period.
            return (1 if taken.quota.unit == REQUESTS else cost) > taken.quota.left
        return taken.limit != IN_FLIGHT and cost > taken.capacity


def _seconds_until(tokens: int, capacity: int, rate: float, level: int, age: float) -> float:
    """Seconds until a bucket that had this level `age` seconds ago can hold `tokens`."""
    level_now = min(level + age * rate * MICROTOKENS, capacity * MICROTOKENS)
    missing = tokens * MICROTOKENS - level_now
    if missing <= 0:
        return 0.0
    return missing / MICROTOKENS / rate if rate else inf


class WaitQueue:
    """The queues of one process."""

    def __init__(self, reactor: IReactorTime, size: int) -> None:
        """`size` is the maximum number of waiting requests."""
        self.key_queues: dict[str, KeyQueue] = {}  # by the key's digest
        self._reactor = reactor
        self._size = size
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def join(self, waiting: Waiting, digest: str, cost: int, timeout: float, taken: Taken) -> bool:
        """Create a queue for the key, in which the request waits up to `timeout` seconds; False if that is useless.

        `taken` is the store's refusal.  As with `enqueue`, a method of `waiting` may be called before this returns.
        """
        if digest in self.key_queues:
            self.enqueue(waiting, digest, cost, timeout)
            return True
        queue = KeyQueue(taken, self._reactor.seconds())
        if queue.holds_never(cost) or not self._useful(queue, 0, cost, timeout):
            return False
        self.key_queues[digest] = queue
        self._add(queue, waiting, cost, timeout)
        self._schedule(digest, queue)
        return True

    def enqueue(self, waiting: Waiting, digest: str, cost: int, timeout: float) -> None:
        """Join the end of the key's queue, for up to `timeout` seconds.

        Whether it waits is decided after a call to the store, whose decision may differ from the last one.
        """
        queue = self.key_queues[digest]
        self._add(queue, waiting, cost, timeout)
        if not queue.asking:
            self._no_turn(queue)
            self._ask(digest, queue)

    def _room(self, queue: KeyQueue) -> bool:
        return self._count < self._size and queue.waiting < max(1, self._size // SHARE_OF_A_KEY)

    def _useful(self, queue: KeyQueue, ahead: int, cost: int, timeout: float) -> bool:
        """Whether there is room, and a request of this cost would get its tokens in time, as far as is known."""
        soonest = queue.seconds_until(ahead + cost, self._reactor.seconds())
        return self._room(queue) and soonest + (queue.waiting + 1) * MARGIN_SECONDS <= timeout

    def _add(self, queue: KeyQueue, waiting: Waiting, cost: int, timeout: float) -> None:
        queue.places[waiting] = _Place(cost, self._reactor.seconds() + timeout)
        queue.cost += cost

    def served(self, digest: str, waiting: Waiting, taken: Taken) -> None:
        """The first request has its tokens."""
        queue = self.key_queues[digest]
        queue.taken, queue.known_at = taken, self._reactor.seconds()
        self.leave(digest, waiting)

    def refused(self, digest: str, waiting: Waiting, taken: Taken) -> None:
        """The first request was refused, being too early or behind other instances; it keeps its place if it waits."""
        queue = self.key_queues[digest]
        queue.taken, queue.known_at = taken, self._reactor.seconds()
        queue.asking = False
        self._schedule(digest, queue)

    def leave(self, digest: str, waiting: Waiting) -> None:
        """Remove a request from the queue."""
        queue = self.key_queues[digest]
        first = next(iter(queue.places)) is waiting
        self._remove(queue, waiting)
        if first:
            queue.asking = False
            self._schedule(digest, queue)

    def close_in(self, seconds: float) -> None:
        """Limit all remaining waiting times, so that every request is answered before its connection is closed."""
        end = self._reactor.seconds() + seconds
        for queue in self.key_queues.values():
            for place in queue.places.values():
                if place.timeout is not None and place.timeout.getTime() > end:
                    place.timeout.reset(seconds)

    def room_available(self, digest: str) -> None:
        """A request of this key that was in flight has ended."""
        queue = self.key_queues[digest]
        if queue.taken.limit == IN_FLIGHT and not queue.asking:
            self._no_turn(queue)
            self._ask(digest, queue)

    def _remove(self, queue: KeyQueue, waiting: Waiting) -> None:
        place = queue.places.pop(waiting)
        queue.cost -= place.cost
        if place.timeout is not None:
            queue.waiting -= 1
            self._count -= 1
            if place.timeout.active():
                place.timeout.cancel()

    def _schedule(self, digest: str, queue: KeyQueue) -> None:
        """Schedule the first request's call to the store, and remove requests that cannot get their tokens in time."""
        self._no_turn(queue)
        gone = [waiting for waiting, place in queue.places.items() if queue.holds_never(place.cost)]
        for waiting in gone:
            self._remove(queue, waiting)
        if self._seconds_to_turn(queue) > 0:
            gone += self._decide(digest, queue)
        seconds = self._seconds_to_turn(queue)
        if not queue.places:
            del self.key_queues[digest]
        elif seconds < inf:
            queue.turn = self._reactor.callLater(seconds + MARGIN_SECONDS, self._ask, digest, queue)
        for waiting in gone:
            waiting.wait_timed_out(queue.taken, queue.cost)

    def _decide(self, digest: str, queue: KeyQueue) -> list[Waiting]:
        """The first request must wait: let new requests wait as well, or remove and return those that cannot."""
        ahead = 0
        gone: list[Waiting] = []
        for waiting, place in list(queue.places.items()):
            if place.timeout is None:
                timeout = place.until - self._reactor.seconds()
                if not self._useful(queue, ahead, place.cost, timeout):
                    self._remove(queue, waiting)
                    gone.append(waiting)
                    continue
                place.timeout = self._reactor.callLater(timeout, self._give_up, digest, waiting)
                queue.waiting += 1
                self._count += 1
            ahead += place.cost
        return gone

    def _seconds_to_turn(self, queue: KeyQueue) -> float:
        if not queue.places:
            return inf
        if queue.taken.limit == IN_FLIGHT and not queue.taken.admitted:
            return POLL_SECONDS
        return queue.seconds_until(next(iter(queue.places.values())).cost, self._reactor.seconds())

    def _no_turn(self, queue: KeyQueue) -> None:
        if queue.turn is not None and queue.turn.active():
            queue.turn.cancel()
        queue.turn = None

    def _ask(self, digest: str, queue: KeyQueue) -> None:
        queue.asking = True
        next(iter(queue.places)).ask_again()

    def _give_up(self, digest: str, waiting: Waiting) -> None:
        queue = self.key_queues[digest]
        self.leave(digest, waiting)
        waiting.wait_timed_out(queue.taken, queue.cost)
