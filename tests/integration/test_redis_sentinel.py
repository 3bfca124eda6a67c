"""A master, its replica and three sentinels, and what a store sees when the master changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SkipTest, TestCase

from tests.integration.redis_server import MISSING, Replicated, Tls
from tests.stores.certificates import Authority
from tests.stores.contract import Asker, digest_of, new_path
from twisted_lb.interfaces import MICROTOKENS, Account, Limits, Taken
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.store import RedisStore
from twisted_lb.stores.redis.url import RedisSecurity

CAPACITY = 1_000_000
PASSWORD = "p@ss"
SENTINEL_PASSWORD = "another"


class OnSentinels(TestCase):
    """A store that is told of sentinels only, with a password and a database of its own."""

    timeout = 300

    def setUp(self) -> Deferred[None]:
        if MISSING:
            raise SkipTest(MISSING)
        from twisted.internet import reactor

        self.reactor: Any = reactor
        tls = self.tls()
        self.redis = Replicated(PASSWORD, db=3, sentinel_password=SENTINEL_PASSWORD, tls=tls)
        self.addCleanup(self.redis.close)
        self.redis.start()
        security = RedisSecurity(ca_file=tls.ca_file if tls else "", sentinel_password=SENTINEL_PASSWORD)
        fallback = Fallback("local", self.reactor.seconds, 100, Limits())
        self.store = RedisStore(self.redis.url, self.reactor, fallback=fallback, deadline=1.0, security=security)
        self.addCleanup(self.store.stop)
        return self.store.start()

    def tls(self) -> Tls | None:
        return None

    def take(self) -> Deferred[Any]:
        receiver = Asker()
        self.store.take(digest_of("k"), receiver)
        return receiver.told

    @inlineCallbacks
    def take_until(self, condition: Any, seconds: float = 120.0) -> Any:
        """Take a token every few milliseconds until `condition()`; how many were taken, and how long it took.

        Every taking has to be admitted at once: by Redis, or by the fallback.
        """
        began = self.reactor.seconds()
        admitted = 0
        while not condition():
            self.assertLess(self.reactor.seconds() - began, seconds, self.store.state().reason)
            asked_at = self.reactor.seconds()
            taken = yield self.take()
            self.assertIsInstance(taken, Taken)
            self.assertTrue(taken.admitted)
            self.assertLess(self.reactor.seconds() - asked_at, 5.0)
            admitted += 1
            yield deferLater(self.reactor, 0.005)
        return admitted, self.reactor.seconds() - began

    def up(self) -> bool:
        return bool(self.store.state().up)

    def spent(self, server: int) -> int:
        """The tokens that are missing in the bucket, by the server of this number."""
        reply = self.redis.servers[server].command("HGET", "tokenlb:{%s}" % digest_of("k"), "level")
        return CAPACITY - int(reply.split(b"\r\n")[1]) // MICROTOKENS

    def assert_counted(self, admitted: int, server: int, lost: int) -> None:
        """What was admitted is what the bucket misses, but for what a change of master may lose or count twice."""
        self.assertLessEqual(abs(admitted - self.spent(server)), lost)


class FailoverTests(OnSentinels):
    """The master changes under a store that takes tokens all the time."""

    @inlineCallbacks
    def test_a_master_that_dies(self) -> Any:
        """After kill -9 the store is at the new master within seconds, and has admitted all the while."""
        yield self.store.create(digest_of("k"), Account("ann", CAPACITY, 0.0))
        old, new = self.redis.servers
        before, _ = yield self.take_until(lambda: self.store.takes >= 20)
        with capturedLogs() as events:
            old.kill()
            down, _ = yield self.take_until(lambda: not self.up())
            away, seconds = yield self.take_until(self.up)
            # Down-after is a second here, the election takes up to another one, and the store looks twice a second; an
            # election that fails is repeated after 8 seconds.
            self.assertLess(seconds, 30.0)
            self.assertEqual(new.role(), "master")
            after, _ = yield self.take_until(lambda: self.store.counts()["store_up"] and self.spent(1) >= before + away)
        self.assertGreater(away, 10)
        self.assert_counted(before + down + away + after, 1, 10)
        said = [event for event in events if "redis" in event["log_namespace"]]
        self.assertEqual([event["log_level"].name for event in said], ["error", "info", "info"])
        self.assertEqual(said[1]["master"], f"127.0.0.1:{new.port}")
        for event in said:
            self.assertNotIn(PASSWORD, str(event.get("reason")))
        # The one that died comes back, and is a second master for some seconds: nobody goes there.
        old.start()
        outages, takes = self.store.counts()["store_outages"], self.store.takes
        yield self.take_until(lambda: self.store.takes >= takes + 100)
        self.assertEqual(self.store.counts()["store_outages"], outages)
        self.assertGreater(self.spent(1), before + away + 90)

    @inlineCallbacks
    def test_a_change_of_master_in_order(self) -> Any:
        """After SENTINEL FAILOVER the store leaves the old master within seconds of the new one's election."""
        yield self.store.create(digest_of("k"), Account("ann", CAPACITY, 0.0))
        old, new = self.redis.servers
        before, _ = yield self.take_until(lambda: self.store.takes >= 20)
        address = str(new.port).encode()
        sentinel = self.redis.sentinels[2]
        sentinel.command("SENTINEL", "FAILOVER", "mymaster")
        until, _ = yield self.take_until(
            lambda: address in sentinel.command("SENTINEL", "get-master-addr-by-name", "mymaster")
        )
        outages = self.store.counts()["store_outages"]
        after, seconds = yield self.take_until(lambda: self.store.counts()["store_outages"] > outages)
        self.assertLess(seconds, 15.0)
        last, _ = yield self.take_until(self.up)
        self.assertEqual(new.role(), "master")
        yield self.take()
        # What the old master took after the change is lost.  The sentinels see the change up to a second after it.
        self.assert_counted(before + until + after + last + 1, 1, until + after + 10)


class TlsFailoverTests(OnSentinels):
    """The same with TLS between all of them."""

    def tls(self) -> Tls:
        directory = Path(new_path(self))
        directory.mkdir()
        authority = Authority(directory)
        return Tls(authority.ca_file, *authority.sign("redis", "127.0.0.1"))

    @inlineCallbacks
    def test_a_master_that_dies(self) -> Any:
        """Sentinels and masters are reached over TLS, before and after the death of a master."""
        yield self.store.create(digest_of("k"), Account("ann", CAPACITY, 0.0))
        before, _ = yield self.take_until(lambda: self.store.takes >= 20)
        self.redis.servers[0].kill()
        yield self.take_until(lambda: not self.up())
        yield self.take_until(self.up)
        yield self.take_until(lambda: self.spent(1) > before)


class SentinelsAwayTests(OnSentinels):
    """Sentinels that are gone."""

    @inlineCallbacks
    def test_a_master_without_sentinels_goes_on(self) -> Any:
        """When all sentinels die, the connection goes on; a lost one is made again when one of them is back."""
        yield self.store.create(digest_of("k"), Account("ann", CAPACITY, 0.0))
        for sentinel in self.redis.sentinels:
            sentinel.kill()
        began = self.reactor.seconds()
        yield self.take_until(lambda: self.reactor.seconds() > began + 1.5)
        self.assertTrue(self.up())
        self.redis.servers[0].command("CLIENT", "KILL", "TYPE", "normal")
        yield self.take_until(lambda: "no sentinel names a master of mymaster" in self.store.state().reason)
        for sentinel in self.redis.sentinels:
            self.assertIn(f"127.0.0.1:{sentinel.port}: Connection was refused", self.store.state().reason)
        self.redis.sentinels[1].start()
        yield self.take_until(self.up)
