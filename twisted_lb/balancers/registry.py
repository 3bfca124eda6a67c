"""Finds a balancer by the word in servers.yaml: a name of ours, or `package.module:Class` of the user's own.

The names lead to strings, so that a balancer's module is imported only where it is used.  A new
balancer of ours is its class and one line here.

Time and chance come in by the door: a class whose constructor has a parameter named `now` or `chance` is
given the clock or the random numbers by the program, and never by the file.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from random import Random
from typing import Any

from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyClass

from twisted_lb.balancers.options import OptionError
from twisted_lb.interfaces import IBalancer

BALANCERS: dict[str, str] = {
    "round_robin": "twisted_lb.balancers.round_robin:RoundRobin",
    "least_conn": "twisted_lb.balancers.least_conn:LeastConn",
    "random": "twisted_lb.balancers.weighted_random:WeightedRandom",
    "p2c": "twisted_lb.balancers.p2c:TwoChoices",
    "ewma": "twisted_lb.balancers.ewma:PeakEwma",
    "hash": "twisted_lb.balancers.consistent_hash:ConsistentHash",
    "sticky": "twisted_lb.balancers.sticky:Sticky",
    "first": "twisted_lb.balancers.first:First",
}

# Parameters that the program fills in.
PROVIDED = ("now", "chance")


class BalancerError(Exception):
    """There is no such balancer, or it cannot be made; the text says what failed."""


def make_balancer(
    word: str,
    options: Mapping[str, object] | None = None,
    now: Callable[[], float] = time.monotonic,
    chance: Random | None = None,
) -> Any:
    """A new balancer, which provides IBalancer.  Raises BalancerError.

    `now` is the clock in seconds of `Backend.latency_at`, which is the reactor's; `chance` gives random numbers.
    """
    balancer = find_balancer(word)
    given = dict(options or {})
    named = inspect.signature(balancer).parameters
    provided = {"now": now, "chance": chance or Random()}
    arguments = {**given, **{name: provided[name] for name in PROVIDED if name in named}}
    try:
        inspect.signature(balancer).bind(**arguments)
        unwelcome = [name for name in PROVIDED if name in given and name in named]
        if unwelcome:
            raise TypeError(f"got an unexpected keyword argument '{unwelcome[0]}'")
    except TypeError as error:
        raise BalancerError(f"{word} does not take these options: {error}; it takes {_options_of(balancer)}") from None
    try:
        return balancer(**arguments)
    except (OptionError, BalancerError) as error:
        raise BalancerError(f"{word}: {error}") from error
    except Exception as error:
        raise BalancerError(f"{word} refused its options: {type(error).__name__}: {error}") from error


def find_balancer(word: str) -> type[Any]:
    """The class behind `word`.  Raises BalancerError."""
    if ":" in word:
        return _load(word)
    if word not in BALANCERS:
        close = get_close_matches(word, BALANCERS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(BALANCERS))}"
        raise BalancerError(f"there is no balancer {word!r}; {hint} (or name your own as package.module:Class)")
    return _load(BALANCERS[word])


def _load(path: str) -> type[Any]:
    module_name, _, class_name = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), class_name]):
        raise BalancerError(f"{path!r} is not of the form package.module:Class")
    try:
        module = import_module(module_name)
    except Exception as error:
        raise BalancerError(_why_no_module(path, module_name, error)) from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise BalancerError(f"{path}: the module {module_name} ({module.__file__}) has no class {class_name}")
    if not IBalancer.implementedBy(found):
        raise BalancerError(f"{path}: the class does not provide IBalancer; is it marked with @implementer(IBalancer)?")
    try:
        verifyClass(IBalancer, found)
    except Invalid as error:
        raise BalancerError(f"{path}: the class does not keep IBalancer: {' '.join(str(error).split())}") from error
    return found


def _why_no_module(path: str, module_name: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if module_name == error.name or module_name.startswith(error.name + "."):
            return f"{path}: there is no module {error.name} beside the servers file or among the installed packages"
    return f"{path}: the module {module_name} cannot be imported: {type(error).__name__}: {error}"


def _options_of(balancer: type[Any]) -> str:
    parameters = inspect.signature(balancer).parameters
    return ", ".join(name for name in parameters if name not in PROVIDED) or "none"
