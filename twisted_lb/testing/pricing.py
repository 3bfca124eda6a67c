"""The contract of a pricing class as a suite of tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

from zope.interface.verify import verifyObject

from twisted_lb.interfaces import ICosting, IRequest, IResponse, ISettling
from twisted_lb.limits.bucket import MAX_COST
from twisted_lb.limits.pricing import Pricing, PricingError, is_cost
from twisted_lb.testing.fakes import ODD_REQUESTS, ODD_RESPONSES
from twisted_lb.testing.interfaces import hold

# A call that waits for something takes longer than this each time; one that only computes does not, the first
# time and busy machines aside.
BLOCKING_SECONDS = 0.005
TRIES = 5


class PricingContract:
    """A mixin for a TestCase.  Set `requests` and `responses` to try further ones that matter to your class."""

    requests: Iterable[IRequest] = ()
    responses: Iterable[IResponse] = ()
    # A clock in seconds, by which calls are timed.
    seconds: Callable[[], float] = staticmethod(time.perf_counter)

    def make(self) -> Any:
        """A new pricing object."""
        raise NotImplementedError("define make(self), which returns a new pricing object")

    def test_methods(self) -> None:
        """There is cost(request), settle(request, response) or both, and they accept these arguments.

        A class that is marked with IPricing has both; with ICosting or ISettling, the one method.
        """
        pricing = self.make()
        for interface in (ICosting, ISettling):
            if interface.providedBy(pricing):
                verifyObject(interface, pricing)
        try:
            Pricing(type(pricing).__name__, pricing)
        except PricingError as error:
            raise AssertionError(f"{error}: the program does not start with it") from None

    def test_cost(self) -> None:
        """Whatever the request holds or lacks, `cost` is a whole number of tokens within the bounds."""
        pricing = self.make()
        if hasattr(pricing, "cost"):
            for request in self._requests():
                tokens = _called(pricing.cost, request)
                hold(is_cost(tokens), f"{_returned('cost', tokens)} for {request}: the client would get 500")

    def test_settle(self) -> None:
        """Whatever the response is, `settle` is None or a whole number of tokens within the bounds."""
        pricing = self.make()
        if hasattr(pricing, "settle"):
            for request, response in product(self._requests(), self._responses()):
                self._ask(pricing, request)
                tokens = _called(pricing.settle, request, response)
                message = f"{_returned('settle', tokens)} (or None) for {response} to {request}: it would not count"
                hold(tokens is None or is_cost(tokens), message)

    def test_requests_overlap(self) -> None:
        """Responses may end in any order, and some never come: `settle` does not rely on their order."""
        pricing = self.make()
        if hasattr(pricing, "settle"):
            for request in self._requests():
                self._ask(pricing, request)
            response = ODD_RESPONSES[0]
            for request in reversed(self._requests()[1:]):
                tokens = _called(pricing.settle, request, response)
                hold(tokens is None or is_cost(tokens), f"{_returned('settle', tokens)} (or None), out of order")

    def test_blocks_nothing(self) -> None:
        """Each call returns at once."""
        pricing = self.make()
        request, response = self._requests()[0], self._responses()[0]
        calls: dict[str, tuple[Any, ...]] = {"cost": (request,), "settle": (request, response)}
        for name, arguments in calls.items():
            method = getattr(pricing, name, None)
            if method is not None:
                seconds = min(self._timed(method, arguments) for _ in range(TRIES))
                hold(
                    seconds < BLOCKING_SECONDS,
                    f"{name} took {seconds * 1000:.1f} ms each time: meanwhile every client of the process waits",
                )

    def _ask(self, pricing: Any, request: IRequest) -> None:
        if hasattr(pricing, "cost"):
            _called(pricing.cost, request)

    def _timed(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
        begun = self.seconds()
        _called(method, *arguments)
        return self.seconds() - begun

    def _requests(self) -> list[IRequest]:
        return [*ODD_REQUESTS, *self.requests]

    def _responses(self) -> list[IResponse]:
        return [*ODD_RESPONSES, *self.responses]


def _called(method: Callable[..., Any], *arguments: object) -> Any:
    try:
        return method(*arguments)
    except Exception as error:
        given = ", ".join(map(repr, arguments))
        raise AssertionError(f"{method.__name__} raised {error!r} for {given}: its answer does not count") from error


def _returned(name: str, tokens: object) -> str:
    return f"{name} returned {tokens!r} where a whole number from 0 to {MAX_COST} is expected"
