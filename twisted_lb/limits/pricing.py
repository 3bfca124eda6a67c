"""What requests cost: the user's pricing class, held to its contract (IPricing).

1. At the start the class is made, and what it says is looked at: `cost`, `settle` or both, which take what
   they will be given.  A class that cannot work stops the start, not the first request.
2. Each answer is checked before anything is taken: it is a whole number from 0 to MAX_COST.
3. A failure is logged with its traceback, but at most once a second for each method: the class runs for
   every request, and a log that grows with the traffic is a second fault.

A server may name a cost too, in the field X-Token-Cost:

    X-Token-Cost = 1*DIGIT
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, TypeGuard

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog, shown
from twisted_lb.interfaces import IRequest, IResponse
from twisted_lb.limits.bucket import MAX_COST
from twisted_lb.named_class import NamedClassError, load_class, make_object

DEFAULT_COST = 1  # tokens, of a request that nobody prices

# At most ten digits count, behind any number of zeros: MAX_COST has no more.
_COST = re.compile(rb"0*([0-9]{1,10})")


class PricingError(Exception):
    """There is no such pricing class, or it cannot work; the text says what failed."""


class PricingFailed(Exception):
    """The pricing class could not tell what a request costs; why has been logged."""


class Pricing:
    """The user's object behind checks; what the proxy asks."""

    def __init__(self, word: str = "", priced: object = None, now: Callable[[], float] = time.monotonic) -> None:
        """`priced` has `cost`, `settle` or both; None: nobody prices.  Raises PricingError.

        `word` names it in errors and in the log; `now` is a clock in seconds.
        """
        self._word = word
        self._priced = priced
        self._log = BoundedLog(Logger(), now)
        self._cost = _method(word, priced, "cost", ("request",))
        self._settle = _method(word, priced, "settle", ("request", "response"))
        self.asks = self._cost is not None
        self.settles = self._settle is not None
        if priced is not None and not self.asks and not self.settles:
            raise PricingError(f"{word}: the class has neither a method cost(request) nor settle(request, response)")

    def cost(self, request: IRequest) -> int:
        """What has to be there before the request is sent, in tokens.  Raises PricingFailed, which is logged."""
        if self._cost is None:
            return DEFAULT_COST
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
        """What the request has cost in all, in tokens.  Does not raise.

        `cost` is what it costs when the class fails.  Where the class returns None, or has no such method, that
        is what the server says, or else `cost`.
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
            f"{method} raised", "pricing: {word} raised in {method}, {then}", word=self._word, method=method, then=then
        )

    def _returned(self, method: str, then: str, tokens: object) -> None:
        self._log.error(
            f"{method} returned",
            "pricing: {word} returned {tokens} from {method}, {then}; expected {expected}",
            word=self._word,
            tokens=shown(tokens),
            method=method,
            then=then,
            expected=f"a whole number from 0 to {MAX_COST}",
        )

    def __repr__(self) -> str:
        return f"<Pricing by {self._priced!r}>" if self._priced is not None else "<Pricing by nobody>"


def make_pricing(
    word: str,
    options: Mapping[str, object],
    now: Callable[[], float] = time.monotonic,
    chance: Random | None = None,
) -> Pricing:
    """The pricing that servers.yaml asks for with `package.module:Class`; "" is NO_PRICING.  Raises PricingError.

    `now` is the reactor's clock in seconds, and `chance` gives random numbers, for a class that names them.
    """
    if not word:
        return NO_PRICING
    try:
        priced = make_object(word, load_class(word), options, now, chance)
    except NamedClassError as error:
        raise PricingError(str(error)) from error.__cause__
    return Pricing(word, priced, now)


def token_cost(values: Sequence[bytes]) -> int | None:
    """What a server says a request cost, in tokens, of the values of all its X-Token-Cost fields.

    None when it says nothing that can be used: no value or several, no whole number, or more than MAX_COST.
    """
    if len(values) != 1:
        return None
    match = _COST.fullmatch(values[0].strip(b" \t"))
    tokens = int(match[1]) if match else MAX_COST + 1
    return tokens if tokens <= MAX_COST else None


def _method(word: str, priced: object, name: str, parameters: tuple[str, ...]) -> Callable[..., Any] | None:
    """The method of this name, which takes these arguments; None where there is none.  Raises PricingError."""
    form = f"{name}({', '.join(parameters)})"
    try:
        method = getattr(priced, name)
    except AttributeError:
        return None
    except BaseException as error:
        raise PricingError(f"{word}: {name} cannot be looked up: {type(error).__name__}: {error}") from error
    if not callable(method):
        raise PricingError(f"{word}: {name} is no method; expected {form}")
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_kind(method) for is_kind in kinds):
        raise PricingError(f"{word}: {name} is a coroutine or a generator; expected {form} that returns at once")
    try:
        inspect.signature(method).bind(*parameters)
    except TypeError as error:
        raise PricingError(f"{word}: {name} cannot be called as {form}: {error}") from None
    except ValueError:
        # Some that are written in C do not say what they take.
        pass
    return method  # type: ignore[no-any-return]


def is_cost(tokens: object) -> TypeGuard[int]:
    """Whether it is a whole number of tokens from 0 to MAX_COST; True and False are none."""
    return isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens <= MAX_COST


# Each request costs one token, or what the server says.
NO_PRICING = Pricing()
