"""What is said of a Redis that may throw keys away."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.fake_redis import FakeConnection, FakeEndpoint, array, bulk
from twisted_lb.stores.redis.connection import RedisConnection
from twisted_lb.stores.redis.eviction import EvictionAdvice
from twisted_lb.stores.redis.protocol import encode_command

NO_PERMISSION = b"-NOPERM this user has no permissions to run this command\r\n"
INFO, CONFIG = [b"INFO", b"memory"], [b"CONFIG", b"GET", b"maxmemory-policy"]


def info(policy: bytes) -> bytes:
    return bulk(b"# Memory\r\nmaxmemory:0\r\nmaxmemory_human:0B\r\nmaxmemory_policy:%b\r\nother:1\r\n" % policy)


class EvictionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.connection = RedisConnection(self.endpoint, "redis:6379", self.clock, 1.0)
        self.advice = EvictionAdvice(self.connection, "redis:6379")
        self.connection.on_ready = lambda _: self.advice.look()
        self.connection.start(lambda: [encode_command(b"PING")])
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self.logged)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged)
        self.server = self.connect()

    def logged(self, event: LogEvent) -> None:
        if event.get("log_namespace") == "twisted_lb.stores.redis.eviction":
            self.lines.append(formatEvent(event))

    def connect(self) -> FakeConnection:
        server = self.endpoint.accept()
        self.assertEqual(server.commands(), [[b"PING"]])
        server.reply(b"+PONG\r\n")
        return server

    def reconnect(self) -> None:
        self.server.lose()
        self.clock.advance(0.5)
        self.server = self.connect()

    def exchange(self, command: list[bytes], reply: bytes) -> None:
        self.assertEqual(self.server.commands(), [command])
        self.server.reply(reply)

    def test_keeps_all(self) -> None:
        """A Redis that refuses to write when it is full is not spoken of."""
        self.exchange(INFO, info(b"noeviction"))
        self.assertEqual((self.server.commands(), self.lines), ([], []))

    def test_evicts(self) -> None:
        """One that may evict users is told of, once, with the policy and what it would lose."""
        self.exchange(INFO, info(b"allkeys-lru"))
        (line,) = self.lines
        self.assertIn("Redis at redis:6379 has maxmemory-policy allkeys-lru: ", line)
        self.assertIn("users with their API keys", line)
        self.reconnect()
        self.exchange(INFO, info(b"allkeys-lru"))
        self.assertEqual(len(self.lines), 1)

    def test_evicts_what_expires(self) -> None:
        """One that evicts only what has an expiry loses no users, and is told of."""
        self.exchange(INFO, info(b"volatile-ttl"))
        self.assertIn("the counts of requests in flight", self.lines[0])
        self.assertNotIn("users with", self.lines[0])

    def test_another_redis(self) -> None:
        """After a failover to a Redis with another policy, that one is told of."""
        self.exchange(INFO, info(b"noeviction"))
        self.reconnect()
        self.exchange(INFO, info(b"allkeys-random"))
        self.assertEqual(len(self.lines), 1)

    def test_info_does_not_say(self) -> None:
        """Where INFO is forbidden or does not say, CONFIG is asked."""
        for reply in (NO_PERMISSION, bulk(b"used_memory:1\r\n")):
            self.exchange(INFO, reply)
            self.exchange(CONFIG, array(b"maxmemory-policy", b"volatile-lfu"))
            self.reconnect()
        self.assertEqual(len(self.lines), 1)

    def test_nothing_is_allowed(self) -> None:
        """A Redis that allows neither, or answers oddly, is left alone, and stays the one in use."""
        for reply in (NO_PERMISSION, b"-ERR unknown command 'CONFIG'\r\n", b"*0\r\n", b":1\r\n", bulk(None)):
            self.exchange(INFO, NO_PERMISSION)
            self.exchange(CONFIG, reply)
            self.assertTrue(self.connection.ready)
            self.reconnect()
        self.assertEqual(self.lines, [])

    def test_lost_meanwhile(self) -> None:
        """A connection that is lost before the answer is no failure."""
        self.reconnect()
        self.exchange(INFO, info(b"allkeys-lru"))
        self.assertEqual(len(self.lines), 1)
