"""All limits of the Redis store at once, on a real redis-server: leases, addresses, the global bucket."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import deferLater

from tests.integration.on_redis import OnRedis
from tests.stores.contract import Asker, digest_of
from twisted_lb.interfaces import IN_FLIGHT, MICROTOKENS, Account, Limits, Policy, Taken


class LimitsTests(OnRedis):
    """All limits at once, with a lease of a second and a half."""

    limits = Limits(Policy(10, 0.0), Policy(2, 0.0), 2)
    lease_seconds = 1.5

    @inlineCallbacks
    def test_the_places_of_an_instance_that_died_are_free_again(self) -> Any:
        """Two requests in flight by another instance count while it lives, and no more when it has died."""
        yield self.store.create(digest_of("k"), Account("ann", 100, 0.0))
        store, self.store = self.store, self.new_store()
        yield self.store.start()
        for _ in range(2):
            self.assertTrue((yield self.take("k")).admitted)
        other, self.store = self.store, store
        yield deferLater(self.reactor, 1.5 * self.lease_seconds)
        # It announces itself all the time, so its lease holds.
        self.assertEqual((yield self.take("k")), Taken(False, b"ann", 2, 0.0, 0, IN_FLIGHT))
        self.assertEqual(self.store.counts()["instances"], 2)
        # As a process that was killed: nothing is announced and nothing is taken back any more.
        other._instance._loop.stop()
        other._connection.stop()
        yield deferLater(self.reactor, 1.5 * self.lease_seconds)
        self.assertEqual((yield self.take("k")).level, 97 * MICROTOKENS)
        for _ in range(600):
            if self.store.counts()["instances"] == 1:
                break
            yield deferLater(self.reactor, 0.1)
        self.assertEqual(self.store.counts()["instances"], 1)

    @inlineCallbacks
    def test_an_instance_that_stops_leaves(self) -> Any:
        """After an orderly stop there is one instance less at once, and its places are free."""
        other = self.new_store()
        yield other.start()
        yield other.stop()
        self.assertEqual(self.server.command("ZCARD", "tokenlb:instances"), b":1\r\n")

    @inlineCallbacks
    def test_after_a_lost_connection_the_count_is_right(self) -> Any:
        """Requests that were in flight when the connection broke count once afterwards, and each end frees a place."""
        yield self.store.create(digest_of("k"), Account("ann", 100, 0.0))
        yield self.take("k")
        yield self.take("k")
        for outages in (1, 2):
            self.server.command("CLIENT", "KILL", "TYPE", "normal")
            yield self.until_it_is_back(outages)
            self.assertEqual((yield self.take("k")).limit, IN_FLIGHT)
        self.store.release(digest_of("k"), 0)
        self.assertTrue((yield self.take("k")).admitted)
        self.assertEqual((yield self.take("k")).limit, IN_FLIGHT)

    @inlineCallbacks
    def until_it_is_back(self, outages: int) -> Any:
        """Wait until the store has lost its connection so often and has another one."""
        for _ in range(6000):
            yield deferLater(self.reactor, 0.01)
            if self.store.counts()["store_outages"] >= outages and self.store.state().up:
                return
        self.fail("not back in 60 seconds")

    @inlineCallbacks
    def test_addresses(self) -> Any:
        """Two unknown keys empty the bucket of a network; then it refuses until a token is given back."""
        yield self.store.create(digest_of("k"), Account("ann", 100, 0.0))
        answers = []
        for key in ("x", "y", "k"):
            receiver = Asker()
            self.store.take(digest_of(key), receiver, 1, "10.0.0.1")
            answers.append((yield receiver.told))
        self.assertEqual(answers, [None, None, Taken(False, b"", 2, 0.0, 0, "address")])
        self.store.release_address("10.0.0.1", -1)
        taken = []
        for _ in range(2):
            receiver = Asker()
            self.store.take_address("10.0.0.1", receiver)
            taken.append((yield receiver.told))
        self.assertEqual(taken, [Taken(admitted, b"", 2, 0.0, 0, "address") for admitted in (True, False)])

    @inlineCallbacks
    def test_a_script_flush_spends_nothing_twice(self) -> Any:
        """With SCRIPT FLUSH between batches that end, charge and take, every token is taken exactly once."""
        yield self.store.create(digest_of("k"), Account("ann", 100, 0.0))
        for number in range(3):
            self.assertTrue((yield self.take("k")).admitted)
            self.server.command("SCRIPT", "FLUSH")
            self.store.release(digest_of("k"), 1)
        profile = yield self.store.profile(digest_of("k"))
        taken = yield self.take("k")
        self.assertIn(profile.level, (95 * MICROTOKENS, 94 * MICROTOKENS))
        self.assertEqual(taken.level, 93 * MICROTOKENS)
        receiver = Asker()
        self.store.take(digest_of("k"), receiver, 4)
        refused = yield receiver.told
        self.assertEqual((refused.limit, refused.level), ("global", 3 * MICROTOKENS))
