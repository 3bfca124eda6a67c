"""The instance among others: announcements, and requests in flight as a lease."""

from __future__ import annotations

from tests.stores.contract import digest_of
from tests.stores.fake_redis import array
from tests.stores.redis_on_clock import ANN, LIMITS, StoreOnClock, account
from twisted_lb.interfaces import Taken
from twisted_lb.stores.redis.batches import MAX_BATCH
from twisted_lb.stores.redis.instances import ANNOUNCE_SECONDS

LOCAL = Taken(True, b"ann", 5, 0.5, 1_000_000)
ANNOUNCEMENT = [b"1", b"tokenlb:instances", b"id1", b"10000000", b"0"]
RETURNING = [b"3", b"tokenlb:instances", b"tokenlb:returning", b"tokenlb:switch"]


class AnnouncementTests(StoreOnClock):
    """An instance says that it lives."""

    def test_the_greeting_ends_with_an_announcement(self) -> None:
        """A connection counts only when the others know of it; that is called by its hash and counts the living."""
        self.assertTrue(self.is_call_of("rejoin", self.greeted))
        self.assertEqual(self.greeted[2:], [*RETURNING, b"id1", b"10000000", b"new", b"750000"])
        self.assertEqual(self.fallback.instances, 1)

    def test_it_is_repeated(self) -> None:
        """Twice a second the instance announces itself again, and hears how many live."""
        for alive in (3, 4):
            self.clock.advance(ANNOUNCE_SECONDS)
            [command] = self.server.commands()
            self.assertEqual(command[2:], ANNOUNCEMENT)
            self.server.reply(b"*3\r\n:%d\r\n:0\r\n:0\r\n" % alive)
            self.assertEqual(self.fallback.instances, alive)

    def test_an_idle_connection_that_is_dead_is_noticed(self) -> None:
        """An announcement without an answer takes the store down, without a single request."""
        self.clock.advance(ANNOUNCE_SECONDS)
        self.assertTrue(self.store.state().up)
        self.clock.advance(1.0)
        self.end_of_turn()
        self.assertIn("did not answer within 1 s", self.store.state().reason)

    def test_a_redis_that_cannot_be_written_to_is_noticed(self) -> None:
        """An announcement that is refused takes the store down, and a greeting that is refused keeps it down."""
        self.clock.advance(ANNOUNCE_SECONDS)
        self.server.reply(b"-READONLY You can't write against a read only replica.\r\n")
        self.assertIn("READONLY", self.store.state().reason)
        self.clock.advance(0.5)
        server = self.endpoint.accept()
        server.reply(b"+sha\r\n" * (len(server.commands()) - 1), b"-READONLY You can't write ...\r\n")
        self.assertFalse(self.store.state().up)

    def test_a_process_that_was_taken_for_dead(self) -> None:
        """An instance that Redis has forgotten is counted by nobody: it connects anew, and tells its counts."""
        self.clock.advance(ANNOUNCE_SECONDS)
        self.server.commands()
        self.server.reply(b"*3\r\n:1\r\n:1\r\n:0\r\n")
        self.assertIn("had forgotten this process", self.store.state().reason)
        self.clock.advance(0.5)
        self.server = self.connect()
        self.assertEqual(self.greeted[6], b"id2")
        self.assertTrue(self.store.state().up)

    def test_nothing_is_announced_without_a_connection(self) -> None:
        """While Redis is away announcements are left out, and go on under a new id; the old one is signed off, once."""
        self.server.lose()
        self.clock.advance(ANNOUNCE_SECONDS)
        self.server = self.connect()
        self.assertEqual(self.greeted[2:], [*RETURNING, b"id2", b"10000000", b"back", b"750000", b"id1"])
        self.clock.advance(ANNOUNCE_SECONDS)
        [command] = self.server.commands()
        self.assertEqual(command[4:], [b"id2", b"10000000", b"0"])

    def test_the_former_id_is_given_up(self) -> None:
        """The first announcement after a loss names the id before, so that no instance counts twice."""
        for former in (b"id1", b"id2"):
            self.server.lose()
            self.reconnect()
            self.assertEqual(self.greeted[10:], [former])

    def test_an_attempt_that_fails_takes_no_new_id(self) -> None:
        """The id changes once for each loss, not for each attempt."""
        self.server.lose()
        for _ in range(3):
            self.clock.advance(0.5)
            self.endpoint.refuse()
        self.reconnect()
        self.assertEqual(self.greeted[6], b"id2")


class LeaseTests(StoreOnClock):
    """Requests in flight of a key."""

    limits = LIMITS

    def admit(self, *names: str) -> None:
        """Let these requests be admitted by Redis."""
        for name in names:
            self.take(name)
        self.end_of_turn()
        self.batch()
        self.server.reply(array(*ANN * len(names)))

    def restored(self) -> tuple[bytes, dict[bytes, int]]:
        """The instance and the counts of the one call that was sent."""
        [command] = self.server.commands()
        self.assertTrue(self.is_call_of("restore_in_flight", command))
        keys = command[3 : 3 + int(command[2])]
        instance, ttl, *counts = command[3 + int(command[2]) :]
        self.assertEqual(ttl, b"86400")
        return instance, dict(zip(keys, map(int, counts), strict=True))

    def test_every_end_is_told(self) -> None:
        """With a limit in flight, a release of no tokens goes with the next call, and charges nothing."""
        self.assertIs(self.store.counts_in_flight, True)
        self.admit("a", "a")
        self.store.release(digest_of("a"), 0)
        self.store.release(digest_of("a"), 2)
        self.end_of_turn()
        batch = self.batch()
        self.assertEqual((batch.released, batch.charged), ([account("a")] * 2, [(account("a"), 2_000_000)]))

    def test_many_ends_go_in_several_calls(self) -> None:
        """More releases than a call holds go one call after another, and each is sent once."""
        for _ in range(MAX_BATCH + 3):
            self.store.release(digest_of("a"), 0)
        self.end_of_turn()
        self.assertEqual(len(self.batch().released), MAX_BATCH)
        self.server.reply(b"*1\r\n:9000000\r\n")
        self.assertEqual(len(self.batch().released), 3)

    def test_a_new_connection_hears_the_counts_first(self) -> None:
        """After a loss the counts of this process are written under a new id, before any taking."""
        self.admit("a", "a", "b", "c")
        self.store.release(digest_of("c"), 0)
        self.server.lose()
        self.store.release(digest_of("a"), 0)
        self.reconnect()
        self.take("b")
        self.end_of_turn()
        counts = {b"tokenlb:in_flight:{%s}" % digest_of(name).encode(): 1 for name in "ab"}
        self.assertEqual(self.restored(), (b"id2", counts))
        self.server.reply(b"*3\r\n:2\r\n:0\r\n:0\r\n")
        batch = self.batch()
        self.assertEqual((batch.constant[1], batch.released, batch.taken), (b"id2", [], [account("b")]))

    def test_an_end_during_the_recovery_is_told_after_it(self) -> None:
        """A request that ends while the counts are being written is released in the first call after that."""
        self.admit("a", "a")
        self.server.lose()
        self.reconnect()
        self.store.release(digest_of("a"), 0)
        self.assertEqual(list(self.restored()[1].values()), [2])
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])
        self.server.reply(b"*3\r\n:1\r\n:0\r\n:0\r\n")
        self.assertEqual(self.batch().released, [account("a")])

    def test_the_standby_hears_the_count(self) -> None:
        """In an outage the fallback is told how many requests of the key this process has in flight."""
        self.fallback.answers = {digest_of("a"): LOCAL, digest_of("r"): LOCAL._replace(admitted=False)}
        self.admit("a", "a")
        self.server.lose()
        for name in ("a", "a", "r", "r"):
            self.take(name)
        self.store.release(digest_of("a"), 0)
        self.take("a")
        asked = [(digest_of(name), 1, count) for name, count in (("a", 2), ("a", 3), ("r", 0), ("r", 0), ("a", 3))]
        self.assertEqual(self.fallback.asked, asked)
        self.reconnect()
        self.assertEqual(list(self.restored()[1].values()), [4])

    def test_the_counts_of_many_keys_go_in_chunks(self) -> None:
        """The counts of more keys than a call holds are written in several calls."""
        names = [f"k{number}" for number in range(MAX_BATCH + 1)]
        for name in names:
            self.take(name)
        self.end_of_turn()
        for size in (MAX_BATCH, 1):
            self.batch()
            self.server.reply(array(*ANN * size))
        self.server.lose()
        self.reconnect()
        for size in (MAX_BATCH, 1):
            self.assertEqual(len(self.restored()[1]), size)
            self.server.reply(b"*3\r\n:1\r\n:0\r\n:0\r\n")

    def test_counts_that_cannot_be_written_are_an_outage(self) -> None:
        """An error to the counts closes the connection, and the next one has a new id and all counts."""
        self.admit("a")
        self.server.lose()
        self.reconnect()
        self.server.commands()
        self.server.reply(b"-MISCONF Redis is configured to save RDB snapshots ...\r\n")
        self.assertIn("MISCONF", self.store.state().reason)
        self.reconnect()
        instance, counts = self.restored()
        self.assertEqual((instance, list(counts.values())), (b"id3", [1]))

    def test_refusals_are_not_counted(self) -> None:
        """What Redis refused or does not know has no place in flight."""
        for name in "abc":
            self.take(name)
        self.end_of_turn()
        self.batch()
        self.server.reply(array(b"ann", 5, b"0.5", 0, 3, b"ann", 5, b"0.5", 2, 0, None, 0, 0, 0, 0))
        self.server.lose()
        self.reconnect()
        self.assertEqual(self.server.commands(), [])
