"""What every balancer promises.  Inherit from the mixin, and give it a balancer.

`test_contract` does so for each name in the registry, so a balancer that is registered needs no test of its own here.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

from zope.interface.verify import verifyClass, verifyObject

from twisted_lb.backend import Backend
from twisted_lb.interfaces import IBalancer

REQUESTS = 3000
# No server may get less than this part of its fair share over all these requests, nor more than its inverse.
LEAST_SHARE = 0.7


class FakeRequest:
    """A request as a balancer sees it; `number` makes each one different."""

    method = b"GET"

    def __init__(self, number: int) -> None:
        self.target = b"/page/%d" % number
        self.consumer = b"user%d" % number
        self.client_address = f"10.0.{number // 250 % 250}.{number % 250}"

    def header(self, name: bytes) -> bytes | None:
        """No field is there."""
        return None


def servers(*weights: int) -> list[Backend]:
    """Servers a, b, c ... with these weights."""
    return [Backend(chr(ord("a") + order), "127.0.0.1", 9001 + order, weight) for order, weight in enumerate(weights)]


class BalancerContract:
    """A mixin for a TestCase."""

    def make_balancer(self) -> Any:
        """A new balancer, which has not been told of any server."""
        raise NotImplementedError

    def balancer_of(self, backends: list[Backend]) -> Any:
        balancer = self.make_balancer()
        balancer.backends_changed(list(backends))
        return balancer

    def first_choices(self: Any, balancer: Any, requests: int = REQUESTS) -> Counter[str]:
        """How often each server is the first choice; each one is in flight for a while."""
        counts: Counter[str] = Counter()
        in_flight: list[Backend] = []
        for number in range(requests):
            backend = next(iter(balancer.choices(FakeRequest(number))))
            counts[backend.name] += 1
            backend.in_flight += 1
            in_flight.append(backend)
            if len(in_flight) > 10:
                in_flight.pop(0).in_flight -= 1
        return counts

    def test_provides_the_interface(self: Any) -> None:
        """The balancer and its class keep the signatures of IBalancer."""
        balancer = self.make_balancer()
        self.assertTrue(verifyObject(IBalancer, balancer))
        self.assertTrue(verifyClass(IBalancer, type(balancer)))

    def test_no_servers(self: Any) -> None:
        """Without servers there is no choice, and no error."""
        self.assertEqual(list(self.balancer_of([]).choices(FakeRequest(0))), [])

    def test_only_server(self: Any) -> None:
        """The only server is every request's first choice, and its last."""
        backends = servers(1)
        balancer = self.balancer_of(backends)
        for number in range(20):
            self.assertEqual(list(balancer.choices(FakeRequest(number))), backends)

    def test_each_at_most_once(self: Any) -> None:
        """The choices of a request hold no server twice, whatever the weights."""
        balancer = self.balancer_of(servers(1, 5, 2, 1))
        for number in range(100):
            choices = list(balancer.choices(FakeRequest(number)))
            self.assertEqual(len(choices), len(set(choices)), choices)

    def test_only_those_it_was_given(self: Any) -> None:
        """After a change each choice is among the servers of that change."""
        old, new = servers(1, 1, 1), servers(1, 2, 1, 1)
        balancer = self.balancer_of(old)
        for number in range(50):
            next(iter(balancer.choices(FakeRequest(number))))
        balancer.backends_changed(list(new))
        for number in range(50):
            self.assertLessEqual(set(balancer.choices(FakeRequest(number))), set(new))

    def test_another_choice(self: Any) -> None:
        """With two servers or more there is a second choice, and it is not the first one."""
        for weights in ((1, 1), (1, 1, 1), (9, 1)):
            balancer = self.balancer_of(servers(*weights))
            for number in range(100):
                first, second = islice(balancer.choices(FakeRequest(number)), 2)
                self.assertIsNot(first, second)

    def test_fair_over_time(self: Any) -> None:
        """Over many different requests servers of equal weight get about equally many, and none starves."""
        for count in (2, 3, 7):
            counts = self.first_choices(self.balancer_of(servers(*[1] * count)))
            share = REQUESTS / count
            self.assertEqual(len(counts), count)
            for name, chosen in counts.items():
                self.assertTrue(LEAST_SHARE * share < chosen < share / LEAST_SHARE, (name, counts))

    def test_list_is_its_own(self: Any) -> None:
        """What the balancer does with its list of servers does not reach the caller's."""
        given = servers(1, 1, 1)
        kept = list(given)
        balancer = self.make_balancer()
        balancer.backends_changed(list(given))
        self.first_choices(balancer, 10)
        self.assertEqual(given, kept)

    def test_changes_under_way(self: Any) -> None:
        """An iterator that is drawn from after the servers changed ends, raises nothing and repeats nothing."""
        for after in ([], servers(1), servers(2, 1, 1, 1)):
            balancer = self.balancer_of(servers(1, 2, 1))
            choices = iter(balancer.choices(FakeRequest(0)))
            drawn = [next(choices)]
            balancer.backends_changed(list(after))
            drawn.extend(islice(choices, 10))
            self.assertEqual(len(drawn), len(set(drawn)))
            self.assertLess(len(drawn), 10)
