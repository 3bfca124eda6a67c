"""Every balancer in the registry keeps the contract, alone and with backups behind it."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.balancers.failover import Failover
from twisted_lb.balancers.registry import BALANCERS, make_balancer
from twisted_lb.testing import BalancerContract

# Options that a balancer cannot do without.
OPTIONS: dict[str, dict[str, object]] = {"sticky": {"secret": "sixteen letters!"}}
# The only balancer that prefers some servers by design.
UNFAIR = {"first"}


def make(word: str) -> Any:
    return make_balancer(word, OPTIONS.get(word), Clock().seconds, Random(word))


def _contract_tests(word: str, behind: bool) -> type[SynchronousTestCase]:
    class Tests(BalancerContract, SynchronousTestCase):
        fair = word not in UNFAIR

        def make(self) -> Any:
            return Failover(make(word), make(word)) if behind else make(word)

    Tests.__name__ = Tests.__qualname__ = f"{word.title().replace('_', '')}{'Failover' * behind}ContractTests"
    Tests.__module__ = __name__
    return Tests


for _word in BALANCERS:
    for _behind in (False, True):
        _tests = _contract_tests(_word, _behind)
        globals()[_tests.__name__] = _tests
del _tests
