"""Where requests wait for their tokens: those whose client said `Prefer: wait=N` (RFC 7240 section 4.3).

Each key has a line of its own, first come, first served.  Only the first of a line asks the store, and mostly
not before its tokens can be there, so a line of any length costs the store one question for each token.

1. Who cannot get its tokens within the time that it would wait is refused at once.
2. While a line stands, no other request of the key overtakes it.  One that would not wait, or for which there
   is no room, stands in the line as well, but only until the store has said that the line does not move now.
3. Every request that comes makes the first one ask, as it would have asked itself: a policy that has changed
   holds from the next request on, for the whole line.
4. The room is bounded as a whole, and no key may have more than a tenth of it.  Who stands without waiting is
   not counted: it has no more than any other request whose question is under way.

Other instances have lines of their own for the same key; between them, whoever asks first is first.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from twisted_lb.interfaces import IN_FLIGHT, MICROTOKENS, Taken

# When requests in flight are the limit, those of other instances end unseen.
POLL_SECONDS = 0.1
# Timers have a resolution of about a millisecond; asking too early costs the store a second question.
MARGIN_SECONDS = 0.001
SHARE_OF_A_KEY = 10


class Waiting(Protocol):
    """A request that waits."""

    def ask_again(self) -> None:
        """Its turn has come: ask the store, and tell the room of the answer by `served`, `refused` or `leave`."""

    def waited_in_vain(self, taken: Taken, ahead: int) -> None:
        """It has left the room without its tokens.

        `taken` is what the store last said of the key, and `ahead` are the tokens for which others wait now.
        """


class _Place:
    """A request's place in its line."""

    __slots__ = ("cost", "until", "patience")

    def __init__(self, cost: int, until: float) -> None:
        self.cost = cost
        self.until = until  # the time until which it would wait
        self.patience: IDelayedCall | None = None  # None: it does not wait yet


class Line:
    """The requests of one key that wait, first come first."""

    __slots__ = ("taken", "known_at", "cost", "waiting", "places", "turn", "asking")

    def __init__(self, taken: Taken, now: float) -> None:
        self.taken = taken  # the store's last answer
        self.known_at = now
        self.cost = 0  # tokens, of all that stand here
        self.waiting = 0  # how many of them wait
        self.places: OrderedDict[Waiting, _Place] = OrderedDict()
        self.turn: IDelayedCall | None = None  # when the first one asks
        self.asking = False  # its question is under way

    def seconds_until(self, tokens: int, now: float) -> float:
        """Seconds until the bucket can have given `tokens`, as far as is known."""
        _, _, capacity, rate, level, limit = self.taken
        if limit == IN_FLIGHT:
            return 0.0
        level_now = min(level + (now - self.known_at) * rate * MICROTOKENS, capacity * MICROTOKENS)
        missing = tokens * MICROTOKENS - level_now
        if missing <= 0:
            return 0.0
        return missing / MICROTOKENS / rate if rate else inf


    def holds_never(self, cost: int) -> bool:
        """Whether a bucket that has refused cannot hold so many tokens, as far as is known."""
        return self.taken.limit != IN_FLIGHT and cost > self.taken.capacity


class WaitingRoom:
    """The lines of one process."""

    def __init__(self, reactor: IReactorTime, size: int) -> None:
        """At most `size` requests wait."""
        self.lines: dict[str, Line] = {}  # by the key's digest
        self._reactor = reactor
        self._size = size
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def join(self, waiting: Waiting, digest: str, cost: int, patience: float, taken: Taken) -> bool:
        """Make a line for the key, whose first one waits up to `patience` seconds; False when that is no use.

        `taken` is the store's refusal.  The answer may come within the call, as for `stand_behind`.
        """
        if digest in self.lines:
            self.stand_behind(waiting, digest, cost, patience)
            return True
        line = Line(taken, self._reactor.seconds())
        if line.holds_never(cost) or not self._useful(line, 0, cost, patience):
            return False
        self.lines[digest] = line
        self._add(line, waiting, cost, patience)
        self._schedule(digest, line)
        return True

    def stand_behind(self, waiting: Waiting, digest: str, cost: int, patience: float) -> None:
        """Stand at the end of the key's line, for up to `patience` seconds.

        Whether it waits is decided when the store has been asked: its answer may be another than the last one.
        """
        line = self.lines[digest]
        self._add(line, waiting, cost, patience)
        if not line.asking:
            self._no_turn(line)
            self._ask(digest, line)

    def _room(self, line: Line) -> bool:
        return self._count < self._size and line.waiting < max(1, self._size // SHARE_OF_A_KEY)

    def _useful(self, line: Line, ahead: int, cost: int, patience: float) -> bool:
        """Whether there is room, and a request of this cost would have its tokens in time, as far as is known."""
        soonest = line.seconds_until(ahead + cost, self._reactor.seconds())
        return self._room(line) and soonest + (line.waiting + 1) * MARGIN_SECONDS <= patience

    def _add(self, line: Line, waiting: Waiting, cost: int, patience: float) -> None:
        line.places[waiting] = _Place(cost, self._reactor.seconds() + patience)
        line.cost += cost

    def served(self, digest: str, waiting: Waiting, taken: Taken) -> None:
        """The first one has its tokens."""
        line = self.lines[digest]
        line.taken, line.known_at = taken, self._reactor.seconds()
        self.leave(digest, waiting)

    def refused(self, digest: str, waiting: Waiting, taken: Taken) -> None:
        """The first one has asked too early, or somebody else was faster; it keeps its place if it waits."""
        line = self.lines[digest]
        line.taken, line.known_at = taken, self._reactor.seconds()
        line.asking = False
        self._schedule(digest, line)

    def leave(self, digest: str, waiting: Waiting) -> None:
        """Wait no longer."""
        line = self.lines[digest]
        first = next(iter(line.places)) is waiting
        self._remove(line, waiting)
        if first:
            line.asking = False
            self._schedule(digest, line)

    def close_in(self, seconds: float) -> None:
        """Let nobody wait for longer than this, so that all are answered before their connections end."""
        end = self._reactor.seconds() + seconds
        for line in self.lines.values():
            for place in line.places.values():
                if place.patience is not None and place.patience.getTime() > end:
                    place.patience.reset(seconds)

    def room_came(self, digest: str) -> None:
        """A request of this key that was in flight has ended."""
        line = self.lines[digest]
        if line.taken.limit == IN_FLIGHT and not line.asking:
            self._no_turn(line)
            self._ask(digest, line)

    def _remove(self, line: Line, waiting: Waiting) -> None:
        place = line.places.pop(waiting)
        line.cost -= place.cost
        if place.patience is not None:
            line.waiting -= 1
            self._count -= 1
            if place.patience.active():
                place.patience.cancel()

    def _schedule(self, digest: str, line: Line) -> None:
        """Set the time at which the first one asks; those for whom that is of no use go."""
        self._no_turn(line)
        gone = [waiting for waiting, place in line.places.items() if line.holds_never(place.cost)]
        for waiting in gone:
            self._remove(line, waiting)
        if self._seconds_to_turn(line) > 0:
            gone += self._decide(digest, line)
        seconds = self._seconds_to_turn(line)
        if not line.places:
            del self.lines[digest]
        elif seconds < inf:
            line.turn = self._reactor.callLater(seconds + MARGIN_SECONDS, self._ask, digest, line)
        for waiting in gone:
            waiting.waited_in_vain(line.taken, line.cost)

    def _decide(self, digest: str, line: Line) -> list[Waiting]:
        """The line does not move now: who has come since it did waits from now on, or is returned, and out of it."""
        ahead = 0
        gone: list[Waiting] = []
        for waiting, place in list(line.places.items()):
            if place.patience is None:
                patience = place.until - self._reactor.seconds()
                if not self._useful(line, ahead, place.cost, patience):
                    self._remove(line, waiting)
                    gone.append(waiting)
                    continue
                place.patience = self._reactor.callLater(patience, self._give_up, digest, waiting)
                line.waiting += 1
                self._count += 1
            ahead += place.cost
        return gone

    def _seconds_to_turn(self, line: Line) -> float:
        if not line.places:
            return inf
        if line.taken.limit == IN_FLIGHT and not line.taken.admitted:
            return POLL_SECONDS
        return line.seconds_until(next(iter(line.places.values())).cost, self._reactor.seconds())

    def _no_turn(self, line: Line) -> None:
        if line.turn is not None and line.turn.active():
            line.turn.cancel()
        line.turn = None

    def _ask(self, digest: str, line: Line) -> None:
        line.asking = True
        next(iter(line.places)).ask_again()

    def _give_up(self, digest: str, waiting: Waiting) -> None:
        line = self.lines[digest]
        self.leave(digest, waiting)
        waiting.waited_in_vain(line.taken, line.cost)
