"""What is known of keys when the store is unavailable, of special ones above all."""

from __future__ import annotations

from math import inf

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.interfaces import MICROTOKENS, OWN, Limits, Policy, Taken
from twisted_lb.limits.fallback import ALLOW, LOCAL, Fallback
from twisted_lb.limits.recent_keys import FORGET_SECONDS, SpecialKey
from twisted_lb.users import KEY_EXPIRED

NO_BUCKET = Policy()


def taken(level: int, capacity: int = 10) -> Taken:
    return Taken(True, b"ann", capacity, 0.0, level * MICROTOKENS)


class RecentKeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(5.0)
        self.fallback = self.new()

    def new(self, mode: str = LOCAL) -> Fallback:
        return Fallback(mode, self.clock.seconds, 100, Limits())

    def see(self, digest: str, level: int, expires: float = inf, own: Policy = NO_BUCKET, own_level: int = 0) -> None:
        """The store decides for a special key of the user whose first key is `first`."""
        key = SpecialKey("first", expires, own, own_level * MICROTOKENS, self.clock.seconds())
        self.fallback.seen_special(digest, key, taken(level))

    def test_a_further_key_says_nothing_of_the_first(self) -> None:
        """The bucket of a user is known by any key, and a key only by itself."""
        self.see("b", 3)
        self.assertTrue(self.fallback.knows("b"))
        self.assertFalse(self.fallback.knows("first"))
        self.assertIsNone(self.fallback.take("first", 1, 0))
        self.assertEqual(self.fallback.take("b", 1, 0), taken(2))

    def test_all_keys_have_one_share(self) -> None:
        """The share begins with what the store has said last of the user's bucket, by whichever key."""
        self.fallback.recent["first"] = taken(9), self.clock.seconds()
        self.clock.advance(1.0)
        self.see("b", 3)
        levels = [self.fallback.take(digest, 1, 0) for digest in ("first", "b", "first", "b")]
        self.assertEqual(
            [one and (one.admitted, one.level // MICROTOKENS) for one in levels],
            [(True, 2), (True, 1), (True, 0), (False, 0)],
        )
        self.fallback.release("b", -1)
        self.assertEqual(self.fallback.debts(), ([("first", 2 * MICROTOKENS)], 0))

    def test_a_forgotten_key(self) -> None:
        """A key that must not be used is not known any more, and the others of its user are."""
        self.see("b", 3)
        self.see("c", 2)
        self.fallback.forget("b")
        self.assertEqual([self.fallback.knows(digest) for digest in "bc"], [False, True])

    def test_a_key_that_expires(self) -> None:
        """A key is refused from the moment at which it expires, also where nothing is limited."""
        for mode in (LOCAL, ALLOW):
            self.fallback = self.new(mode)
            self.see("b", 3, expires=self.clock.seconds() + 2.0)
            admitted = self.fallback.take("b", 1, 0)
            self.assertTrue(admitted is not None and admitted.admitted)
            self.clock.advance(2.0)
            self.assertEqual(self.fallback.take("b", 1, 0), Taken(False, b"ann", 0, 0.0, 0, KEY_EXPIRED))

    def test_a_key_that_is_special_no_more(self) -> None:
        """What the store says later of a key that has become an ordinary one counts."""
        self.see("b", 3, expires=self.clock.seconds() + 2.0)
        self.clock.advance(1.0)
        self.fallback.recent["b"] = taken(3), self.clock.seconds()
        self.clock.advance(5.0)
        self.assertEqual(self.fallback.take("b", 1, 0), taken(2))

    def test_a_bucket_of_a_keys_own(self) -> None:
        """A key takes from its share of its own bucket too; a refusal names it, and takes nothing of the user's."""
        self.see("b", 5, own=Policy(2, 0.0), own_level=1)
        self.assertEqual(self.fallback.take("b", 1, 0), taken(4))
        self.assertEqual(self.fallback.take("b", 1, 0), Taken(False, b"ann", 2, 0.0, 0, OWN))
        self.fallback.release("b", -1)
        self.assertEqual(self.fallback.take("b", 1, 0), taken(4))

    def test_other_processes_are_told(self) -> None:
        """What another process of this machine is told is known there, with expiries and buckets."""
        self.see("b", 5, expires=self.clock.seconds() + 9.0, own=Policy(2, 0.0), own_level=1)
        self.see("c", 5)
        other, self.fallback = self.new(), self.fallback
        other.learn(self.fallback.news())
        self.assertEqual(self.fallback.news(), [])
        self.assertEqual([other.knows(digest) for digest in ("b", "c", "first")], [True, True, False])
        self.assertEqual(other.take("b", 1, 0), taken(4))
        refused = other.take("b", 1, 0)
        self.assertTrue(refused is not None and refused.limit == OWN)
        self.clock.advance(9.0)
        expired = other.take("b", 1, 0)
        self.assertTrue(expired is not None and expired.limit == KEY_EXPIRED)
        self.assertEqual(other.take("c", 1, 0), taken(3))

    def test_what_was_used(self) -> None:
        """The keys that were used since a time are told, and users' buckets are not keys."""
        self.see("b", 5)
        self.fallback.recent["first"] = taken(4), self.clock.seconds()
        since = self.clock.seconds()
        self.assertEqual(dict(self.fallback.used_since(since)), {"b": since, "first": since})
        self.clock.advance(1.0)
        self.see("c", 5)
        self.assertEqual(dict(self.fallback.used_since(since + 0.5)), {"c": since + 1.0})

    def test_old_ones_are_dropped(self) -> None:
        """A special key that was not seen for long is not known any more."""
        self.see("b", 5)
        for _ in range(4):
            self.clock.advance(FORGET_SECONDS / 2 + 1)
            self.fallback.tidy()
        self.assertFalse(self.fallback.knows("b"))
