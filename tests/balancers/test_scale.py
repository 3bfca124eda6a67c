"""The balancers among 10,000 servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.balancers.test_contract import make
from twisted_lb.backend import Backend
from twisted_lb.balancers.registry import BALANCERS
from twisted_lb.testing import FakeRequest

SERVERS = 10_000
# Looks at servers within one choice: enough for a sweep and a few steps in a heap.
MOST_LOOKS = 24


class WatchedBackend:
    """A backend to balancers.  Counts how often its load is looked at."""

    looks = 0

    def __init__(self, *given: Any) -> None:
        self.load = 0
        self._backend = Backend(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    @property
    def in_flight(self) -> int:
        WatchedBackend.looks += 1
        return self.load

    @in_flight.setter
    def in_flight(self, value: int) -> None:
        self.load = value


def each_balancer() -> Iterator[tuple[str, Any, list[WatchedBackend]]]:
    for word in BALANCERS:
        backends = [WatchedBackend(f"s{order}", "127.0.0.1", 9000, 1 + order % 3) for order in range(SERVERS)]
        balancer = make(word)
        balancer.backends_changed(list(backends))
        yield word, balancer, backends


class ScaleTests(SynchronousTestCase):
    def looks(self, choose: Callable[[], object]) -> int:
        before = WatchedBackend.looks
        choose()
        return WatchedBackend.looks - before

    def test_choices_look_at_few_servers(self) -> None:
        """On average no choice, while exchanges begin and end, looks at more than a few of the 10,000 servers."""
        for word, balancer, _ in each_balancer():
            chance = Random(1)
            under_way: list[tuple[Any, Iterator[Any]]] = []
            looks = 0
            for number in range(2000):
                choices = balancer.choices(FakeRequest(number))
                drawn: list[Any] = []
                looks += self.looks(lambda: drawn.extend(islice(choices, 1)))
                drawn[0].load += 1
                under_way.append((drawn[0], choices))
                if len(under_way) > 500:
                    backend, _ = under_way.pop(chance.randrange(len(under_way)))
                    backend.load -= 1
            self.assertLess(looks / 2000, MOST_LOOKS, word)

    def test_retries_look_at_few_servers(self) -> None:
        """Nor do the second and third choice of a request."""
        for word, balancer, _ in each_balancer():
            looks = 0
            for number in range(300):
                choices = balancer.choices(FakeRequest(number))
                looks += self.looks(lambda: self.assertEqual(len(set(islice(choices, 3))), 3))
            self.assertLess(looks / 300, 3 * MOST_LOOKS, word)

    def test_every_server_is_a_choice(self) -> None:
        """A request that no server takes meets each of the 10,000 once."""
        for word, balancer, backends in each_balancer():
            chosen = list(balancer.choices(FakeRequest()))
            self.assertEqual((len(chosen), set(chosen)), (SERVERS, set(backends)), word)

    def test_a_server_goes(self) -> None:
        """After one of 10,000 servers has gone it is not chosen, and the others are."""
        for word, balancer, backends in each_balancer():
            gone = next(balancer.choices(FakeRequest()))
            balancer.backends_changed([backend for backend in backends if backend is not gone])
            chosen = {next(balancer.choices(FakeRequest(number))) for number in range(500)}
            self.assertNotIn(gone, chosen, word)


class SameSeedTests(SynchronousTestCase):
    def test_choices_follow_from_what_was_given(self) -> None:
        """Two balancers of a kind with the same clock, seed and servers choose the same, in any process."""
        self.assertEqual(Clock().seconds(), 0)
        for word in BALANCERS:
            runs = []
            for _ in range(2):
                backends = [Backend(f"s{order}", "127.0.0.1", 9000, 1 + order % 3) for order in range(50)]
                balancer = make(word)
                balancer.backends_changed(backends)
                runs.append([next(balancer.choices(FakeRequest(number))).name for number in range(100)])
            self.assertEqual(*runs, word)
