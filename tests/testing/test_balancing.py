"""The public contract suite reports what is wrong with a balancer."""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.interfaces import IBalancer, IPeeking
from twisted_lb.testing import BalancerContract


@implementer(IBalancer)
class Good:
    """Keeps the contract in the plainest way: the least busy for its weight, and turns among equals."""

    def __init__(self) -> None:
        self.backends: list[Backend] = []
        self.turns: dict[Backend, float] = {}

    def backends_changed(self, backends: list[Backend]) -> None:
        self.backends = backends
        self.turns = dict.fromkeys(backends, 0.0)

    def choices(self, request: Any) -> Iterator[Backend]:
        turns = self.turns
        ordered = sorted(self.backends, key=self.rank)
        if ordered:
            turns[ordered[0]] += 1 / ordered[0].effective_weight
        yield from ordered

    def rank(self, backend: Backend) -> tuple[bool, float]:
        return backend.full, self.turns[backend]


class Unmarked:
    def backends_changed(self, backends: list[Backend]) -> None:
        pass

    def choices(self, request: Any) -> Iterator[Backend]:
        return iter(())


class RaisesWithoutServers(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        self.backends[0]
        return super().choices(request)


class ChoosesNothing(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        return iter(())


class Starving(Good):
    def rank(self, backend: Backend) -> tuple[bool, float]:
        return backend.full, 9e9 if backend.name == "b" else self.turns[backend]


class WithoutWeights(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        ordered = sorted(self.backends, key=self.rank)
        if ordered:
            self.turns[ordered[0]] += 1
        yield from ordered


class WithoutSlowStart(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        ordered = sorted(self.backends, key=self.rank)
        if ordered:
            self.turns[ordered[0]] += 1 / ordered[0].weight
        yield from ordered


class RemembersTheDead(Good):
    def backends_changed(self, backends: list[Backend]) -> None:
        super().backends_changed(self.backends + [one for one in backends if one not in self.backends])


class ToldOnce(Good):
    def backends_changed(self, backends: list[Backend]) -> None:
        if not self.backends:
            super().backends_changed(backends)
        else:
            self.backends = [backend for backend in self.backends if backend in backends]


class SameWeightsForEver(Good):
    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[Backend, float] = {}

    def backends_changed(self, backends: list[Backend]) -> None:
        super().backends_changed(backends)
        for backend in backends:
            self.weights.setdefault(backend, backend.effective_weight)

    def choices(self, request: Any) -> Iterator[Backend]:
        ordered = sorted(self.backends, key=self.rank)
        if ordered:
            self.turns[ordered[0]] += 1 / self.weights[ordered[0]]
        yield from ordered


@implementer(IPeeking)
class Peeking(Good):
    def peek(self, request: Any) -> Iterator[Backend]:
        return iter(sorted(self.backends, key=self.rank))


class SpendsATurn(Peeking):
    def peek(self, request: Any) -> Iterator[Backend]:
        return self.choices(request)


class Repeating(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        for backend in super().choices(request):
            yield backend
            yield backend


class Endless(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        while self.backends:
            yield from super().choices(request)


class OneRoundForAll(Good):
    """Two requests that overlap share their place in the round, so that one of them sees a server again."""

    place = 0

    def choices(self, request: Any) -> Iterator[Backend]:
        for _ in self.backends:
            self.place = (self.place + 1) % len(self.backends)
            yield self.backends[self.place]


class OnlyOne(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        for backend in super().choices(request):
            yield backend
            return


class Counting(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        for backend in super().choices(request):
            backend.in_flight += 1
            yield backend


class NeedsText(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        request.target.decode()
        return super().choices(request)


class NeedsAHeader(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        request.header(b"x-tenant").lower()
        return super().choices(request)


class BreaksWhenChanged(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        for place in range(len(self.backends)):
            yield self.backends[place]


class SilentWhenFull(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        return (backend for backend in super().choices(request) if not backend.full)


class ForgetsTheFree(Good):
    def choices(self, request: Any) -> Iterator[Backend]:
        full = [backend for backend in self.backends if backend.full]
        return iter(full) if len(full) > 1 else super().choices(request)


class OnlyServersItKnows(Good):
    def server_chosen(self, request: Any, backend: Backend) -> None:
        self.backends.remove(backend)
        self.backends.append(backend)


class KnowsOnlyItsOwn(Good):
    def request_finished(self, request: Any, backend: Backend) -> None:
        self.turns[backend] += 0


# Each balancer that is broken in one way, a test that it fails, and what its user is told.
BROKEN: list[tuple[type[Any], str, str]] = [
    (KnowsOnlyItsOwn, "test_request_finished", "servers may be gone by then"),
    (Unmarked, "test_provides_the_interface", "@implementer(IBalancer)"),
    (RaisesWithoutServers, "test_no_servers", "choices raised IndexError"),
    (ChoosesNothing, "test_only_server", "such a request gets 503"),
    (ChoosesNothing, "test_no_server_starves", "it chose no server at all"),
    (Starving, "test_no_server_starves", "server b starves: 3000 requests went to a (weight 1): 3000"),
    (WithoutWeights, "test_weights", "server a got 1500 of 3000 requests where its weight says 2250"),
    (WithoutSlowStart, "test_slow_start", "server b got 1000 of 3000 requests where its weight says 273"),
    (RemembersTheDead, "test_only_servers_it_was_given", "is down, draining or gone"),
    (ToldOnce, "test_notices_changes", "server c was added, and is never chosen"),
    (SameWeightsForEver, "test_notices_changes", "server a got 1000 of 3000 requests where its weight says 2000"),
    (Repeating, "test_each_at_most_once", "a retry would meet them again"),
    (Endless, "test_each_at_most_once", "a retry would meet them again"),
    (OneRoundForAll, "test_each_at_most_once", "a retry would meet them again"),
    (OnlyOne, "test_another_choice", "has no other to go to"),
    (Counting, "test_leaves_backends_alone", "it changed in_flight of server a from 3 to"),
    (NeedsText, "test_odd_requests", "choices raised UnicodeDecodeError"),
    (NeedsAHeader, "test_odd_requests", "choices raised AttributeError"),
    (BreaksWhenChanged, "test_changes_under_way", "an iterator raised IndexError"),
    (SilentWhenFull, "test_full_servers", "yield them, and the request can wait"),
    (ForgetsTheFree, "test_full_servers", "though another one has room"),
    (SpendsATurn, "test_peek", "they have to be the same, and peek must not change them"),
    (OnlyServersItKnows, "test_optional_methods", "server_chosen raised ValueError"),
]


def complaints(balancer: type[Any], only: str = "", **attributes: bool) -> dict[str, str]:
    """The tests that a balancer fails, of all or `only` of one, with what they say."""

    class Tests(BalancerContract, unittest.TestCase):
        def make(self) -> Any:
            return balancer()

    for name, value in attributes.items():
        setattr(Tests, name, value)
    result = unittest.TestResult()
    suite = unittest.TestSuite([Tests(only)]) if only else unittest.defaultTestLoader.loadTestsFromTestCase(Tests)
    suite.run(result)
    return {case.id().rpartition(".")[2]: text for case, text in [*result.failures, *result.errors]}


class ContractTests(SynchronousTestCase):
    def test_good_balancer(self) -> None:
        """A balancer that keeps the contract fails no test."""
        self.assertEqual(complaints(Good), {})
        self.assertEqual(complaints(Peeking), {})

    def test_broken_balancers(self) -> None:
        """Each kind of broken balancer is caught, and its user is told what is wrong."""
        for balancer, name, expected in BROKEN:
            said = complaints(balancer, name)
            self.assertIn(name, said, balancer)
            last_line = said[name].rstrip().rpartition("\n")[2]
            self.assertTrue(last_line.startswith("AssertionError: "), said[name])
            self.assertIn(expected, last_line, balancer)

    def test_every_test_catches_something(self) -> None:
        """There is no test in the suite that every broken balancer passes."""
        names = {name for name in dir(BalancerContract) if name.startswith("test_")}
        self.assertEqual(names - {name for _, name, _ in BROKEN}, set())

    def test_meant_to_be_unfair(self) -> None:
        """Who says that a balancer prefers servers, or does not heed weights, hears nothing of that."""
        self.assertEqual(complaints(Starving, fair=False), {})
        self.assertEqual(complaints(WithoutWeights, weighted=False), {})
        [starving] = complaints(Starving, "test_no_server_starves").values()
        self.assertIn("set fair = False if that is meant", starving)
        [weighing] = complaints(WithoutWeights, "test_weights").values()
        self.assertIn("set weighted = False", weighing)

    def test_make_is_missing(self) -> None:
        """Without `make` each test says that it has to be defined."""

        class Tests(BalancerContract, unittest.TestCase):
            pass

        error = self.assertRaises(NotImplementedError, Tests("test_weights").test_weights)
        self.assertIn("define make(self)", str(error))
