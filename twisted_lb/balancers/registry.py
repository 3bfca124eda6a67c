"""Finds a balancer by the name in servers.yaml: a built-in name, or `package.module:Class` of the user's own.

The registry has the classes as strings, so that a balancer's module is imported only where it is used.  A new
built-in balancer is its class and one line here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from random import Random
from typing import Any

from twisted_lb.balancers.options import OptionError
from twisted_lb.interfaces import OPTIONAL_METHODS, IBalancer
from twisted_lb.plugins import NamedClassError, load_plugin, make_object, method_of

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


class BalancerError(Exception):
    """The balancer does not exist, or cannot be created; the text says what failed."""


def make_balancer(
    name: str,
    options: Mapping[str, object] | None = None,
    now: Callable[[], float] = time.monotonic,
    chance: Random | None = None,
) -> Any:
    """A new balancer, which provides IBalancer.  Raises BalancerError.

    `now` is the clock in seconds of `Backend.latency_at`, which is the reactor's; `chance` gives random numbers.
    """
    kind = find_balancer(name)
    try:
        balancer = make_object(name, kind, options or {}, now, chance, (OptionError, BalancerError))
        for method, parameters in OPTIONAL_METHODS.items():
            method_of(name, balancer, method, parameters)
        return balancer
    except NamedClassError as error:
        raise BalancerError(str(error)) from error.__cause__


def find_balancer(name: str) -> type[Any]:
    """The class behind `name`.  Raises BalancerError."""
    if ":" in name:
        return _load(name)
    if name not in BALANCERS:
        close = get_close_matches(name, BALANCERS, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(BALANCERS))}"
        raise BalancerError(f"there is no balancer {name!r}; {hint} (or name your own as package.module:Class)")
    return _load(BALANCERS[name])


def _load(path: str) -> type[Any]:
    try:
        return load_plugin(path, IBalancer)
    except NamedClassError as error:
        raise BalancerError(str(error)) from error.__cause__
