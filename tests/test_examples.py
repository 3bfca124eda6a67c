"""The Python in the README and in docs/ can be compiled, and its classes keep the contract that the pages recommend."""

from __future__ import annotations

import re
import sys
import unittest
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.backend import Backend
from twisted_lb.testing import (
    AuthenticatorContract,
    BalancerContract,
    FakeRequest,
    HookContract,
    PricingContract,
    servers,
)

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# The method by which a class of the pages shows what it is, and the suite that it has to pass then.
CONTRACTS: dict[str, Any] = {
    "choices": BalancerContract,
    "cost": PricingContract,
    "identify": AuthenticatorContract,
    "request_received": HookContract,
}


def pieces() -> list[str]:
    """The pieces of Python, those that need others after them."""
    found = [code for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    return sorted(found, key=lambda code: "TestCase" in code)


def module_of(code: str) -> str:
    """The module that the pages have it in: that of its class, in small letters."""
    names = re.findall(r"^class (\w+)", code, re.MULTILINE)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", names[0]).lower() if names else ""


class PiecesTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        self.patch(sys, "path", [str(directory.absolute()), *sys.path])
        self.modules = [name for name in map(module_of, pieces()) if name]
        for code in pieces():
            if name := module_of(code):
                (directory / f"{name}.py").write_text(code)
                self.addCleanup(sys.modules.pop, name, None)

    def test_python(self) -> None:
        """Each piece can be compiled, and there are some."""
        for code in pieces():
            compile(code, "page", "exec")
        self.assertGreaterEqual(set(self.modules), {"least_busy", "language_model", "basic_user", "least_busy_tests"})

    def classes(self, base: type = object) -> list[type]:
        """The classes of the pages."""
        modules = [import_module(name) for name in self.modules]
        found = [value for one in modules for value in vars(one).values() if isinstance(value, type)]
        return [one for one in found if one.__module__ in self.modules and issubclass(one, base)]

    def run_suite(self, suite: type[unittest.TestCase]) -> None:
        names = unittest.defaultTestLoader.getTestCaseNames(suite)
        self.assertGreaterEqual(len(names), 5)
        for name in names:
            suite(name).debug()

    def test_contracts(self) -> None:
        """Each class keeps the contract of what it is."""
        tried = set()
        for one in self.classes():
            for method, contract in CONTRACTS.items():
                if hasattr(one, method):
                    self.run_suite(type("Suite", (contract, unittest.TestCase), {"make": lambda _, one=one: one()}))
                    tried.add(one.__name__)
        self.assertEqual(tried, {"LeastBusy", "LanguageModel", "BasicUser", "Tenants"})

    def test_suites(self) -> None:
        """The suites of the pages pass as they stand there."""
        suites = self.classes(unittest.TestCase)
        expected = {"LeastBusyTests", "LanguageModelTests", "BasicUserTests", "TenantsTests"}
        self.assertEqual({suite.__name__ for suite in suites}, expected)
        for suite in suites:
            self.run_suite(suite)

    def test_one_after_another(self) -> None:
        """With nothing in flight the README's balancer sends requests to all servers, by weight and slow start."""
        backends = servers(1, 2, 1)
        backends[2].ramp = 0.5
        balancer = import_module("least_busy").LeastBusy()
        balancer.backends_changed(backends)
        first = [next(balancer.choices(FakeRequest(number))) for number in range(2000)]
        for backend, share in zip(backends, (1 / 3.5, 2 / 3.5, 0.5 / 3.5)):
            self.assertApproximates(first.count(backend) / 2000, share, 0.08)

    def test_least_busy(self) -> None:
        """The README's balancer chooses the least busy server for its weight, and then those after it."""
        busy, heavy, idle = (Backend(name, "127.0.0.1", 1, weight) for name, weight in (("a", 1), ("b", 4), ("c", 1)))
        busy.in_flight, heavy.in_flight = 2, 4
        balancer = import_module("least_busy").LeastBusy()
        balancer.backends_changed([busy, heavy, idle])
        self.assertEqual(list(balancer.choices(FakeRequest())), [idle, heavy, busy])
