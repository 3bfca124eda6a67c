"""The rules of rejoin.lua on a real redis-server, on a clock of the test's."""

from __future__ import annotations

from hiredis import ReplyError

from tests.integration.lua_client import SECOND, START
from tests.integration.test_redis_limits import OnLua
from twisted_lb.interfaces import MICROTOKENS, Limits, Policy
from twisted_lb.stores.redis.instances import BACK, CHARGED, JOIN, NEW

MS = 1000
GO, WAIT = 0, -1
LEAD, HOLD = 120 * MS, 300 * MS


class RejoinScriptTests(OnLua):
    """Instances come back from an outage."""

    limits = Limits(address=Policy(5, 0.0))

    def announce(self, *instances: bytes, at: int = START) -> None:
        for instance in instances:
            self.lua.announce(at, instance)

    def back(self, instance: bytes, at: int, *former: bytes) -> int:
        return self.lua.rejoin(at, instance, BACK, *former)[1]

    def charged(self, instance: bytes, at: int) -> int:
        return self.lua.rejoin(at, instance, CHARGED)[1]

    def refused(self, at: int) -> bool:
        """Whether a taking is refused because of an outage."""
        try:
            self.lua.take(at, "a")
        except ReplyError as error:
            self.assertIn("OUTAGE", str(error))
            return True
        return False

    def test_one_that_is_alone_goes_at_once(self) -> None:
        """An instance without others goes to Redis at once, and no taking is refused."""
        self.announce(b"one")
        self.assertEqual(self.back(b"one2", START + SECOND, b"one"), GO)
        self.assertFalse(self.refused(START + SECOND))
        self.assertEqual(self.lua.command(b"ZRANGE", b"tokenlb:instances", b"0", b"-1"), [b"one2"])

    def test_all_go_at_one_moment(self) -> None:
        """The last one to come back agrees on a moment that the others hear of, and then all are told the same."""
        self.announce(b"one", b"two", b"three")
        at = START + SECOND
        self.assertEqual(self.lua.rejoin(at, b"one2", BACK, b"one"), (2, WAIT))
        self.assertEqual(self.lua.rejoin(at + 50 * MS, b"two2", BACK, b"two"), (1, WAIT))
        self.assertEqual(self.back(b"three2", at + 60 * MS, b"three"), LEAD)
        self.assertEqual(self.back(b"one2", at + 100 * MS), LEAD - 40 * MS)
        self.assertEqual(self.back(b"two2", at + 150 * MS), LEAD - 90 * MS)

    def test_nobody_takes_before_all_have_charged(self) -> None:
        """From the first that comes back to the last that has charged takings are refused; charges are carried out."""
        self.lua.create(START, "a", 9)
        self.announce(b"one", b"two")
        at = START + SECOND
        self.back(b"one2", at, b"one")
        self.assertTrue(self.refused(at))
        self.back(b"two2", at, b"two")
        at += LEAD
        self.lua.batch(at, charged=[("a", 2)])
        self.assertEqual(self.charged(b"one2", at), 1)
        self.assertTrue(self.refused(at + 5 * MS))
        self.lua.batch(at, charged=[("a", 3)])
        self.assertEqual(self.charged(b"two2", at + 6 * MS), GO)
        self.assertEqual(self.charged(b"one2", at + 8 * MS), GO)
        self.assertEqual(self.lua.take(at + 8 * MS, "a").level, 3 * MICROTOKENS)

    def test_what_is_refused_changes_nothing(self) -> None:
        """A call that is refused because of an outage neither frees, nor charges, nor takes, nor is it remembered."""
        self.lua.create(START, "a", 9)
        self.announce(b"one", b"two")
        self.back(b"one2", START, b"one")
        changes = self.lua.changes()
        for limited in ([], [(0, 1, self.lua.address("1.2.3.4"))]):
            with self.assertRaises(ReplyError):
                self.lua.batch(START, *(() if limited else ("a",)), charged=[("a", 2)], limited=limited)
        self.assertEqual(self.lua.changes(), changes)

    def test_one_that_is_dead_is_waited_for(self) -> None:
        """An instance that does not come back is waited for until it was silent for ten seconds, and no longer."""
        self.announce(b"dead", at=START)
        self.announce(b"one", b"two", at=START + SECOND)
        for at in range(START + 2 * SECOND, START + 11 * SECOND, SECOND // 5):
            former = [b"one"] if at == START + 2 * SECOND else []
            self.assertEqual(self.back(b"one2", at, *former), WAIT, at)
            self.assertEqual(self.back(b"two2", at, *([b"two"] if former else [])), WAIT, at)
        # Nobody is silent while Redis is away: the second without Redis does not count.
        self.assertEqual(self.back(b"one2", START + 11 * SECOND + 1), LEAD)

    def test_an_outage_that_is_longer_than_the_lease(self) -> None:
        """After an hour without Redis those that were alive before are waited for, and one that was dead is not."""
        self.announce(b"dead", at=START - 11 * SECOND)
        self.announce(b"one", b"two", at=START)
        later = START + 3600 * SECOND
        self.assertEqual(self.lua.rejoin(later, b"one2", BACK, b"one"), (1, WAIT))
        self.assertEqual(self.back(b"two2", later + 400 * MS, b"two"), LEAD)

    def test_one_that_has_not_noticed(self) -> None:
        """An instance that still takes is refused, and told by its announcement; the others wait until it is back."""
        self.announce(b"one", b"two")
        self.back(b"one2", START + SECOND, b"one")
        keys = [b"tokenlb:instances"]
        self.assertEqual(self.lua.run("announce", START + SECOND, keys, b"two", b"10000000")[:3], [2, 0, 1])
        self.assertEqual(self.back(b"one2", START + SECOND + 100 * MS), WAIT)
        self.assertEqual(self.back(b"two2", START + SECOND + 110 * MS, b"two"), LEAD)

    def test_a_redis_that_lost_its_memory(self) -> None:
        """After a FLUSHALL the first one goes at once; those that come later go with it."""
        self.announce(b"one", b"two")
        self.lua.command(b"FLUSHALL")
        self.assertEqual(self.back(b"one2", START + SECOND, b"one"), GO)
        self.assertEqual(self.back(b"two2", START + SECOND, b"two"), WAIT)
        self.assertEqual(self.back(b"one3", START + SECOND + MS, b"one2"), LEAD)

    def test_memory_that_is_lost_at_the_moment(self) -> None:
        """When Redis forgets the moment, all go on as if they had charged."""
        self.announce(b"one", b"two")
        self.back(b"one2", START, b"one")
        self.back(b"two2", START, b"two")
        self.lua.command(b"FLUSHALL")
        self.assertEqual(self.charged(b"one2", START + LEAD), GO)
        self.assertEqual(self.charged(b"two2", START + LEAD), GO)

    def test_one_that_does_not_charge_in_time(self) -> None:
        """When one does not charge, the others go back to their shares, and wait until it is back or silent."""
        self.announce(b"one", b"two")
        self.back(b"one2", START, b"one")
        self.back(b"two2", START, b"two")
        at = START + LEAD
        self.assertEqual(self.charged(b"one2", at), 1)
        self.assertEqual(self.charged(b"one2", at + HOLD), 1)
        self.assertEqual(self.charged(b"one2", at + HOLD + 1), WAIT)
        self.assertTrue(self.refused(at + HOLD + 1))
        for later in range(at + SECOND, START + 10 * SECOND, 300 * MS):
            self.assertEqual(self.back(b"one2", later), WAIT)
        self.assertEqual(self.back(b"one2", START + 10 * SECOND + 1), GO)

    def test_one_that_leaves(self) -> None:
        """An instance that leaves is not waited for."""
        self.announce(b"one", b"two", b"three")
        self.back(b"one2", START, b"one")
        self.back(b"two2", START, b"two")
        self.lua.command(b"ZREM", b"tokenlb:instances", b"three")
        self.assertEqual(self.back(b"one2", START + 100 * MS), LEAD)

    def test_a_new_one(self) -> None:
        """A new instance goes on at once beside those that were heard of lately, and takes part in an outage."""
        self.announce(b"one")
        self.assertEqual(self.lua.rejoin(START + 400 * MS, b"new", NEW), (0, GO))
        self.lua.command(b"ZREM", b"tokenlb:instances", b"new")
        self.announce(b"two")
        self.back(b"one2", START + 400 * MS, b"one")
        self.assertEqual(self.lua.rejoin(START + 400 * MS, b"new", NEW), (1, WAIT))
        self.assertEqual(self.back(b"two2", START + 500 * MS, b"two"), LEAD)
        self.assertEqual(self.lua.rejoin(START + 510 * MS, b"new", JOIN), (0, LEAD - 10 * MS))

    def test_a_new_one_where_some_are_silent(self) -> None:
        """A new instance waits while somebody is silent that was heard of last, however long ago that is."""
        for silence in (600 * MS, 3600 * SECOND):
            self.lua.command(b"FLUSHALL")
            self.announce(b"one")
            self.assertEqual(self.lua.rejoin(START + silence, b"new", NEW), (1, WAIT))
            self.assertEqual(self.lua.command(b"ZRANGE", b"tokenlb:instances", b"0", b"-1"), [b"one"])
            self.assertEqual(self.lua.rejoin(START + silence, b"new", JOIN)[1], GO)

    def test_a_new_one_counts_those_that_are_silent(self) -> None:
        """A new instance that waits is told of as many as there were when one was heard of last, and itself."""
        self.announce(b"dead", at=START - 11 * SECOND)
        self.announce(b"one", b"two")
        keys = [b"tokenlb:instances", b"tokenlb:returning", b"tokenlb:switch"]
        arguments = [b"new", b"10000000", NEW, b"500000"]
        self.assertEqual(self.lua.run("rejoin", START + 60 * SECOND, keys, *arguments), [3, 2, WAIT])

    def test_those_without_shares(self) -> None:
        """Nobody waits for an instance that has no shares, and one of these waits for those that have."""
        self.announce(b"one.deny", b"two.allow")
        self.assertEqual(self.back(b"one2.deny", START, b"one.deny"), GO)
        self.announce(b"three")
        self.assertEqual(self.lua.rejoin(START, b"one3.deny", BACK, b"one2.deny"), (1, WAIT))
        self.assertEqual(self.back(b"three2", START, b"three"), LEAD)

    def test_a_clock_that_went_back(self) -> None:
        """What is written in the future, by a clock that was since set back, holds nobody up."""
        self.announce(b"one", b"two", at=START + 3600 * SECOND)
        self.back(b"two2", START + 3600 * SECOND, b"two")
        self.assertEqual(self.back(b"one2", START, b"one"), GO)
        self.assertFalse(self.refused(START))

    def test_what_is_left_of_those_that_died(self) -> None:
        """What those leave that die while they come back is gone a lease later, or with the next one."""
        self.announce(b"one", b"two")
        self.back(b"one2", START, b"one")
        for key in (b"tokenlb:returning", b"tokenlb:switch"):
            self.assertTrue(5000 < self.lua.command(b"PTTL", key) <= 10_001, key)
        self.assertTrue(self.refused(START + 11 * SECOND))
        self.assertEqual(self.lua.rejoin(START + 11 * SECOND, b"new", JOIN), (0, GO))
        self.assertFalse(self.refused(START + 11 * SECOND))
