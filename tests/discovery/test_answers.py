"""Which of the latest answers for a name or a service are valid."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.discovery.answers import RecentAnswers, counted_addresses, kept


class AddressTests(SynchronousTestCase):
    def test_counted(self) -> None:
        """IPv4 before IPv6, each once, in the order of the numbers whatever that of the answer."""
        self.assertEqual(
            counted_addresses(["10.0.0.10", "2001:db8::1", "10.0.0.9", "10.0.0.10"]), ("10.0.0.9", "10.0.0.10")
        )
        self.assertEqual(counted_addresses(["2001:db8::2", "2001:db8::1"]), ("2001:db8::1", "2001:db8::2"))
        self.assertEqual(counted_addresses([]), ())

    def test_recent(self) -> None:
        """Records of a service are told apart by host and port: one with another weight replaces the former."""
        recent = RecentAnswers(service=True)
        recent.add(["10 1 80 b.test", "20 1 80 c.test"])
        self.assertEqual(
            recent.add(["10 1 80 a.test", "10 5 80 B.test."]), ("10 1 80 a.test", "10 5 80 B.test.", "20 1 80 c.test")
        )
        addresses = RecentAnswers(service=False)
        addresses.add(["10.0.0.10"])
        self.assertEqual(addresses.add(["10.0.0.10", "10.0.0.9"]), ("10.0.0.9", "10.0.0.10"))


class KeptTests(SynchronousTestCase):
    def test_table(self) -> None:
        """What holds after a series of answers: parts in turn are joined, what is only missing is gone."""
        cases = [
            (["ab"], "ab"),
            (["ab", "a"], "a"),  # scaled down
            (["ab", "abc"], "abc"),  # scaled up
            (["ab", "cd"], "cd"),  # moved
            (["ab", "bc"], "abc"),  # replaced one by one, or a part in each answer
            (["ab", "bc", "bc", "bc"], "bc"),
            (["abc", "bcd", "cda", "dab"], "abcd"),
            (["abc", "bcd", "cd"], "cd"),
        ]
        for answers, expected in cases:
            recent: list[frozenset[str]] = []
            for answer in answers:
                recent = kept(recent, answer, 3)
            self.assertEqual("".join(sorted(frozenset().union(*recent))), expected, answers)
