"""Least connections: how exact it is when it is not notified of the end of exchanges."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.balancers.pools import counts, first, many, names
from twisted_lb.backend import Backend
from twisted_lb.balancers.least_conn import SWEEP, LeastConn
from twisted_lb.testing import FakeRequest, servers


def least_conn(backends: list[Backend]) -> LeastConn:
    balancer = LeastConn()
    balancer.backends_changed(list(backends))
    return balancer


def excesses(backends: list[Backend], in_flight: int, kept: bool) -> list[int]:
    """How many exchanges more than the least busy server each chosen one has; as many end, at random, as begin.

    `kept`: the iterator lives as long as the exchange.
    """
    balancer = least_conn(backends)
    chance = Random(in_flight)
    under_way: list[tuple[Backend, Iterator[Backend] | None]] = []
    loads = [0] * (in_flight + 2)  # how many servers have so many exchanges
    loads[0] = len(backends)
    found = []
    for number in range(12_000):
        choices = balancer.choices(FakeRequest())
        backend = next(choices)
        if number > 2 * in_flight:
            found.append(backend.in_flight - next(load for load, many in enumerate(loads) if many))
        loads[backend.in_flight] -= 1
        backend.in_flight += 1
        loads[backend.in_flight] += 1
        under_way.append((backend, choices if kept else None))
        del choices
        if len(under_way) > in_flight:
            place = chance.randrange(len(under_way))
            under_way[place], under_way[-1] = under_way[-1], under_way[place]
            done, _ = under_way.pop()
            loads[done.in_flight] -= 1
            done.in_flight -= 1
            loads[done.in_flight] += 1
            del _
    return found


class LeastConnTests(SynchronousTestCase):
    def test_least_busy_first(self) -> None:
        """The choices are in the order of what is in flight for the weight."""
        backends = servers(1, 4, 2, 1)
        for backend, in_flight in zip(backends, (3, 4, 1, 2), strict=True):
            backend.in_flight = in_flight
        self.assertEqual(names(least_conn(backends)), "cbda")

    def test_notices_at_once_in_a_small_pool(self) -> None:
        """Among up to SWEEP servers each choice is exact, whatever began and ended since the last one."""
        chance = Random(3)
        backends = servers(*[1] * SWEEP)
        balancer = least_conn(backends)
        for _ in range(500):
            for backend in backends:
                backend.in_flight = chance.randrange(20)
            self.assertEqual(first(balancer).in_flight, min(backend.in_flight for backend in backends))

    def test_exact_where_iterators_are_kept(self) -> None:
        """Each choice among hundreds of servers is the least busy, when an iterator ends with its exchange."""
        for count, in_flight in ((100, 60), (100, 350), (1000, 2500)):
            self.assertEqual(set(excesses(many(count), in_flight, kept=True)), {0}, (count, in_flight))

    def test_exact_enough_where_they_are_not(self) -> None:
        """Without that, three in four choices have at most one exchange more than the best, and none has four more."""
        for count, in_flight in ((100, 60), (100, 350), (1000, 2500)):
            found = excesses(many(count), in_flight, kept=False)
            self.assertLess(sum(excess > 1 for excess in found), len(found) / 4, (count, in_flight))
            self.assertLess(max(found), 4)

    def test_idle_server_is_found(self) -> None:
        """Where a server is idle among 10,000 busy ones, it is chosen within one round of the sweep."""
        backends = many(10_000)
        for backend in backends:
            backend.in_flight = 5
        balancer = least_conn(backends)
        first(balancer)
        backends[7000].in_flight = 0
        round_of_choices = range(len(backends) // SWEEP + 1)
        self.assertIn(backends[7000], [first(balancer) for _ in round_of_choices])

    def test_idle_pool_is_shared_by_weight(self) -> None:
        """When nothing is in flight the servers take turns by weight."""
        self.assertEqual(counts(least_conn(servers(3, 2, 1)), 600), {"a": 300, "b": 200, "c": 100})

    def test_late_server_does_not_catch_up(self) -> None:
        """A server that was busy for long, or is new, takes its turns from now on only."""
        backends = servers(1, 1, 1)
        backends[1].in_flight = 9
        balancer = least_conn(backends[:2])
        counts(balancer, 100)
        backends[1].in_flight = 0
        balancer.backends_changed(list(backends))
        for name, chosen in counts(balancer, 30).items():
            self.assertTrue(9 <= chosen <= 11, (name, chosen))

    def test_full_servers_last(self) -> None:
        """A full server comes after those with room, however busy they are."""
        backends = servers(100, 1, 1)
        backends[0].maxconn = 1
        backends[0].in_flight = 1
        backends[1].in_flight = 900
        backends[2].in_flight = 901
        self.assertEqual(names(least_conn(backends)), "bca")

    def test_all_are_among_the_choices(self) -> None:
        """Every server is a choice, once, however many there are."""
        backends = many(300)
        chosen = list(least_conn(backends).choices(None))
        self.assertEqual((len(chosen), set(chosen)), (300, set(backends)))

    def test_heap_stays_small(self) -> None:
        """Outdated entries do not pile up."""
        backends = many(50)
        balancer = least_conn(backends)
        chance = Random(5)
        for _ in range(5000):
            first(balancer)
            chance.choice(backends).in_flight = chance.randrange(50)
        self.assertLess(len(balancer._loads._heap), 6 * len(backends) + 64 + SWEEP)

    def test_repr_tells_the_state(self) -> None:
        """The repr says what is in flight."""
        self.assertEqual(repr(least_conn(servers(1, 1))), "<LeastConn in flight {'a': 0, 'b': 0}>")
