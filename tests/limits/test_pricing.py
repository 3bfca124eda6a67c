"""What requests cost: the user's class behind checks, and the X-Token-Cost of a server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb import bounded_log
from twisted_lb.limits.pricing import (
    MAX_COST,
    NO_PRICING,
    Pricing,
    PricingError,
    PricingFailed,
    make_pricing,
    token_cost,
)
from twisted_lb.testing import FakeRequest, FakeResponse

OWN = """
class Both:
    def __init__(self, factor=2, *, now=None, chance=None):
        if factor < 0:
            raise ValueError("factor is below 0")
        self.factor, self.now, self.chance = factor, now, chance
    def cost(self, request):
        return self.factor
    def settle(self, request, response):
        return None

class Before:
    def cost(self, request, extra=1):
        return 3

class After:
    @staticmethod
    def settle(request, response):
        return 4

class Neither:
    def price(self, request):
        return 1

class NoMethod:
    cost = 3

class ForNobody:
    def cost(self):
        return 1

class ForMore:
    def settle(self, request, response, user):
        return 1

class Later:
    async def cost(self, request):
        return 1

class Yielding:
    def settle(self, request, response):
        yield 1

class Unready:
    @property
    def cost(self):
        raise KeyError("table")
"""

NO_COSTS: tuple[object, ...] = (-1, MAX_COST + 1, 1.0, True, False, "3", b"3", [], float("nan"))


class Says:
    """Prices by two functions."""

    def __init__(self, cost: Callable[[], object], settle: Callable[[], object]) -> None:
        self._cost = cost
        self._settle = settle

    def cost(self, request: Any) -> Any:
        return self._cost()

    def settle(self, request: Any, response: Any) -> Any:
        return self._settle()


def fail() -> object:
    raise KeyError("model")


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError


class MakePricingTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "own_prices.py").write_text(OWN)
        self.patch(sys, "path", [str(directory.absolute()), *sys.path])
        self.addCleanup(sys.modules.pop, "own_prices", None)

    def refusal(self, word: str, **options: object) -> str:
        return str(self.assertRaises(PricingError, make_pricing, word, options))

    def test_either_or_both(self) -> None:
        """A class has cost, settle or both, and needs no mark."""
        cases = [("Both", True, True), ("Before", True, False), ("After", False, True)]
        for name, asks, settles in cases:
            pricing = make_pricing(f"own_prices:{name}", {})
            self.assertEqual((pricing.asks, pricing.settles), (asks, settles), name)
        self.assertEqual(make_pricing("own_prices:Before", {}).cost(FakeRequest()), 3)
        self.assertEqual(make_pricing("own_prices:After", {}).settle(FakeRequest(), FakeResponse(), 9), 4)

    def test_options(self) -> None:
        """Options are keyword arguments, and the clock and the random numbers come from the program."""
        clock, chance = Clock(), Random(1)
        self.assertEqual(make_pricing("own_prices:Both", {"factor": 7}).cost(FakeRequest()), 7)
        made: Any = make_pricing("own_prices:Both", {}, clock.seconds, chance)
        self.assertEqual((made._priced.now, made._priced.chance), (clock.seconds, chance))

    def test_refusals(self) -> None:
        """A class that cannot work is refused when it is made, with its name and what is wrong."""
        cases = [
            ("no_such_prices:Both", "there is no module no_such_prices"),
            ("own_prices:Missing", "has no class Missing"),
            ("own_prices", "'own_prices' is not of the form package.module:Class"),
            ("own_prices:Neither", "own_prices:Neither: the class has neither a method cost(request) nor settle("),
            ("own_prices:NoMethod", "own_prices:NoMethod: cost is not a method; expected cost(request)"),
            ("own_prices:ForNobody", "cost cannot be called as cost(request): too many positional arguments"),
            ("own_prices:ForMore", "called as settle(request, response): missing a required argument: 'user'"),
            ("own_prices:Later", "cost is a coroutine or a generator; expected cost(request) that returns at once"),
            ("own_prices:Yielding", "settle is a coroutine or a generator"),
            ("own_prices:Unready", "cost cannot be looked up: KeyError: 'table'"),
        ]
        for word, expected in cases:
            self.assertIn(expected, self.refusal(word), word)

    def test_refused_options(self) -> None:
        """Options that the class does not take, or does not accept, are told with those it has."""
        self.assertIn("it takes factor", self.refusal("own_prices:Both", factr=1))
        self.assertIn("ValueError: factor is below 0", self.refusal("own_prices:Both", factor=-1))
        self.assertIn("unexpected keyword argument 'now'", self.refusal("own_prices:Both", now=1))

    def test_nobody(self) -> None:
        """Without a class a request costs 1, or what the server says."""
        self.assertIs(make_pricing("", {}), NO_PRICING)
        self.assertEqual((NO_PRICING.asks, NO_PRICING.settles), (False, False))
        self.assertEqual(NO_PRICING.cost(FakeRequest()), 1)
        self.assertEqual(NO_PRICING.settle(FakeRequest(), FakeResponse(), 6), 6)
        self.assertEqual(NO_PRICING.settle(FakeRequest(), FakeResponse(token_cost=0), 6), 0)


class CheckedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self.note)
        self.addCleanup(globalLogPublisher.removeObserver, self.note)

    def note(self, event: Any) -> None:
        if event["log_level"] >= LogLevel.error:
            self.lines.append(event["log_format"].format(**event))

    def pricing(self, cost: Callable[[], object], settle: Callable[[], object] = lambda: None) -> Pricing:
        return Pricing("prices:Says", Says(cost, settle), self.clock.seconds)

    def test_bounds(self) -> None:
        """Whole numbers from 0 to 1,000,000,000 are costs, both ends included."""
        for tokens in (0, 1, 7, 10**9):
            pricing = self.pricing(lambda: tokens, lambda: tokens)
            self.assertEqual(pricing.cost(FakeRequest()), tokens)
            self.assertEqual(pricing.settle(FakeRequest(), FakeResponse(token_cost=5), 3), tokens)
        self.assertEqual(self.lines, [])

    def test_no_cost(self) -> None:
        """Anything else is no cost: the request fails, or keeps its cost, and the log says what came."""
        for value in (*NO_COSTS, None):
            self.assertRaises(PricingFailed, self.pricing(lambda: value).cost, FakeRequest())
            self.assertIn(f"prices:Says returned {value!r} from cost, the request is answered 500", self.lines.pop())
        for value in NO_COSTS:
            pricing = self.pricing(lambda: 1, lambda: value)
            self.assertEqual(pricing.settle(FakeRequest(), FakeResponse(), 3), 3)
            self.assertIn(f"returned {value!r} from settle, the cost stays as it was", self.lines.pop())

    def test_long_or_unshowable(self) -> None:
        """A value in the log has a bounded length, and one that cannot be shown is no second failure."""
        self.assertRaises(PricingFailed, self.pricing(lambda: "x" * 10**6).cost, FakeRequest())
        self.assertLess(len(self.lines.pop()), 300)
        self.assertRaises(PricingFailed, self.pricing(Unshowable).cost, FakeRequest())
        self.assertIn("Unshowable", self.lines.pop())

    def test_exceptions(self) -> None:
        """An exception fails the request, or leaves the cost as it was, and the log has its traceback."""
        pricing = self.pricing(fail, fail)
        self.assertRaises(PricingFailed, pricing.cost, FakeRequest())
        self.assertEqual(pricing.settle(FakeRequest(), FakeResponse(), 3), 3)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)
        self.assertEqual(
            self.lines,
            [
                "pricing: prices:Says raised in cost, the request is answered 500",
                "pricing: prices:Says raised in settle, the cost stays as it was",
            ],
        )

    def test_settle_leaves_it(self) -> None:
        """None from settle is what the server says, or else the cost so far."""
        pricing = self.pricing(lambda: 1)
        self.assertEqual(pricing.settle(FakeRequest(), FakeResponse(token_cost=5), 3), 5)
        self.assertEqual(pricing.settle(FakeRequest(), FakeResponse(), 3), 3)

    def test_log_is_not_flooded(self) -> None:
        """Of the failures of a method one a second is logged, with the number of those that were not."""
        self.patch(bounded_log, "LOG_SECONDS", 1.0)
        pricing = self.pricing(lambda: None, lambda: "x")
        for _ in range(1000):
            self.assertRaises(PricingFailed, pricing.cost, FakeRequest())
            pricing.settle(FakeRequest(), FakeResponse(), 3)
        self.assertEqual(len(self.lines), 2)
        self.clock.advance(1)
        self.assertRaises(PricingFailed, pricing.cost, FakeRequest())
        self.assertTrue(self.lines[2].endswith("(999 more since the last such line)"), self.lines)
        self.clock.advance(1)
        self.assertRaises(PricingFailed, pricing.cost, FakeRequest())
        self.assertTrue(self.lines[3].endswith(f"to {MAX_COST}"), self.lines)


class TokenCostTests(SynchronousTestCase):
    def test_values(self) -> None:
        """The value is 1*DIGIT, at most 1,000,000,000, in a single field; all else says nothing."""
        cases: list[tuple[list[bytes], int | None]] = [
            ([b"0"], 0),
            ([b"7"], 7),
            ([b" 7\t"], 7),
            ([b"007"], 7),
            ([b"0" * 10_000 + b"7"], 7),
            ([b"1000000000"], MAX_COST),
            ([b"1000000001"], None),
            ([b"9" * 10_000], None),
            ([], None),
            ([b""], None),
            ([b"1", b"1"], None),
            ([b"1, 1"], None),
            ([b"-1"], None),
            ([b"+1"], None),
            ([b"1.0"], None),
            ([b"1e3"], None),
            ([b"1_000"], None),
            ([b"0x10"], None),
            ([b"1\n"], None),
            (["\u0661".encode()], None),
            ([b"\xb2"], None),
        ]
        for values, expected in cases:
            self.assertEqual(token_cost(values), expected, values)
