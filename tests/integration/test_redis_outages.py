"""The Redis store when Redis loses scripts, hangs, dies, cannot be written to, and comes back."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import gatherResults, inlineCallbacks
from twisted.internet.task import deferLater

from tests.integration.on_redis import OnRedis
from tests.stores.contract import Asker, digest_of
from twisted_lb.interfaces import MICROTOKENS, Account, StoreUnavailable, Taken


class OutageTests(OnRedis):
    """Redis loses scripts, hangs, dies and comes back."""

    appendonly = True
    deadline = 1.0

    @inlineCallbacks
    def test_a_script_flush_goes_unnoticed(self) -> Any:
        """After SCRIPT FLUSH the next takings, creations, changes and profiles succeed, with one call more."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        self.server.command("SCRIPT", "FLUSH")
        answers = yield gatherResults([self.take("k"), self.take("k")])
        self.assertEqual([answer.level for answer in answers], [4 * MICROTOKENS, 3 * MICROTOKENS])
        self.assertEqual(self.store.script_calls, 2)
        self.server.command("SCRIPT", "FLUSH")
        yield self.store.create(digest_of("k2"), Account("bob", 5, 0.0))
        yield self.store.change(digest_of("k"), 9, None)
        profile = yield self.store.profile(digest_of("k"))
        self.assertEqual(profile.account.capacity, 9)

    @inlineCallbacks
    def test_a_restart_loses_nothing(self) -> Any:
        """With the append-only file, accounts and levels are as before after Redis was killed and started."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        yield self.take("k")
        self.server.kill()
        yield deferLater(self.reactor, 0.05)
        before = yield self.take("k")
        self.assertIsInstance(before, str)
        yield self.assertFailure(self.store.profile(digest_of("k")), StoreUnavailable)
        self.server.start()
        answer = yield self.until_it_answers("k")
        self.assertEqual(answer, Taken(True, b"ann", 5, 0.0, 3 * MICROTOKENS))

    @inlineCallbacks
    def test_a_hanging_redis_costs_one_deadline(self) -> Any:
        """While Redis is stopped, the first taking fails at the deadline, later ones at once, and none is sent late."""
        yield self.store.create(digest_of("k"), Account("ann", 50, 0.0))
        self.server.pause()
        started = self.reactor.seconds()
        self.assertIn("did not answer within 1 s", (yield self.take("k")))
        self.assertGreaterEqual(self.reactor.seconds() - started, 0.99)
        for _ in range(10):
            receiver = Asker()
            self.store.take(digest_of("k"), receiver)
            self.assertEqual([type(answer) for answer in receiver.answers], [str])
        self.server.resume()
        answer = yield self.until_it_answers("k")
        # The one taking that was under way may have been executed, or not: its reply is what was lost.
        self.assertIn(answer.level, (49 * MICROTOKENS, 48 * MICROTOKENS))

    @inlineCallbacks
    def test_a_server_that_starts_late_is_found(self) -> Any:
        """A store that was started before its Redis works once that is there."""
        self.server.stop()
        late = self.new_store()
        yield late.start()
        yield self.assertFailure(late.profile(digest_of("k")), StoreUnavailable)
        self.server.start()
        yield self.until_it_answers("k")
        for _ in range(3000):
            try:
                self.assertIsNone((yield late.profile(digest_of("k"))))
                return
            except StoreUnavailable:
                yield deferLater(self.reactor, 0.02)
        self.fail("still unavailable after 60 seconds")


class ReadOnlyTests(OnRedis):
    """A Redis that answers and cannot be written to."""

    @inlineCallbacks
    def test_it_is_an_outage_until_it_can_be_written_to(self) -> Any:
        """A Redis that has become a replica is away, whatever it answers; as a master it is back."""
        yield self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        self.server.command("REPLICAOF", "127.0.0.1", "1")
        self.assertIn("READONLY", (yield self.take("k")))
        yield deferLater(self.reactor, 0.3)
        self.assertIn("READONLY", self.store.state().reason)
        self.assertEqual(self.store.script_calls, 1)
        self.server.command("REPLICAOF", "NO", "ONE")
        self.assertEqual((yield self.until_it_answers("k")), Taken(True, b"ann", 5, 0.0, 4 * MICROTOKENS))


class LocalTests(OnRedis):
    """An outage that a fallback bridges."""

    mode = "local"
    appendonly = True

    @inlineCallbacks
    def test_what_was_spent_without_redis_is_charged_once(self) -> Any:
        """A key seen before goes on without Redis, and afterwards its level is what all its requests have left."""
        yield self.store.create(digest_of("k"), Account("ann", 10, 0.0))
        yield self.store.create(digest_of("cold"), Account("bob", 10, 0.0))
        yield self.take("k")
        self.server.kill()
        for _ in range(6000):
            yield deferLater(self.reactor, 0.01)
            if not self.store.state().up:
                break
        admitted = 0
        for _ in range(20):
            answer = yield self.take("k")
            admitted += answer.admitted
        self.assertEqual(admitted, 9)
        self.assertIsInstance((yield self.take("cold")), str)
        self.server.start()
        for _ in range(6000):
            yield deferLater(self.reactor, 0.01)
            if self.store.state().up:
                break
        self.assertEqual((yield self.take("cold")), Taken(True, b"bob", 10, 0.0, 9 * MICROTOKENS))
        self.assertEqual((yield self.take("k")), Taken(False, b"ann", 10, 0.0, 0))
