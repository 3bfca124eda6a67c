"""Redis over TLS: real redis-servers with certificates of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SkipTest, TestCase

from tests.integration.redis_server import MISSING, RedisServer, Tls
from tests.stores.certificates import Authority
from tests.stores.contract import Asker, digest_of, new_path
from twisted_lb.interfaces import MICROTOKENS, Account, Taken
from twisted_lb.stores.redis.store import RedisStore
from twisted_lb.stores.redis.url import RedisSecurity

PASSWORD = "p@ss word/#"


class TlsTests(TestCase):
    """A store and a server with a password, a database and certificates."""

    timeout = 300

    def setUp(self) -> None:
        if MISSING:
            raise SkipTest(MISSING)
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.directory = Path(new_path(self))
        self.directory.mkdir()
        self.authority = Authority(self.directory)
        self.trusting = RedisSecurity(ca_file=self.authority.ca_file)

    def new_server(self, *names: str, days: int = 2, clients_too: bool = False) -> RedisServer:
        """A running server whose certificate is for `names`."""
        tls = Tls(self.authority.ca_file, *self.authority.sign("redis", *names, days=days), clients_too)
        server = RedisServer(PASSWORD, appendonly=True, db=3, tls=tls)
        self.addCleanup(server.close)
        server.start()
        return server

    def new_store(self, url: str, security: RedisSecurity) -> RedisStore:
        store = RedisStore(url, self.reactor, deadline=1.0, security=security)
        self.addCleanup(store.stop)
        return store

    def take(self, store: RedisStore) -> Deferred[Any]:
        receiver = Asker()
        store.take(digest_of("k"), receiver)
        return receiver.told

    @inlineCallbacks
    def until(self, condition: Any, seconds: float = 60.0) -> Any:
        """Look until `condition()`; how many seconds it took."""
        began = self.reactor.seconds()
        while not condition():
            self.assertLess(self.reactor.seconds() - began, seconds)
            yield deferLater(self.reactor, 0.01)
        return self.reactor.seconds() - began

    @inlineCallbacks
    def test_tokens_are_taken_over_tls_through_outages(self) -> Any:
        """By IP address and by name, through kill and restart, and through a stop of the process."""
        server = self.new_server("localhost", "127.0.0.1")
        store = self.new_store(server.url, self.trusting)
        by_name = self.new_store(server.url.replace("127.0.0.1", "localhost"), self.trusting)
        yield store.start()
        yield by_name.start()
        self.assertTrue(by_name.state().up, by_name.state().reason)
        yield store.create(digest_of("k"), Account("ann", 5, 0.0))
        self.assertEqual((yield self.take(store)), Taken(True, b"ann", 5, 0.0, 4 * MICROTOKENS))
        server.kill()
        yield self.until(lambda: not store.state().up)
        server.start()
        yield self.until(lambda: store.state().up)
        self.assertEqual((yield self.take(store)), Taken(True, b"ann", 5, 0.0, 3 * MICROTOKENS))
        server.pause()
        yield self.take(store)
        self.assertFalse(store.state().up)
        yield deferLater(self.reactor, 0.7)
        server.resume()
        yield self.until(lambda: store.state().up)
        self.assertTrue((yield self.take(by_name)) is not None)

    @inlineCallbacks
    def assert_refused(self, url: str, security: RedisSecurity, *words: str) -> Any:
        """A store that does not come up, with these words in its one line of log, and no password."""
        def lines_of() -> list[str]:
            return [event["reason"] for event in events if event["log_level"].name in ("warn", "error", "critical")]

        with capturedLogs() as events:
            store = self.new_store(url, security)
            yield store.start()
            yield self.until(lines_of)
            yield deferLater(self.reactor, 0.4)
        self.assertFalse(store.state().up)
        lines = lines_of()
        self.assertEqual(len(lines), 1, lines)
        for word in words:
            self.assertIn(word, lines[0])
        self.assertNotIn(PASSWORD, lines[0])

    @inlineCallbacks
    def test_a_server_that_cannot_be_verified_is_told_in_one_line(self) -> Any:
        """Another authority, another name and a server without TLS: each says in one line what to look at."""
        server = self.new_server("redis.example", "127.0.0.1")
        other = Authority(self.directory, "other")
        yield self.assert_refused(server.url, RedisSecurity(other.ca_file), "cannot be verified", "REDIS_TLS_CA_FILE")
        yield self.assert_refused(server.url, RedisSecurity(), "cannot be verified", "REDIS_TLS_CA_FILE")
        named = server.url.replace("127.0.0.1", "localhost")
        yield self.assert_refused(named, self.trusting, "its certificate is not for the host", "localhost:")
        plain = RedisServer()
        self.addCleanup(plain.close)
        plain.start()
        url = f"rediss://127.0.0.1:{plain.port}"
        yield self.assert_refused(url, self.trusting, f"Redis at 127.0.0.1:{plain.port} ", "does it speak TLS?")

    @inlineCallbacks
    def test_an_expired_certificate_is_told(self) -> Any:
        """A certificate whose time is over says so; the store is there as soon as there is a new one."""
        server = self.new_server("127.0.0.1", days=-1)
        yield self.assert_refused(server.url, self.trusting, "cannot be verified: it has expired")
        store = self.new_store(server.url, self.trusting)
        yield store.start()
        server.kill()
        self.authority.sign("redis", "127.0.0.1")
        server.start()
        yield self.until(lambda: store.state().up)

    @inlineCallbacks
    def test_a_server_that_wants_our_certificate(self) -> Any:
        """With a certificate and its key we are let in; without, the log names the settings."""
        server = self.new_server("127.0.0.1", clients_too=True)
        store = self.new_store(server.url, RedisSecurity(self.authority.ca_file, *self.authority.sign("ours")))
        yield store.start()
        self.assertTrue(store.state().up, store.state().reason)
        yield self.assert_refused(server.url, self.trusting, "REDIS_TLS_CERT_FILE and REDIS_TLS_KEY_FILE")
