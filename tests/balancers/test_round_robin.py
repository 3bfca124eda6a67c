"""Round robin: exactly which server is chosen."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.backend import Backend
from twisted_lb.balancers.round_robin import MAX_TURNS, RoundRobin, turns
from twisted_lb.testing import FakeRequest, servers

REQUEST: Any = FakeRequest(0)


def ring_of(backends: list[Backend]) -> RoundRobin:
    balancer = RoundRobin()
    balancer.backends_changed(list(backends))
    return balancer


def firsts(balancer: RoundRobin, requests: int) -> str:
    """The names of the first choices."""
    return "".join(next(balancer.choices(REQUEST)).name for _ in range(requests))


class RoundRobinTests(SynchronousTestCase):
    def test_exact(self) -> None:
        """300 requests over three servers are 100, 100 and 100."""
        counts = Counter(firsts(ring_of(servers(1, 1, 1)), 300))
        self.assertEqual(counts, {"a": 100, "b": 100, "c": 100})

    def test_order(self) -> None:
        """Servers of equal weight are chosen in the order of the list, whatever that weight is."""
        self.assertEqual(firsts(ring_of(servers(1, 1, 1)), 7), "abcabca")
        self.assertEqual(firsts(ring_of(servers(5, 5, 5)), 7), "abcabca")

    def test_others_in_ring_order(self) -> None:
        """The choices after the first one go on round the ring from there."""
        balancer = ring_of(servers(1, 1, 1, 1))
        firsts(balancer, 2)
        self.assertEqual("".join(backend.name for backend in balancer.choices(REQUEST)), "cdab")

    def test_weights(self) -> None:
        """Each round gives every server its weight in turns."""
        counts = Counter(firsts(ring_of(servers(5, 3, 2)), 10))
        self.assertEqual(counts, {"a": 5, "b": 3, "c": 2})

    def test_weights_are_spread(self) -> None:
        """The turns of a heavy server are not all in a row."""
        self.assertEqual(firsts(ring_of(servers(2, 1, 1)), 8), "abcaabca")
        self.assertNotIn("aaa", firsts(ring_of(servers(4, 2, 1, 1)), 100))

    def test_failed_server_burdens_all(self) -> None:
        """When each request for a dead server takes its second choice, the others share that load equally."""
        balancer = ring_of(servers(1, 1, 1, 1))
        counts: Counter[str] = Counter()
        for _ in range(300):
            counts[next(backend.name for backend in balancer.choices(REQUEST) if backend.name != "b")] += 1
        self.assertEqual(counts, {"a": 100, "c": 100, "d": 100})

    def test_goes_on_after_a_change(self) -> None:
        """A server that comes or goes does not send the ring back to its beginning."""
        backends = servers(1, 1, 1, 1)
        cases = [
            # turns before, servers afterwards, first choices from then on
            (2, [0, 1, 2, 3], "cdab"),
            (2, [0, 1, 3], "dabd"),
            (2, [3, 2, 1, 0], "cbad"),
            (3, [0, 1, 2], "abca"),
            (2, [0], "aaaa"),
        ]
        for before, left, expected in cases:
            balancer = ring_of(backends)
            firsts(balancer, before)
            balancer.backends_changed([backends[order] for order in left])
            self.assertEqual(firsts(balancer, 4), expected, (before, left))

    def test_keeps_place_when_nothing_changed(self) -> None:
        """Being told of the same servers and weights again changes nothing."""
        backends = servers(3, 1, 2)
        told, untold = ring_of(backends), ring_of(backends)
        chosen = ""
        for _ in range(20):
            chosen += firsts(told, 1)
            told.backends_changed(list(backends))
        self.assertEqual(chosen, firsts(untold, 20))

    def test_weight_changes(self) -> None:
        """A weight that changed counts from the next `backends_changed` on."""
        backends = servers(1, 1)
        balancer = ring_of(backends)
        backends[0].weight = 3
        balancer.backends_changed(list(backends))
        self.assertEqual(Counter(firsts(balancer, 8)), {"a": 6, "b": 2})

    def test_slow_start(self) -> None:
        """A server in slow start has as many turns as its ramp says, and one at least."""
        backends = servers(4, 1, 1)
        for ramp, expected in ((0.45, {"a": 9, "b": 5, "c": 5}), (0.001, {"a": 1, "b": 20, "c": 20})):
            backends[0].ramp = ramp
            self.assertEqual(Counter(backend.name for backend in turns(backends)), expected)

    def test_ring_comes_round_in_spite_of_changes(self) -> None:
        """A server with few turns gets no less than half and no more than twice its share when each third request
        meets a new step of a ramp."""
        backends = servers(10, 10, 1)
        balancer = ring_of(backends)
        chosen: Counter[str] = Counter()
        for step in range(2000):
            backends[0].ramp = 0.5 if step % 2 else 0.55
            balancer.backends_changed(list(backends))
            chosen.update(firsts(balancer, 3))
        share = 6000 / (5.25 + 10 + 1)
        self.assertTrue(share / 2 < chosen["c"] < share * 2, chosen)

    def test_long_ring_is_coarser(self) -> None:
        """Many servers with weights of no common divisor make a ring of bounded length, which leaves none out."""
        backends = [Backend(str(order), "h", 1, 1 + order % 1000) for order in range(5000)]
        ring = turns(backends)
        self.assertLess(len(ring), MAX_TURNS + len(backends))
        self.assertEqual(set(ring), set(backends))

    def test_repr_tells_the_state(self) -> None:
        """The repr says where the ring is."""
        balancer = ring_of(servers(1, 1))
        firsts(balancer, 1)
        self.assertEqual(repr(balancer), "<RoundRobin next=1 of ['a', 'b']>")

    def test_places_of_turns(self) -> None:
        """The k-th of a server's w turns is (k + 1/2) / w of the way round; at one place servers are in order."""
        for weights in ((1, 2), (5, 1, 1), (3, 3, 2, 2), (7, 2, 4, 1, 7), tuple(range(1, 30))):
            backends = servers(*weights)
            places = sorted(((k + 0.5) / weight, order) for order, weight in enumerate(weights) for k in range(weight))
            self.assertEqual(turns(backends), [backends[order] for _, order in places])
