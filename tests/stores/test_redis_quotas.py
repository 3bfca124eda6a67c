"""Quotas of the Redis store, with a Redis that the test plays: renewals, and calls whose replies are lost."""

from __future__ import annotations

from typing import Any

from tests.stores.contract import Asker, digest_of
from tests.stores.fake_redis import array
from tests.stores.redis_on_clock import UNKNOWN, StoreOnClock, account
from twisted_lb.interfaces import KEY, MICROTOKENS, QUOTA, Taken, shadow_bucket
from twisted_lb.quotas import DAY, REQUESTS, QuotaCharge, QuotaLevel, period_at
from twisted_lb.stores.redis.outcomes import OF_QUOTA, PERIOD_OVER, SPECIAL

TEXT = b"5 requests day Europe/Berlin"
NOW = 1_800_000_000_000_000
STARTS, ENDS = period_at(DAY, "Europe/Berlin", NOW)
OWNER = digest_of("a")


def reply(outcome: int, used: int, starts_us: int = STARTS, ends_us: int = ENDS) -> list[Any]:
    """Of one taking, for a key of a user with a quota."""
    found = [b"ann", OWNER.encode(), 0, 0, b"0", 0, [TEXT, used, starts_us, ends_us, NOW], None]
    return [found, 9, b"0", SPECIAL + outcome, 4 * MICROTOKENS]


class _Failing(Asker):
    """What becomes of its request raises."""

    def bucket_answered(self, taken: Taken | None) -> None:
        raise RuntimeError

    def bucket_unavailable(self, reason: str) -> None:
        raise RuntimeError


class QuotaTests(StoreOnClock):
    def renewal(self) -> list[bytes]:
        """The one call that was sent is that of a renewal; its arguments."""
        [command] = self.server.commands()
        self.assertTrue(self.is_call_of("renew_quota", command))
        return command[3:]

    def test_a_period_is_renewed_once_for_all_that_wait(self) -> None:
        """Takings for which the period is over wait for one renewal, and are then sent again with their costs."""
        first, second, other = self.take("a", 2), self.take("b"), self.take("c")
        self.end_of_turn()
        self.batch()
        self.server.reply(array(*reply(PERIOD_OVER, 3, 0, 0), *reply(PERIOD_OVER, 3, 0, 0), *UNKNOWN))
        self.assertIsNone(self.outcome(other))
        self.assertEqual(self.renewal(), [account("a"), TEXT, b"%d" % STARTS, b"%d" % ENDS])
        self.assertEqual((first.answers, second.answers), ([], []))
        self.server.reply(b":1\r\n")
        self.end_of_turn()
        batch = self.batch()
        self.assertEqual((batch.taken, batch.extras), ([account("a"), account("b")], [(1, 2, b"")]))
        self.server.reply(array(*reply(1, 1), *reply(1, 2)))
        taken = self.outcome(first), self.outcome(second)
        self.assertEqual([(one.admitted, one.quota.left) for one in taken], [(True, 4), (True, 3)])
        self.assertEqual((taken[0].quota.starts_us, taken[0].quota.ends_us), (STARTS, ENDS))

    def test_a_renewal_that_is_lost(self) -> None:
        """When the connection is lost meanwhile, the fallback decides."""
        asker = self.take("a")
        self.end_of_turn()
        self.server.commands()
        self.server.reply(array(*reply(PERIOD_OVER, 3, 0, 0)))
        self.renewal()
        self.fallback.answers[OWNER] = answer = Taken(True, b"ann", 9, 0.0, 0)
        self.server.lose()
        self.assertEqual(self.outcome(asker), answer)

    def test_a_renewal_that_fails(self) -> None:
        """An error of Redis is an answer too."""
        asker = self.take("a")
        self.end_of_turn()
        self.server.commands()
        self.server.reply(array(*reply(PERIOD_OVER, 3, 0, 0)))
        self.renewal()
        self.server.reply(b"-READONLY no\r\n")
        self.assertIsInstance(self.outcome(asker), str)

    def test_a_refusal_by_the_quota_is_known_to_the_fallback(self) -> None:
        """What is left is that of the last reply, whatever it says."""
        for outcome, used, limit in ((1, 2, KEY), (OF_QUOTA, 5, QUOTA)):
            asker = self.take("a")
            self.end_of_turn()
            self.server.commands()
            self.server.reply(array(*reply(outcome, used)))
            self.assertEqual(self.outcome(asker).limit, limit)
            [row] = [row for row in self.fallback.news() if row[0] == "bucket"]
            self.assertEqual(QuotaLevel(*row[6]).left, 5 - used)
            self.fallback._told = 0

    def test_a_request_that_fails_on_the_end_of_a_period(self) -> None:
        """The others get their answers: with the same batch, and with the same renewal."""
        for text in (TEXT, b"5 requests day No/Where"):
            found = [b"ann", OWNER.encode(), 0, 0, b"0", 0, [text, 3, 0, 0, NOW], None]
            self.store.take(digest_of("a"), _Failing())
            same, other = self.take("b"), self.take("c")
            self.end_of_turn()
            self.server.commands()
            over = [found, 9, b"0", SPECIAL + PERIOD_OVER, 0]
            self.server.reply(array(*over, *over, *UNKNOWN))
            if text == TEXT:
                self.renewal()
                self.server.reply(b"-READONLY no\r\n")
                # As after any call that Redis does not write for.
                self.assertFalse(self.store.state().up)
                self.reconnect()
            self.assertEqual((len(same.answers), len(other.answers)), (1, 1))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_a_damaged_notice(self) -> None:
        """It is logged, and the others are sent."""
        claimed = self.store.claim_notices(8, 60.0)
        self.server.commands()
        sound = b"80 1800000000000000 4 %d %d 5 requests day UTC ann b" % (STARTS, ENDS)
        self.server.reply(array(b"msg_0", b"junk", b"msg_1", sound))
        [notice] = self.successResultOf(claimed)
        self.assertEqual((notice.id, notice.user), ("msg_1", "ann b"))

    def test_charges(self) -> None:
        """What a quota is charged goes with the charge of its key."""
        self.store.release(digest_of("x"), 3)
        self.store.release(digest_of("a"), 0, (), QuotaCharge(REQUESTS, STARTS, ENDS, -1))
        self.end_of_turn()
        batch = self.batch()
        self.assertEqual(batch.charged, [(account("x"), 3 * MICROTOKENS), (account("a"), 0)])
        self.assertEqual(batch.extras, [(-3, 0, b"requests %d %d -1" % (STARTS, ENDS))])

    def lost(self, carried_out: bool) -> Any:
        """What is charged after a taking and a charge whose reply was lost."""
        self.take("a")
        self.end_of_turn()
        self.server.commands()
        self.server.reply(array(*reply(1, 1)))
        self.take("a")
        self.store.release(digest_of("a"), -2, (), QuotaCharge(REQUESTS, STARTS, ENDS, -1))
        self.end_of_turn()
        number = self.batch().number
        self.server.lose()
        self.last = b"%d %d 1" % (number, number if carried_out else 0)
        self.reconnect()
        batch = self.batch()
        return batch.charged, batch.extras

    def test_a_lost_call_that_was_carried_out(self) -> None:
        """What its takings have used of a quota is given back, since they were decided without it."""
        charged, extras = self.lost(True)
        self.assertEqual(charged[-1], (account("a"), 0))
        self.assertEqual(extras, [(-1, 0, b""), (-1 - len(charged), 0, b"requests %d %d -1" % (STARTS, ENDS))])

    def test_a_lost_call_has_taken_of_a_shadow(self) -> None:
        """Its tokens are refunded to the shadow policy of the user, if it is known that there is one."""
        found = [b"ann", OWNER.encode(), 0, 0, b"0", 0, None, [5, b"0.5", 4 * MICROTOKENS, 0]]
        self.take("a")
        self.end_of_turn()
        self.server.commands()
        self.server.reply(array(found, 9, b"0", SPECIAL + 1, 4 * MICROTOKENS))
        self.take("a", 3)
        self.take("b")
        self.end_of_turn()
        number = self.batch().number
        self.server.lose()
        self.last = b"%d %d 22" % (number, number)
        self.reconnect()
        batch = self.batch()
        shadow = shadow_bucket(OWNER, 5, 0.5)
        self.assertEqual(batch.shared_charges, [(shadow.key.encode(), -3 * MICROTOKENS)])
        self.assertEqual(batch.charged, [(account("a"), -3 * MICROTOKENS), (account("b"), -MICROTOKENS)])

    def test_a_lost_call_that_was_not_carried_out(self) -> None:
        """What it was to charge to quotas is due."""
        charged, extras = self.lost(False)
        self.assertEqual(charged, [(account("a"), -2 * MICROTOKENS), (account("a"), 0)])
        self.assertEqual(extras, [(-1, 0, b""), (-3, 0, b"requests %d %d -1" % (STARTS, ENDS))])
