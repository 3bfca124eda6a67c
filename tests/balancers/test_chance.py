"""The balancers that draw servers at random: random, two choices, peak EWMA."""

from __future__ import annotations

from collections import Counter
from random import Random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.balancers.pools import counts, first, many, names
from twisted_lb.backend import Backend
from twisted_lb.balancers.ewma import PeakEwma
from twisted_lb.balancers.p2c import TwoChoices
from twisted_lb.balancers.weighted_random import WeightedRandom
from twisted_lb.testing import servers


def told(balancer: WeightedRandom | TwoChoices, backends: list[Backend]) -> WeightedRandom | TwoChoices:
    balancer.backends_changed(list(backends))
    return balancer


class DrawingTests(SynchronousTestCase):
    def test_same_chance_same_choices(self) -> None:
        """The choices follow from the random numbers that were given, and from nothing else."""
        runs = []
        for _ in range(2):
            balancers = [
                WeightedRandom(chance=Random(8)),
                TwoChoices(chance=Random(8)),
                PeakEwma(now=Clock().seconds, chance=Random(8)),
            ]
            runs.append([names(told(balancer, servers(3, 1, 2, 1))) for balancer in balancers for _ in range(20)])
        self.assertEqual(*runs)

    def test_all_are_among_the_choices(self) -> None:
        """Every server is a choice, once, also when one has nearly all of the weight."""
        for backends in (many(300), servers(1000, 1, 1, 1), servers(1)):
            for balancer in (WeightedRandom(chance=Random(1)), TwoChoices(chance=Random(1))):
                chosen = list(told(balancer, backends).choices(None))
                self.assertEqual((len(chosen), set(chosen)), (len(backends), set(backends)))


class WeightedRandomTests(SynchronousTestCase):
    def test_by_weight(self) -> None:
        """Each server is drawn as often as its weight says, within four standard deviations."""
        found = counts(told(WeightedRandom(chance=Random(2)), servers(5, 3, 2)), 10_000)
        for name, part in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
            self.assertLess(abs(found[name] - 10_000 * part), 4 * (10_000 * part * (1 - part)) ** 0.5)

    def test_not_the_full_one(self) -> None:
        """A full server is the first choice only as often as four draws in a row meet it."""
        backends = servers(1, 1)
        backends[0].maxconn = backends[0].in_flight = 1
        self.assertLess(counts(told(WeightedRandom(chance=Random(2)), backends), 1600)["a"], 1600 / 16 * 1.5)


class TwoChoicesTests(SynchronousTestCase):
    def test_less_busy_of_two(self) -> None:
        """With two servers the less busy one for its weight is always chosen, and the other one is next."""
        backends = servers(1, 3)
        balancer = told(TwoChoices(chance=Random(1)), backends)
        for in_flight, expected in (((1, 0), "ba"), ((0, 1), "ab"), ((1, 2), "ba"), ((1, 4), "ab")):
            backends[0].in_flight, backends[1].in_flight = in_flight
            for _ in range(20):
                self.assertEqual(names(balancer), expected, in_flight)

    def test_busiest_is_never_first(self) -> None:
        """The busiest server of all loses each comparison."""
        backends = servers(1, 1, 1, 1)
        backends[2].in_flight = 5
        self.assertEqual(counts(told(TwoChoices(chance=Random(1)), backends), 300)["c"], 0)

    def test_full_loses(self) -> None:
        """A full server loses to one that is busier and has room."""
        backends = servers(1, 1)
        backends[0].maxconn = backends[0].in_flight = 1
        backends[1].in_flight = 50
        self.assertEqual(counts(told(TwoChoices(chance=Random(1)), backends), 50), {"b": 50})


class PeakEwmaTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.backends = servers(1, 1)
        self.balancer = PeakEwma(decay=10, now=self.clock.seconds, chance=Random(1))
        self.balancer.backends_changed(list(self.backends))

    def answered(self, *seconds: float) -> None:
        for backend, latency in zip(self.backends, seconds, strict=True):
            backend.answered(latency, self.clock.seconds())

    def test_faster_of_two(self) -> None:
        """The server that answers faster is chosen, until its queue makes it the slower one."""
        self.answered(0.01, 0.1)
        for in_flight, expected in ((0, "ab"), (8, "ab"), (10, "ba")):
            self.backends[0].in_flight = in_flight
            self.assertEqual(names(self.balancer), expected, in_flight)

    def test_slow_server_does_not_starve(self) -> None:
        """A server that is 100 times slower is asked again when its latency has decayed, and once only."""
        self.answered(0.01, 1.0)
        chosen: Counter[str] = Counter()
        for _ in range(1200):
            backend = first(self.balancer)
            chosen[backend.name] += 1
            backend.answered(0.01 if backend.name == "a" else 1.0, self.clock.seconds())
            self.clock.advance(0.1)
        # 120 s: each time after about 10 s * ln(100) = 46 s.
        self.assertEqual(chosen["b"], 2)

    def test_recovered_server_is_noticed(self) -> None:
        """A server that became fast again gets its share back within a minute."""
        self.answered(0.01, 1.0)
        chosen: list[str] = []
        for _ in range(1500):
            backend = first(self.balancer)
            chosen.append(backend.name)
            backend.in_flight += 1
            self.clock.advance(0.1)
            backend.in_flight -= 1
            backend.answered(0.01, self.clock.seconds())
        self.assertGreater(chosen[-500:].count("b"), 100)

    def test_hanging_server_gets_few(self) -> None:
        """A server that answers nothing any more does not look better while its requests wait."""
        self.answered(0.01, 0.01)
        chosen: Counter[str] = Counter()
        for _ in range(300):
            backend = first(self.balancer)
            chosen[backend.name] += 1
            if backend.name == "a":
                backend.answered(0.01, self.clock.seconds())
            else:
                backend.in_flight += 1
            self.clock.advance(0.1)
        self.assertLess(chosen["b"], 15)

    def test_unknown_server_is_tried(self) -> None:
        """A server that has never answered is tried while it is idle, and one request at a time."""
        self.backends[0].answered(0.01, 0)
        self.assertEqual(first(self.balancer).name, "b")
        self.backends[1].in_flight = 1
        self.assertEqual(first(self.balancer).name, "a")

    def test_clock_of_the_answers(self) -> None:
        """An answer that is newer than the clock says counts in full, and raises nothing."""
        for backend, latency in zip(self.backends, (0.2, 0.1), strict=True):
            backend.answered(latency, 1000.0)
        self.assertEqual(names(self.balancer), "ba")
