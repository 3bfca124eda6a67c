"""The public contract suite reports what is wrong with a pricing class."""

from __future__ import annotations

import unittest
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.testing import FakeRequest, FakeResponse, PricingContract

# Time passes only where a class lets it.
CLOCK = Clock()


class Good:
    """Keeps the contract: the bytes of the request before, and those of the response after."""

    def cost(self, request: Any) -> int:
        return min(max(request.content_length, 0), 1_000_000)

    def settle(self, request: Any, response: Any) -> int | None:
        return None if response.token_cost is not None else min(response.body_bytes, 1_000_000)


class OnlyBefore:
    def cost(self, request: Any) -> int:
        return 2


class OnlyAfter:
    def settle(self, request: Any, response: Any) -> int:
        return 2


class Neither:
    pass


class Unbounded(Good):
    def cost(self, request: Any) -> int:
        return max(request.content_length, 0)


class TakesUnknownForLength(Good):
    def cost(self, request: Any) -> int:
        return min(int(request.content_length), 1_000_000)


class Fractional(Good):
    def settle(self, request: Any, response: Any) -> Any:
        return response.body_bytes / 4


class NeedsAHeader(Good):
    def cost(self, request: Any) -> int:
        return len(request.header(b"x-model"))


class NeedsUsage(Good):
    def settle(self, request: Any, response: Any) -> int:
        return int(response.header(b"x-usage") or b"0")


class KeepsOnTheRequest(Good):
    def cost(self, request: Any) -> int:
        request.estimate = 3
        return 3


class OneAtATime(Good):
    def cost(self, request: Any) -> int:
        self.last = request
        return 1

    def settle(self, request: Any, response: Any) -> int:
        if self.last is not request:
            raise LookupError("another request")
        return 1


class SlowBefore(Good):
    def cost(self, request: Any) -> int:
        CLOCK.advance(0.006)
        return 1


class SlowAfter(Good):
    def settle(self, request: Any, response: Any) -> int:
        CLOCK.advance(0.006)
        return 1


# Each class that is broken in one way, a test that it fails, and what its user is told.
BROKEN: list[tuple[type[Any], str, str]] = [
    (Neither, "test_methods", "neither a method cost(request) nor settle(request, response): the program does not"),
    (Unbounded, "test_cost", "cost returned 1000000000000000 where a whole number from 0 to 1000000000 is expected"),
    (TakesUnknownForLength, "test_cost", "cost returned -1"),
    (Fractional, "test_settle", "settle returned 0.0"),
    (NeedsAHeader, "test_cost", "cost raised TypeError"),
    (NeedsUsage, "test_settle", "settle raised ValueError"),
    (KeepsOnTheRequest, "test_cost", "cost raised AttributeError"),
    (OneAtATime, "test_requests_overlap", "settle raised LookupError('another request')"),
    (SlowBefore, "test_blocks_nothing", "cost took 6.0 ms each time"),
    (SlowAfter, "test_blocks_nothing", "settle took 6.0 ms each time"),
]


def complaints(pricing: type[Any], only: str = "", **attributes: object) -> dict[str, str]:
    """The tests that a class fails, of all or `only` of one, with what they say."""

    class Tests(PricingContract, unittest.TestCase):
        seconds = CLOCK.seconds

        def make(self) -> Any:
            return pricing()

    for name, value in attributes.items():
        setattr(Tests, name, value)
    result = unittest.TestResult()
    suite = unittest.TestSuite([Tests(only)]) if only else unittest.defaultTestLoader.loadTestsFromTestCase(Tests)
    suite.run(result)
    return {case.id().rpartition(".")[2]: text for case, text in [*result.failures, *result.errors]}


class ContractTests(SynchronousTestCase):
    def test_good_classes(self) -> None:
        """A class that keeps the contract fails no test, also with one of the two methods alone."""
        for pricing in (Good, OnlyBefore, OnlyAfter):
            self.assertEqual(complaints(pricing), {})

    def test_broken_classes(self) -> None:
        """Each kind of broken class is caught, and its user is told what is wrong."""
        for pricing, name, expected in BROKEN:
            said = complaints(pricing, name)
            self.assertIn(name, said, pricing)
            last_line = said[name].rstrip().rpartition("\n")[2]
            self.assertTrue(last_line.startswith("AssertionError: "), said[name])
            self.assertIn(expected, last_line, pricing)

    def test_every_test_catches_something(self) -> None:
        """There is no test in the suite that every broken class passes."""
        names = {name for name in dir(PricingContract) if name.startswith("test_")}
        self.assertEqual(names - {name for _, name, _ in BROKEN}, set())

    def test_requests_of_ones_own(self) -> None:
        """Requests and responses that the user adds are tried as well."""

        class Particular(Good):
            def cost(self, request: Any) -> Any:
                return -1 if request.header(b"x-model") == b"free" else 1

            def settle(self, request: Any, response: Any) -> Any:
                return -1 if response.status == 418 else 1

        self.assertEqual(complaints(Particular), {})
        requests = [FakeRequest(headers={b"x-model": b"free"})]
        self.assertEqual(list(complaints(Particular, requests=requests)), ["test_cost"])
        self.assertEqual(list(complaints(Particular, responses=[FakeResponse(418)])), ["test_settle"])

    def test_make_is_missing(self) -> None:
        """Without `make` each test says that it has to be defined."""

        class Tests(PricingContract, unittest.TestCase):
            pass

        error = self.assertRaises(NotImplementedError, Tests("test_cost").test_cost)
        self.assertIn("define make(self)", str(error))
