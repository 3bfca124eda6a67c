"""Times and durations as text."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.timestamps import read_duration, read_rfc3339, rfc3339


class TimestampTests(SynchronousTestCase):
    def test_times(self) -> None:
        """A time is written in UTC, and every form of it is read as the same microsecond."""
        for text, time_us in (
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-28T00:05:00Z", 1_795_824_300_000_000),
            ("2026-11-28T00:05:00.000001Z", 1_795_824_300_000_001),
            ("2255-06-05T23:47:34.740991Z", 2**53 - 1),
        ):
            self.assertEqual(rfc3339(time_us), text)
            self.assertEqual(read_rfc3339(text), time_us)
        for text in ("2026-11-28t00:05:00z", "2026-11-28T01:35:00+01:30", "2026-11-27T23:05:00.0-01:00"):
            self.assertEqual(rfc3339(read_rfc3339(text)), "2026-11-28T00:05:00Z")

    def test_what_is_not_a_time(self) -> None:
        """Times without a zone, of other formats or that do not exist are refused."""
        for text in (
            "",
            "2026-11-28",
            "2026-11-28T00:05:00",
            "2026-11-28 00:05:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-28T24:01:00Z",
            "20261128T000500Z",
            "1969-12-31T23:59:59Z",
            "2255-06-05T23:47:34.740992Z",
            "9999-12-31T23:59:59-01:00",
            "2026-11-28T00:05:00.0000001Z",
            "2026-11-28T00:05:00Z\n",
        ):
            self.assertRaises(ValueError, read_rfc3339, text)

    def test_durations(self) -> None:
        """A number is seconds, unless a unit follows."""
        for text, seconds in (
            ("0", 0),
            ("90", 90),
            ("1.5s", 1.5),
            ("500ms", 0.5),
            ("2 m", 120),
            ("1h", 3600),
            ("7d", 604_800),
        ):
            self.assertEqual(read_duration(text), round(seconds * 1_000_000))
        for text in ("", "-1", "1 week", "h", "1e3", "367d", "1h30m", "nan", "1,5"):
            self.assertRaises(ValueError, read_duration, text)
