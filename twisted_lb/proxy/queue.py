"""Where requests wait while every server has as many as it may: fair between users, bounded in length and time.

Users take turns (weighted round robin), so one who sends a thousand requests at once waits behind
their own, and somebody else's single request is the next but one.  Within a user the order is that of
arrival.  All have the same time to wait, so the oldest is always the first whose time is up.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from twisted_lb.proxy.deadlines import NEVER, TICK_SECONDS, Sweeper

MAX_WEIGHT = 100


class Waiting(Protocol):
    """A request that waits."""

    @property
    def choosy(self) -> bool:
        """Whether there may be room that it cannot use, and others can."""

    def turn_came(self) -> bool:
        """There may be room for it: whether there was.  If not, it keeps its place."""

    def waited_too_long(self) -> None:
        """Its time is up; it waits no longer."""


class _User:
    """The requests of one user, oldest first."""

    __slots__ = ("weight", "requests")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.requests: OrderedDict[Waiting, None] = OrderedDict()


class FairQueue:
    """The queue of one fleet."""

    def __init__(self, sweeper: Sweeper, size: int, timeout: float) -> None:
        """At most `size` requests wait, each for at most `timeout` seconds."""
        self.deadline = NEVER
        self._sweeper = sweeper
        self._size = size
        self._timeout = timeout
        self._users: OrderedDict[bytes, _User] = OrderedDict()  # the first one has the turn
        self._credit = 0  # requests that the first one may still send in this turn
        self._places: OrderedDict[Waiting, tuple[bytes, float]] = OrderedDict()  # user and deadline, oldest first
        self._serving = False
        self._again = False
        self._stays = False

    def __len__(self) -> int:
        return len(self._places)

    def change(self, size: int, timeout: float) -> None:
        """Other bounds from now on; those that wait keep their place, but none waits longer than a new one."""
        self._size = size
        self._timeout = timeout
        latest = self._sweeper.now + timeout
        for waiting, (user, deadline) in list(self._places.items()):
            self._places[waiting] = (user, min(deadline, latest))
        self._watch_oldest()

    def join(self, waiting: Waiting, user: bytes, weight: int) -> bool:
        """Wait at the end of the user's line; False when the queue is full.

        `weight` is how many of the user's requests go for one of a user of weight 1.
        """
        if waiting in self._places:
            # It found room, lost it again within its turn, and keeps its place.
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
        """Wait no longer."""
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
        """There may be room: let requests go, in fair order, until one finds none."""
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
                if waiting.turn_came():
                    if self._stays:
                        return False
                    self._served(user, waiting)
                    return True
                # One that failed on a server does not go there again; those behind it may.
                if not waiting.choosy:
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
        """Go on: whoever waits is watched again with the next one that comes or goes."""
        self._watch_oldest()
        if self._places:
            self._sweeper.watched.add(self)

    def deadline_passed(self) -> None:
        """Some have waited for too long."""
        # The sweeper's `now` is a tick ahead.
        now = self._sweeper.now - TICK_SECONDS
        while self._places:
            waiting, (_, deadline) = next(iter(self._places.items()))
            if deadline >= now:
                break
            self.leave(waiting)
            waiting.waited_too_long()
