"""The connection on a real reactor: what a clock in memory cannot show."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import gatherResults, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from tests.integration.redis_server import MISSING, RedisServer, Tls
from tests.stores.certificates import Authority
from tests.stores.contract import new_path
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.redis.connection import RedisConnection
from twisted_lb.stores.redis.endpoints import endpoint_of
from twisted_lb.stores.redis.protocol import encode_command
from twisted_lb.stores.redis.url import RedisSecurity, parse_redis_url

PING = encode_command(b"PING")


class OnRedis(TestCase):
    """A server and a connection to it."""

    timeout = 180
    deadline = 0.3

    @inlineCallbacks
    def setUp(self) -> Any:
        if MISSING:
            raise SkipTest(MISSING)
        from twisted.internet import reactor

        self.reactor: Any = reactor
        tls = self.tls()
        self.server = RedisServer(tls=tls)
        self.addCleanup(self.server.close)
        self.server.start()
        address = parse_redis_url(self.server.url)
        endpoint = endpoint_of(address, self.reactor, RedisSecurity(tls.ca_file if tls else ""))
        self.connection = RedisConnection(endpoint, address.place, self.reactor, self.deadline)
        self.downs: list[str] = []
        self.connection.on_down = lambda: self.downs.append(self.connection.reason)
        self.addCleanup(self.connection.stop)
        yield self.connection.start(lambda: [PING])
        self.assertTrue(self.connection.ready, self.connection.reason)

    def tls(self) -> Tls | None:
        return None

    @inlineCallbacks
    def until_ready(self) -> Any:
        """The seconds until it is."""
        began = self.reactor.seconds()
        while not self.connection.ready:
            self.assertLess(self.reactor.seconds() - began, 60.0, self.connection.reason)
            yield deferLater(self.reactor, 0.005)
        return self.reactor.seconds() - began

    @inlineCallbacks
    def test_a_process_that_stands_still_keeps_its_connection(self) -> Any:
        """When this process does nothing for three deadlines, replies that came meanwhile are in time."""
        for _ in range(3):
            # Some are sent at once and some wait in the transport.
            calls = [self.connection.call(PING) for _ in range(3)]
            time.sleep(3 * self.deadline)
            self.assertEqual((yield gatherResults(calls)), [b"PONG"] * 3)
            yield deferLater(self.reactor, 0.02)
        self.assertEqual(self.downs, [])


class PlainTests(OnRedis):
    """Without TLS."""

    @inlineCallbacks
    def test_outages_of_every_kind(self) -> Any:
        """A stop costs one deadline, a kill nothing; within a second of its return Redis is used again, mostly."""
        back = []
        self.server.pause()
        began = self.reactor.seconds()
        yield self.assertFailure(self.connection.call(PING), StoreUnavailable)
        self.assertLess(self.reactor.seconds() - began, 10 * self.deadline)
        for away in (0.05, 0.6, 1.2):
            yield deferLater(self.reactor, away)
            self.assertFalse(self.connection.ready)
            self.server.resume()
            back.append((yield self.until_ready()))
            self.server.pause()
            yield self.assertFailure(self.connection.call(PING), StoreUnavailable)
        self.server.resume()
        yield self.until_ready()
        for away in (0.05, 1.3):
            self.server.kill()
            yield deferLater(self.reactor, away)
            self.assertFalse(self.connection.ready)
            self.server.start()
            back.append((yield self.until_ready()))
        # The machine may do other things meanwhile.
        self.assertLess(sorted(back)[len(back) // 2], 1.0, back)
        self.assertEqual(len(self.downs), 6)


class TlsTests(OnRedis):
    """With TLS, where what is sent waits in more places."""

    def tls(self) -> Tls:
        directory = Path(new_path(self))
        directory.mkdir()
        authority = Authority(directory)
        return Tls(authority.ca_file, *authority.sign("redis", "127.0.0.1"))


del OnRedis
