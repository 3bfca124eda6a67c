"""Quotas: the periods of calendars, and what was used of them."""

from __future__ import annotations

from datetime import datetime, timezone

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.limits.quota_count import QuotaCount, count_from_text
from twisted_lb.quotas import (
    DAY,
    MONTH,
    REQUESTS,
    TOKENS,
    Quota,
    QuotaCharge,
    QuotaLevel,
    UnknownTimeZone,
    changed_quota,
    check_quota,
    period_at,
    quota_at,
    zone_named,
)

SECOND = 1_000_000
HOUR = 3600 * SECOND


def at(text: str) -> int:
    """A time in UTC in microseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()) * SECOND


class PeriodTests(SynchronousTestCase):
    """Where periods begin and end."""

    def test_periods(self) -> None:
        """A period has whole days of its zone, however long they are."""
        for per, zone, now, starts, ends in [
            (DAY, "UTC", "2026-11-28T00:00", "2026-11-28T00:00", "2026-11-29T00:00"),
            (DAY, "UTC", "2026-11-28T23:59:59", "2026-11-28T00:00", "2026-11-29T00:00"),
            (MONTH, "UTC", "2026-12-31T23:59:59", "2026-12-01T00:00", "2027-01-01T00:00"),
            (MONTH, "UTC", "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00"),
            (MONTH, "UTC", "2027-02-28T12:00", "2027-02-01T00:00", "2027-03-01T00:00"),
            # A day of 23 hours, one of 25, and a month with one of them.
            (DAY, "Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
            (DAY, "Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
            (MONTH, "Europe/Berlin", "2026-10-31T22:59:59", "2026-09-30T22:00", "2026-10-31T23:00"),
            (DAY, "Asia/Kolkata", "2026-01-01T18:29:59", "2025-12-31T18:30", "2026-01-01T18:30"),
            (DAY, "Asia/Kolkata", "2026-01-01T18:30", "2026-01-01T18:30", "2026-01-02T18:30"),
            (MONTH, "Asia/Kolkata", "2026-12-31T18:30", "2026-12-31T18:30", "2027-01-31T18:30"),
            # There is no midnight: the day begins at 01:00.
            (DAY, "America/Sao_Paulo", "2018-11-04T02:59:59", "2018-11-03T03:00", "2018-11-04T03:00"),
            (DAY, "America/Sao_Paulo", "2018-11-04T03:00", "2018-11-04T03:00", "2018-11-05T02:00"),
            # At midnight it is 23:00 again: the day goes on.
            (DAY, "America/Sao_Paulo", "2018-02-18T02:30", "2018-02-17T02:00", "2018-02-18T03:00"),
            (DAY, "America/Sao_Paulo", "2018-02-18T03:00", "2018-02-18T03:00", "2018-02-19T03:00"),
            # A day is missing.
            (DAY, "Pacific/Apia", "2011-12-30T09:59:59", "2011-12-29T10:00", "2011-12-30T10:00"),
            (DAY, "Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00"),
            # At 00:01 it is 23:01 of the day before again: that belongs to the day that has begun.
            (DAY, "America/St_Johns", "2006-10-29T02:45", "2006-10-29T02:30", "2006-10-30T03:30"),
            (DAY, "America/Toronto", "1919-03-31T04:30", "1919-03-31T04:30", "1919-04-01T04:00"),
        ]:
            expected = at(starts), at(ends)
            self.assertEqual(period_at(per, zone, at(now)), expected, (per, zone, now))

    def test_every_moment_is_in_one_period(self) -> None:
        """Periods follow each other without a gap, and each moment has the same period as its beginning."""
        for zone, begin in (("America/Sao_Paulo", "2018-02-10T00:00"), ("Europe/Berlin", "2026-10-20T00:00")):
            now = at(begin)
            for _ in range(15):
                starts, ends = period_at(DAY, zone, now)
                self.assertTrue(starts <= now < ends)
                for moment in (starts, starts + HOUR, ends - SECOND, ends - 1):
                    self.assertEqual(period_at(DAY, zone, moment), (starts, ends))
                now = ends

    def test_zones(self) -> None:
        """What is not the name of a zone is an error, whatever path it may be."""
        for name in ("", "Europe", "Europe/Atlantis", "../UTC", "/etc/passwd", "UTC\n", "a" * 65, "Europe//Berlin"):
            self.assertRaises(UnknownTimeZone, zone_named, name)
        for name in ("right/Europe/Berlin", "posix/UTC", "localtime", "posixrules", "Factory"):
            self.assertRaises(UnknownTimeZone, zone_named, name)
        for name in ("UTC", "Etc/GMT+3", "America/Argentina/Buenos_Aires"):
            zone_named(name)


class CountTests(SynchronousTestCase):
    """What was used, on a scripted clock."""

    def setUp(self) -> None:
        self.now = at("2026-03-28T22:00")
        self.count = QuotaCount(Quota(3, REQUESTS, DAY, "Europe/Berlin"))

    def admitted(self, cost: int = 1) -> bool:
        self.count.begin(self.now)
        if self.count.refuses(cost):
            return False
        self.count.take(cost)
        return True

    def test_a_life(self) -> None:
        """The quota is there again when the day begins, which may be in 23 hours, and not when the clock goes back."""
        for now, admitted in [
            ("2026-03-28T22:00", 3),
            ("2026-03-28T22:59:59", 0),
            ("2026-03-28T23:00", 3),
            ("2026-03-29T21:59:59", 0),
            ("2026-03-28T22:30", 0),
            ("2026-03-29T22:00", 3),
            ("2026-03-28T22:30", 0),
        ]:
            self.now = at(now)
            self.assertEqual(sum(self.admitted() for _ in range(5)), admitted, now)

    def test_charges(self) -> None:
        """What is given back to the period in which it was used may be used again."""
        self.assertTrue(self.admitted())
        charge = QuotaCharge(REQUESTS, self.count.starts_us, self.count.ends_us, -1)
        self.assertTrue(self.count.charge(charge, self.now))
        self.assertTrue(self.count.charge(charge, self.now))
        self.assertEqual(self.count.used, 0)
        self.admitted()
        self.now += 2 * HOUR
        self.admitted()
        self.assertFalse(self.count.charge(charge, self.now))
        self.assertFalse(self.count.charge(charge._replace(unit=TOKENS, amount=2), self.now))
        self.assertTrue(self.count.charge(charge._replace(amount=2), self.now))
        self.assertEqual(self.count.used, 3)

    def test_a_charge_is_the_first_of_a_period(self) -> None:
        """What a request has cost after the end of its period counts in the one that has begun, as all after it."""
        self.admitted()
        charge = QuotaCharge(REQUESTS, self.count.starts_us, self.count.ends_us, 2)
        self.now = self.count.ends_us
        self.assertTrue(self.count.charge(charge, self.now))
        self.assertFalse(self.count.charge(charge._replace(amount=-1), self.now))
        self.assertEqual(sum(self.admitted() for _ in range(5)), 1)
        self.assertEqual((self.count.starts_us, self.count.used), (self.now, 3))

    def test_an_earlier_end_by_another_database(self) -> None:
        """A period that seems to have begun before the last one ended makes that last longer, with the same count."""
        starts, ends = period_at(DAY, "Europe/Berlin", self.now)
        self.count = QuotaCount(Quota(3, REQUESTS, DAY, "Europe/Berlin", 3, starts - 3 * HOUR, starts + HOUR))
        self.assertFalse(self.admitted())
        self.assertEqual((self.count.starts_us, self.count.ends_us), (starts - 3 * HOUR, ends))
        self.now = ends
        self.assertTrue(self.admitted())

    def test_text(self) -> None:
        """A count comes back from its text; what is none is an error."""
        self.admitted()
        self.count.told = 80
        self.assertEqual(count_from_text(self.count.text()).text(), self.count.text())
        for text in ("", "[]", "{}", "5", "[1, 2]", '["a"'):
            self.assertRaises(ValueError, count_from_text, text)

    def test_a_changed_quota(self) -> None:
        """What was used stays if unit and period do, and the period is not over."""
        before = Quota(3, REQUESTS, DAY, "UTC", 2, self.now - HOUR, self.now + HOUR)
        for new, used, ends_us in [
            (Quota(5, REQUESTS, DAY), 2, before.ends_us),
            (Quota(5, REQUESTS, DAY, "Asia/Kolkata"), 2, 0),
            (Quota(5, TOKENS, DAY), 0, 0),
            (Quota(5, REQUESTS, MONTH), 0, 0),
        ]:
            found = changed_quota(before, new, self.now)
            self.assertEqual((found[:4], found.used, found.ends_us), (new[:4], used, ends_us))
        self.assertEqual(changed_quota(before, Quota(5, REQUESTS, DAY), before.ends_us).used, 0)
        self.assertEqual(changed_quota(None, before, self.now).used, 0)
        self.assertEqual(quota_at(before, before.ends_us).used, 2, "the day in UTC has not ended")
        self.assertEqual(quota_at(before, self.now + 3 * HOUR).used, 0)

    def test_what_cannot_be(self) -> None:
        """Other types and bounds are errors that name the member."""
        good = Quota(1, TOKENS, DAY)
        check_quota(good)
        for wrong, named in [
            (good._replace(amount=True), "tokens"),
            (good._replace(amount=1.0), "tokens"),
            (good._replace(unit="x"), "quota"),
            (good._replace(per="year"), "per"),
            (good._replace(time_zone=3), "time_zone"),
            (good._replace(used=-1), "used"),
            (good._replace(ends_us=-1), "quota"),
        ]:
            error = self.assertRaises(ValueError, check_quota, wrong)
            self.assertTrue(str(error).startswith(named), str(error))

    def test_seconds(self) -> None:
        """Windows and rests are rounded up; a rest is at least a second."""
        level = QuotaLevel(1, TOKENS, DAY, "UTC", 1, 5, 10 * SECOND, 10 * SECOND - 1)
        self.assertEqual((level.window, level.seconds_left), (10, 1))
        self.assertEqual(level._replace(now_us=10 * SECOND).seconds_left, 1)
        self.assertEqual(level._replace(now_us=8 * SECOND - 1).seconds_left, 3)
