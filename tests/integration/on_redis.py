"""A redis-server and a store on it, both of one test alone."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from tests.integration.redis_server import MISSING, RedisServer
from tests.stores.contract import Asker, digest_of
from twisted_lb.interfaces import Limits
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.store import RedisStore


class OnRedis(TestCase):
    """A redis-server and a store on it, both of this test alone."""

    password: str | None = None
    db = 0
    appendonly = False
    deadline = 5.0
    limits = Limits()
    mode = "deny"
    lease_seconds = 10.0

    def setUp(self) -> Deferred[None]:
        if MISSING:
            raise SkipTest(MISSING)
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.server = RedisServer(self.password, self.appendonly, self.db)
        self.addCleanup(self.server.close)
        self.server.start()
        self.store = self.new_store()
        return self.store.start()

    def new_store(self) -> RedisStore:
        fallback = Fallback(self.mode, self.reactor.seconds, 1000, self.limits)
        store = RedisStore(
            self.server.url, self.reactor, self.limits, fallback, self.deadline, lease_seconds=self.lease_seconds
        )
        self.addCleanup(store.stop)
        return store

    def take(self, key: str) -> Deferred[Any]:
        receiver = Asker()
        self.store.take(digest_of(key), receiver)
        return receiver.told

    @inlineCallbacks
    def until_it_answers(self, key: str) -> Any:
        """Ask until Redis is back; the first answer."""
        for _ in range(3000):
            answer = yield self.take(key)
            if not isinstance(answer, str):
                return answer
            yield deferLater(self.reactor, 0.02)
        self.fail(f"no answer in 60 seconds: {answer}")
