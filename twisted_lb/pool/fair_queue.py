"""The queue of requests while every server has `maxconn` exchanges: fair between users, bounded in length and time.

Users are served by weighted round robin: the thousand requests of one user delay each other, and the
single request of another user is served after one of them.  Requests of one user are served in the order of
arrival.  All have the same timeout, so the oldest one is always the first to time out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from twisted_lb.deadlines import NEVER, TICK_SECONDS, Sweeper

MAX_WEIGHT: Final = 100


class Waiting(Protocol):
    """A request that waits."""

    @property
    def excludes_servers(self) -> bool:
        """Whether there may be room that this request cannot use, and others can."""

    def slot_available(self) -> bool:
        """There may be room: take it, and return whether there was some.  If not, the request keeps its place."""

    def queue_timed_out(self) -> None:
        """The timeout has passed; the request has left the queue."""


class _User:
    """The requests of one user, oldest first."""

    __slots__ = ("weight", "requests")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.requests: OrderedDict[Waiting, None] = OrderedDict()


class FairQueue:
    """The queue of one pool."""

    def __init__(self, sweeper: Sweeper, size: int, timeout: float) -> None:
        """At most `size` requests wait, each for at most `timeout` seconds."""
        self.deadline = NEVER
        self._sweeper = sweeper
        self._size = size
        self._timeout = timeout
        self._users: OrderedDict[bytes, _User] = OrderedDict()  # the first one is served next
        self._credit = 0  # requests that the first one may still send in this round
        self._places: OrderedDict[Waiting, tuple[bytes, float]] = OrderedDict()  # user and deadline, oldest first
        self._serving = False
        self._again = False
        self._stays = False

    def __len__(self) -> int:
        return len(self._places)

    def change(self, size: int, timeout: float) -> None:
        """Change the limits; waiting requests keep their place, but none waits longer than a new one."""
        self._size = size
        self._timeout = timeout
        latest = self._sweeper.now + timeout
        for waiting, (user, deadline) in list(self._places.items()):
            self._places[waiting] = (user, min(deadline, latest))
        self._watch_oldest()

    def join(self, waiting: Waiting, user: bytes, weight: int) -> bool:
        """Append a request to those of its user; False when the queue is full.

        `weight` is how many of the user's requests are served for each one of a user of weight 1.
        """
        if waiting in self._places:
            # It found room, lost it again within the call, and keeps its place.
            self._stays = True
            return True
        if len(self._places) >= self._size:
            return False
        mine = self._users.get(user)
        if mine is None:
            mine = self._users[user] = _User(max(1, min(weight, MAX_WEIGHT)))
        mine.requests[waiting] = None
        self._places[waiting] = (user, self._sweeper.now + self._timeout)
        if len(self._places) == 1:
            self._credit = mine.weight
            self._sweeper.watched.add(self)
            self._watch_oldest()
        return True

    def leave(self, waiting: Waiting) -> None:
        """Remove a request."""
        place = self._places.pop(waiting, None)
        if place is None:
            return
        mine = self._users[place[0]]
        del mine.requests[waiting]
        if not mine.requests:
            first = next(iter(self._users)) == place[0]
            del self._users[place[0]]
            if first:
                self._refresh_credit()
        self._watch_oldest()

    def serve(self) -> None:
        """There may be room: offer it to the requests, in fair order, until one finds none."""
        self._again = True
        if self._serving:
            return
        self._serving = True
        try:
            while self._again:
                self._again = False
                while self._places and self._serve_one():
                    pass
        finally:
            self._serving = False

    def _serve_one(self) -> bool:
        self._stays = False
        for user, mine in self._users.items():
            for waiting in mine.requests:
                if waiting.slot_available():
                    if self._stays:
                        return False
                    self._served(user, waiting)
                    return True
                # A request is not sent again to a server that failed it; the requests behind it may be.
                if not waiting.excludes_servers:
                    return False
        return False

    def _served(self, user: bytes, waiting: Waiting) -> None:
        first = next(iter(self._users), None) == user
        self.leave(waiting)
        if user not in self._users:
            return
        if not first:
            # It was served before its turn.
            self._users.move_to_end(user)
        elif next(iter(self._users)) == user:
            self._credit -= 1
            if self._credit <= 0:
                self._users.move_to_end(user)
                self._refresh_credit()

    def _refresh_credit(self) -> None:
        first = next(iter(self._users.values()), None)
        self._credit = first.weight if first is not None else 0

    def _watch_oldest(self) -> None:
        if self._places:
            self.deadline = next(iter(self._places.values()))[1]
        else:
            self.deadline = NEVER
            self._sweeper.watched.discard(self)

    def give_up(self) -> None:
        """See Watched.  The queue and its timeouts continue."""
        self._watch_oldest()
        if self._places:
            self._sweeper.watched.add(self)

    def deadline_passed(self) -> None:
        """Time out the requests that have waited too long."""
        # The sweeper's `now` is a tick ahead.
        now = self._sweeper.now - TICK_SECONDS
        while self._places:
            waiting, (_, deadline) = next(iter(self._places.items()))
            if deadline >= now:
                break
            self.leave(waiting)
            waiting.queue_timed_out()
