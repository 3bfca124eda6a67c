"""An embedded store whose clock and disk are the test's."""

from __future__ import annotations

import shutil
from typing import Any, Callable

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.contract import Asker, digest_of, new_path
from twisted_lb.interfaces import Account
from twisted_lb.stores.sqlite.store import EmbeddedStore

SECOND = 1_000_000  # microseconds
START = 1_800_000_000 * SECOND


class Disk:
    """Runs what the store would run in its thread: at once, or when told, or not."""

    def __init__(self) -> None:
        self.held = False
        self.broken: Exception | None = None
        self.waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        self.calls = 0
        self.writes = 0  # those of the calls that write

    def run(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        self.calls += 1
        self.writes += call.__name__ not in ("look", "names")
        if self.broken is not None:
            return fail(self.broken)
        if not self.held:
            return maybeDeferred(call, *arguments)
        done: Deferred[Any] = Deferred()
        self.waiting.append((done, lambda: call(*arguments)))
        return done

    def one(self) -> None:
        """Let the oldest waiting call run and return."""
        done, call = self.waiting.pop(0)
        maybeDeferred(call).chainDeferred(done)


class StoreOnClock(SynchronousTestCase):
    """A store in a temporary directory, with a clock that the test moves."""

    def setUp(self) -> None:
        self.data_dir = new_path(self)
        self.clock = Clock()
        self.disk = Disk()
        self.now_us = START
        self.store = self.started(self.data_dir)

    def started(self, data_dir: str) -> EmbeddedStore:
        store = EmbeddedStore(data_dir, lambda: self.now_us, self.clock, self.disk.run)
        store.start()
        self.addCleanup(lambda: self.successResultOf(store.stop()))
        return store

    def restart(self) -> None:
        self.successResultOf(self.store.stop())
        self.store = self.started(self.data_dir)

    def crash(self) -> None:
        """Go on with what is on disk now, as after kill -9."""
        copy = new_path(self)
        shutil.copytree(self.data_dir, copy)
        self.store = self.started(copy)

    def create(self, key: str, capacity: int = 5, rate_per_sec: float = 0.0) -> None:
        self.successResultOf(self.store.create(digest_of(key), Account("user " + key, capacity, rate_per_sec)))

    def take(self, key: str, cost: int = 1) -> Any:
        receiver = Asker()
        self.store.take(digest_of(key), receiver, cost)
        self.assertEqual(len(receiver.answers), 1, "the embedded store answers within the call")
        return receiver.answers[0]

    def level(self, key: str) -> int:
        profile = self.successResultOf(self.store.profile(digest_of(key)))
        assert profile is not None
        return profile.level
