"""The cost of requests: validates the user's pricing class and its results (IPricing).

1. At start-up the class is instantiated and its methods are checked: `cost`, `settle` or both must exist and accept
   their arguments.  A class that cannot work prevents the start, instead of failing with the first request.
2. Each result is checked before any tokens are taken: it must be a whole number from 0 to MAX_COST.
3. Failures are logged with a traceback, at most once per second for each method, because the class is called for every
   request.

A server may report a cost too, in the field X-Token-Cost:

    X-Token-Cost = 1*DIGIT
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, TypeGuard

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog, shown
from twisted_lb.interfaces import IRequest, IResponse
from twisted_lb.limits.bucket import MAX_COST
from twisted_lb.plugins import NamedClassError, load_class, make_object, method_of

DEFAULT_COST: Final = 1  # tokens, for a request without a pricing class

# At most ten digits after any number of zeros, as many as MAX_COST has.
_COST: Final = re.compile(rb"0*([0-9]{1,10})")


class PricingError(Exception):
    """The pricing class does not exist, or cannot work; the text says what failed."""


class PricingFailed(Exception):
    """The pricing class failed to price a request; the reason has been logged."""


class Pricing:
    """The user's pricing object with validation of its results, as the proxy uses it."""

    def __init__(
        self,
        class_name: str = "",
        priced: object = None,
        now: Callable[[], float] = time.monotonic,
        default_cost: int = DEFAULT_COST,
    ) -> None:
        """`priced` is the user's object, with `cost`, `settle` or both, or None.  Raises PricingError.

        `class_name` names it in errors and in the log; `now` is a clock in seconds.  `default_cost` is the number of
        tokens to take before a request if the object has no method `cost`.
        """
        self.default_cost = default_cost
        self._class_name = class_name
        self._priced = priced
        self._log = BoundedLog(Logger(__name__), now)
        self._cost = _method(class_name, priced, "cost", ("request",))
        self._settle = _method(class_name, priced, "settle", ("request", "response"))
        self.asks = self._cost is not None
        self.settles = self._settle is not None
        if priced is not None and not self.asks and not self.settles:
            missing = "neither a method cost(request) nor settle(request, response)"
            raise PricingError(f"{class_name}: the class has {missing}")

    def cost(self, request: IRequest) -> int:
        """The tokens to take before the request is sent.  Raises PricingFailed, after logging the reason."""
        if self._cost is None:
            return self.default_cost
        try:
            tokens = self._cost(request)
        except BaseException:
            self._raised("cost", "the request is answered 500")
            raise PricingFailed from None
        # `is_cost` without the call: this runs for each request.
        if type(tokens) is int and 0 <= tokens <= MAX_COST:
            return tokens
        if not is_cost(tokens):
            self._returned("cost", "the request is answered 500", tokens)
            raise PricingFailed
        return int(tokens)

    def settle(self, request: IRequest, response: IResponse, cost: int) -> int:
        """The total cost of the request, in tokens.  Does not raise.

        `cost` is the number of tokens that were taken.  It is the result if the class fails.  If the class returns
        None, or has no such method, the result is the cost that the server reported, or else `cost`.
        """
        tokens = None
        if self._settle is not None:
            try:
                tokens = self._settle(request, response)
            except BaseException:
                self._raised("settle", "the cost stays as it was")
                return cost
        if tokens is None:
            told: int | None = response.token_cost
            return cost if told is None else told
        if not is_cost(tokens):
            self._returned("settle", "the cost stays as it was", tokens)
            return cost
        return int(tokens)

    def _raised(self, method: str, then: str) -> None:
        self._log.failure(
            f"{method} raised",
            "pricing: {class_name} raised in {method}, {then}",
            class_name=self._class_name,
            method=method,
            then=then,
        )

    def _returned(self, method: str, then: str, tokens: object) -> None:
        self._log.error(
            f"{method} returned",
            "pricing: {class_name} returned {tokens} from {method}, {then}; expected {expected}",
            class_name=self._class_name,
            tokens=shown(tokens),
            method=method,
            then=then,
            expected=f"a whole number from 0 to {MAX_COST}",
        )

    def __repr__(self) -> str:
        return f"<Pricing by {self._priced!r}>" if self._priced is not None else "<Pricing by nobody>"


def make_pricing(
    class_name: str,
    options: Mapping[str, object],
    now: Callable[[], float] = time.monotonic,
    chance: Random | None = None,
) -> Pricing:
    """The pricing that servers.yaml names as `package.module:Class`; "" is NO_PRICING.  Raises PricingError.

    `now` is the reactor's clock in seconds, and `chance` a source of random numbers, for classes with these parameters.
    """
    if not class_name:
        return NO_PRICING
    try:
        priced = make_object(class_name, load_class(class_name), options, now, chance)
    except NamedClassError as error:
        raise PricingError(str(error)) from error.__cause__
    return Pricing(class_name, priced, now)


def token_cost(values: Sequence[bytes]) -> int | None:
    """The cost in tokens that a server reported; `values` are those of all its X-Token-Cost fields.

    None unless there is exactly one, and it is a whole number up to MAX_COST.
    """
    if len(values) != 1:
        return None
    match = _COST.fullmatch(values[0].strip(b" \t"))
    tokens = int(match[1]) if match else MAX_COST + 1
    return tokens if tokens <= MAX_COST else None


def _method(class_name: str, priced: object, name: str, parameters: tuple[str, ...]) -> Callable[..., Any] | None:
    """See `method_of`.  Raises PricingError."""
    try:
        return method_of(class_name, priced, name, parameters)
    except NamedClassError as error:
        raise PricingError(str(error)) from error.__cause__


def is_cost(tokens: object) -> TypeGuard[int]:
    """Whether it is a whole number of tokens from 0 to MAX_COST; True and False are not numbers."""
    return isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens <= MAX_COST


# A request costs one token, or what the server reports.
NO_PRICING: Final = Pricing()
