"""What a request meets stays with it: nothing is raised into the connection, the store or the queue that calls it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog

_log = BoundedLog(Logger())

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Breakable(Protocol):
    """What can be ended in any state."""

    def broke(self) -> None:
        """Something has raised where nothing should, and is being handled: it ends, whatever its state."""


def guarded(method: _Method) -> _Method:
    """For what others call: nothing is raised into them; what goes wrong ends the request (`Breakable.broke`).

    The methods that run for each request do the same by themselves, since a call costs there.  True stands for done,
    where somebody asks.
    """

    @wraps(method)
    def call(self: Breakable, *args: Any) -> Any:
        try:
            return method(self, *args)
        except BaseException:
            self.broke()
            return True

    return cast(_Method, call)


def take_steps(*steps: Callable[[], object]) -> None:
    """Log the exception that is being handled, and take each step, whatever becomes of the others."""
    _log.failure("request", "A request failed here; its client is answered 500, or its connection is cut")
    for step in steps:
        try:
            step()
        except BaseException:
            _log.failure("end", "A request that failed here could not be ended in good order")
