"""A failure in a request ends this request, and is never raised into the connection, store or queue that called it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog

_log = BoundedLog(Logger(__name__))

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Breakable(Protocol):
    """What can be ended in any state."""

    def broke(self) -> None:
        """An unexpected exception is being handled: end, in any state."""


def guarded(method: _Method) -> _Method:
    """A decorator for callbacks: an exception is not raised into the caller, but ends the request (`Breakable.broke`).

    Methods that run for each request do the same themselves, since an additional call is expensive there.
    """

    @wraps(method)
    def call(self: Breakable, *args: Any) -> Any:
        try:
            return method(self, *args)
        except BaseException:
            self.broke()
            return None

    return cast(_Method, call)


def guarded_done(method: _Method) -> _Method:
    """The same for a method that returns True when the request is done, which it also is after an exception."""

    @wraps(method)
    def call(self: Breakable, *args: Any) -> Any:
        try:
            return method(self, *args)
        except BaseException:
            self.broke()
            return True

    return cast(_Method, call)


def take_steps(*steps: Callable[[], object]) -> None:
    """Log the exception that is being handled, and take each step, even if others fail."""
    _log.failure("request", "A request failed here; its client is answered 500, or its connection is cut")
    for step in steps:
        try:
            step()
        except BaseException:
            _log.failure("end", "A request that failed here could not be ended in good order")
