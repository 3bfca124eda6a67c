"""Quotas of the embedded store on a scripted clock and disk: periods, kill -9, and notices."""

from __future__ import annotations

import json
from math import inf
from typing import Any

from tests.stores.contract import Asker, digest_of
from tests.stores.embedded_on_clock import SECOND, START, StoreOnClock
from tests.stores.users_contract import new_user
from twisted_lb import quotas
from twisted_lb.interfaces import QUOTA
from twisted_lb.quotas import DAY, REQUESTS, TOKENS, Quota, QuotaCharge, period_at
from twisted_lb.stores.sqlite.schema import Row, makes_sense
from twisted_lb.stores.sqlite.writer import FLUSH_SECONDS
from twisted_lb.users import UserChange

HOUR = 3600 * SECOND


class EmbeddedQuotaTests(StoreOnClock):
    def limited(self, amount: int = 10, unit: str = REQUESTS) -> None:
        """A user with a quota, and a store that makes notices."""
        self.store.want_notices()
        quota = Quota(amount, unit, DAY, "Europe/Berlin")
        self.successResultOf(self.store.create_user(new_user("ann", "k", capacity=1000, quota=quota)))

    def crash(self) -> None:
        """The next crash is one of the store that goes on now."""
        super().crash()
        self.data_dir = self.store._data_dir

    def flush(self) -> None:
        self.clock.advance(FLUSH_SECONDS)

    def admitted(self, asked: int = 30) -> int:
        return sum(self.take("k").admitted for _ in range(asked))

    def claimed(self) -> list[Any]:
        return sorted(one.threshold for one in self.successResultOf(self.store.claim_notices(10, 60.0)))

    def test_days(self) -> None:
        """Each day of the zone has the quota once, whatever the clock does."""
        self.limited(3)
        starts, ends = period_at(DAY, "Europe/Berlin", START)
        self.assertEqual(ends - starts, 24 * HOUR)
        for now, admitted in [
            (START, 3),
            (ends - 1, 0),
            (ends, 3),
            (START, 0),
            (ends + 24 * HOUR - 1, 0),
            (ends + 24 * HOUR, 3),
        ]:
            self.now_us = now
            self.assertEqual(self.admitted(5), admitted)

    def test_a_restart_loses_nothing(self) -> None:
        """What was used is there after an orderly stop, with the thresholds that were reached."""
        self.limited()
        self.assertEqual(self.admitted(9), 9)
        self.restart()
        self.store.want_notices()
        self.assertEqual(self.claimed(), [80])
        self.assertEqual(self.admitted(), 1)
        self.flush()
        self.assertEqual(self.claimed(), [100])

    def test_kill_9_gives_back_what_was_not_written(self) -> None:
        """After kill -9 the quota admits again what was used since it was written last, and no more."""
        self.limited()
        self.assertEqual(self.admitted(4), 4)
        self.flush()
        self.assertEqual(self.admitted(3), 3)
        self.crash()
        self.assertEqual(self.admitted(), 6)

    def test_kill_9_loses_no_notice_and_makes_no_other_one(self) -> None:
        """A notice is written with what was used: before that there is none, and after it there is one, with its id."""
        self.limited()
        self.admitted(8)
        # Not written: it is not due, and after the crash neither the notice nor what was used is there.
        self.assertEqual(self.claimed(), [])
        self.crash()
        self.store.want_notices()
        self.admitted(8)
        self.flush()
        [first] = self.successResultOf(self.store.claim_notices(10, 60.0))
        self.crash()
        self.store.want_notices()
        self.assertEqual(self.successResultOf(self.store.claim_notices(10, 60.0)), [first])
        self.admitted(1)
        self.flush()
        self.assertEqual(self.claimed(), [])
        self.successResultOf(self.store.remove_notice(first.id))
        self.crash()
        self.assertEqual(self.claimed(), [])

    def test_a_deleted_user_has_no_notices_after_a_restart(self) -> None:
        """They are removed from the database too."""
        self.limited()
        self.admitted()
        self.flush()
        self.successResultOf(self.store.delete_user("ann"))
        self.crash()
        self.assertEqual(self.claimed(), [])

    def test_a_change_by_an_operator_writes_the_notices_too(self) -> None:
        """What is in memory alone is written with a change of the quota."""
        self.limited()
        self.admitted(8)
        self.successResultOf(self.store.change_user("ann", UserChange(quota=Quota(20, REQUESTS, DAY, "UTC"))))
        self.crash()
        self.assertEqual(self.claimed(), [80])
        self.assertEqual(self.successResultOf(self.store.user("ann")).quota.used, 8)

    def test_what_is_written_anew_has_all(self) -> None:
        """A database that is written anew has what was used, and the notices that were and were not written."""
        self.limited()
        self.admitted(8)
        self.flush()
        self.admitted(2)
        writer: Any = self.store._writer
        writer._lost = True
        self.clock.advance(FLUSH_SECONDS)
        self.crash()
        self.assertEqual(self.claimed(), [80, 100])
        self.assertEqual(self.admitted(), 0)

    def test_a_late_charge_counts_in_the_next_period(self) -> None:
        """What a request has cost is charged to the period that has begun meanwhile; a refund is lost."""
        self.limited(10, TOKENS)
        taken = self.take("k")
        self.now_us = taken.quota.ends_us
        self.assertEqual(self.take("k", 0).quota.left, 10)
        charge = QuotaCharge(TOKENS, taken.quota.starts_us, taken.quota.ends_us, 4)
        self.store.release(digest_of("k"), 4, (), charge)
        self.store.release(digest_of("k"), -1, (), charge._replace(amount=-1))
        self.assertEqual(self.admitted(), 6)

    def test_a_late_charge_is_the_first_of_the_next_period(self) -> None:
        """So it is without a request in between; the notices are those of the next period."""
        self.limited(10, TOKENS)
        taken = self.take("k")
        self.now_us = taken.quota.ends_us
        charge = QuotaCharge(TOKENS, taken.quota.starts_us, taken.quota.ends_us, 8)
        self.store.release(digest_of("k"), 8, (), charge)
        user = self.successResultOf(self.store.user("ann"))
        self.assertEqual((user.quota.used, user.quota.starts_us), (8, charge.ends_us))
        self.flush()
        self.assertEqual(self.claimed(), [])
        taken = self.take("k", 1)
        self.assertEqual((taken.quota.left, taken.quota.starts_us), (1, charge.ends_us))
        self.flush()
        self.assertEqual(self.claimed(), [80])

    def test_a_zone_that_is_not_known_any_more(self) -> None:
        """Without the zone of a quota there is no period: the request is not admitted, and others are not concerned."""
        self.limited()
        self.create("other")
        self.admitted(1)
        self.patch(quotas, "ZoneInfo", lambda name: 1 / 0 if name == "UTC" else {}[name])
        self.assertTrue(self.take("k").admitted, "the period is known")
        self.now_us += 48 * HOUR
        receiver = Asker()
        self.store.take(digest_of("k"), receiver)
        [reason] = receiver.answers
        self.assertIn("Europe/Berlin", str(reason))
        self.assertTrue(self.take("other").admitted)
        self.assertEqual(self.successResultOf(self.store.user("ann")).quota.used, 2)

    def test_a_quota_that_is_damaged(self) -> None:
        """What this program cannot have written is found at the start; a zone that is not known any more is not."""
        sound = [5, REQUESTS, DAY, "No/Where", 1, 0, 0, 80]
        self.assertTrue(makes_sense(Row("d", "ann", 5, 1.0, 0, 0, quota=json.dumps(sound))))
        wrong = [(0, "5"), (0, 0), (0, 5.5), (1, "x"), (2, "x"), (3, 5), (4, "1"), (5, -1), (7, inf), (7, "x")]
        for place, value in wrong:
            damaged = [*sound[:place], value, *sound[place + 1 :]]
            self.assertFalse(makes_sense(Row("d", "ann", 5, 1.0, 0, 0, quota=json.dumps(damaged))), damaged)

    def test_notices_about_a_user_who_is_removed(self) -> None:
        """What was not written is forgotten with the user."""
        self.limited(1)
        self.take("k")
        self.successResultOf(self.store.delete_user("ann"))
        self.flush()
        self.assertEqual((self.store._notices._new, self.claimed()), ({}, []))

    def test_a_refused_request_uses_nothing(self) -> None:
        """A quota that refuses leaves the bucket as it was."""
        self.limited(1)
        self.assertEqual(self.admitted(3), 1)
        taken = self.take("k")
        self.assertEqual((taken.limit, taken.quota.left), (QUOTA, 0))
        self.assertEqual(self.level("k"), 999 * SECOND)
