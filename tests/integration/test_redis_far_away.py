"""A Redis whose answers come late, or not at all: no request is charged twice."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import deferLater

from tests.integration.on_redis import OnRedis
from tests.integration.relay import CountingRelay
from tests.stores.contract import Asker, digest_of
from twisted_lb.interfaces import Account, Limits
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.store import RedisStore

CAPACITY = 100_000
KEYS = ("a", "b", "c")


class FarAwayTests(OnRedis):
    """The balancer comes to Redis through a relay; accounts are looked at directly."""

    mode = "local"

    @inlineCallbacks
    def setUp(self) -> Any:
        yield super().setUp()
        self.relay = CountingRelay(self.server.port).start()
        self.addCleanup(self.relay.stop)
        for key in KEYS:
            yield self.store.create(digest_of(key), Account(key, CAPACITY, 0.0))
        self.admitted = dict.fromkeys(KEYS, 0)
        self.far = self.new_far_store()
        yield self.far.start()
        yield self.ask_for(0.1)

    def new_far_store(self) -> RedisStore:
        fallback = Fallback("local", self.reactor.seconds, 1000, Limits())
        url = self.server.url.replace(str(self.server.port), str(self.relay.port))
        store = RedisStore(url, self.reactor, Limits(), fallback, 0.1)
        self.addCleanup(store.stop)
        return store

    @inlineCallbacks
    def ask_for(self, seconds: float) -> Any:
        """Ask for all keys again and again, and charge some after the fact."""
        end = self.reactor.seconds() + seconds
        receivers = []
        while self.reactor.seconds() < end:
            for key in KEYS:
                receiver = Asker()
                self.far.take(digest_of(key), receiver)
                receivers.append((key, receiver))
            yield deferLater(self.reactor, 0.005)
        yield deferLater(self.reactor, 0.6)
        for key, receiver in receivers:
            answer = yield receiver.told
            self.admitted[key] += getattr(answer, "admitted", False)

    @inlineCallbacks
    def until_settled(self) -> Any:
        """Until the store is up and has nothing more to tell."""
        for _ in range(1200):
            if self.far.state().up:
                break
            yield deferLater(self.reactor, 0.05)
        self.assertTrue(self.far.state().up)
        yield self.far._batches.idle()

    @inlineCallbacks
    def check(self) -> Any:
        """Each admitted request has cost a token, and nothing else has."""
        yield self.until_settled()
        for key in KEYS:
            level = (yield self.store.profile(digest_of(key))).level
            self.assertEqual(CAPACITY * 1_000_000 - level, self.admitted[key] * 1_000_000, key)

    @inlineCallbacks
    def test_steadily_too_far(self) -> Any:
        """One that is further away than the deadline is away, once, and what it had begun is charged once."""
        yield self.until_settled()
        before = self.far.counts()["store_outages"]
        self.relay.delay = 0.09
        yield self.ask_for(1.5)
        self.assertFalse(self.far.state().up)
        self.assertEqual(self.far.counts()["store_outages"], before + 1)
        self.relay.delay = 0.0
        yield self.check()

    @inlineCallbacks
    def test_around_the_deadline(self) -> Any:
        """One that is now in time and now late is charged what was admitted."""
        for delay in (0.02, 0.06, 0.03, 0.07, 0.0, 0.05, 0.055):
            self.relay.delay = delay
            yield self.ask_for(0.3)
        self.relay.delay = 0.0
        yield self.check()
        self.assertGreater(self.far.counts()["store_outages"], 0)

    @inlineCallbacks
    def test_replies_that_are_lost(self) -> Any:
        """Calls that were carried out, and whose replies were lost with the connection, count once."""
        for _ in range(4):
            self.relay.deaf = True
            yield self.ask_for(0.1)
            self.relay.deaf = False
            yield self.ask_for(0.1)
        yield self.check()
        self.assertGreater(self.far.counts()["store_outages"], 2)

    @inlineCallbacks
    def test_settling(self) -> Any:
        """What requests cost beyond their token, and what is given back, counts once as well."""
        for round_number in range(4):
            self.relay.deaf = round_number % 2 == 0
            for key, tokens in zip(KEYS, (7, -1, 3)):
                self.far.release(digest_of(key), tokens)
                self.admitted[key] += tokens
            yield self.ask_for(0.1)
        self.relay.deaf = False
        yield self.check()
