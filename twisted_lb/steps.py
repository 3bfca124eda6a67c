"""Long work in steps, between which the event loop serves clients.

The work is a generator, which yields where it may be interrupted, and returns the result.  `finish` runs it to its end;
`run_in_turns` runs it over many iterations of the event loop.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

# Items per step: at some microseconds each, a few milliseconds.
STEP = 250

T = TypeVar("T")
Steps = Generator[None, None, T]


def finish(steps: Steps[T]) -> T:
    """Run the remaining steps; return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def run_in_turns(reactor: Any, steps: Steps[T]) -> Deferred[T]:
    """One step now, and one in each further iteration of the reactor.  Fires with the result or the exception."""
    done: Deferred[T] = Deferred()
    _go_on(reactor, steps, done)
    return done


# Not a nested function: that would be a reference cycle, which keeps the result until the garbage collector runs.
def _go_on(reactor: Any, steps: Steps[T], done: Deferred[T]) -> None:
    try:
        next(steps)
    except StopIteration as end:
        done.callback(end.value)
    except Exception:
        done.errback()
    else:
        reactor.callLater(0, _go_on, reactor, steps, done)


def chunks(things: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in order, STEP at a time."""
    for start in range(0, len(things), STEP):
        yield things[start : start + STEP]
