"""Every balancer in the registry keeps the contract."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.balancers.contract import BalancerContract
from twisted_lb.balancers.registry import BALANCERS, make_balancer


def _contract_tests(word: str) -> type[SynchronousTestCase]:
    class Tests(BalancerContract, SynchronousTestCase):
        def make_balancer(self) -> Any:
            return make_balancer(word)

    Tests.__name__ = Tests.__qualname__ = f"{word.title().replace('_', '')}ContractTests"
    Tests.__module__ = __name__
    return Tests


for _word in BALANCERS:
    _tests = _contract_tests(_word)
    globals()[_tests.__name__] = _tests
del _tests
