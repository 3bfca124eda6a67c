"""docs/costs.md is correct: its class can be loaded, passes the contract, and the costs are those on the page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.configuration import only_pool
from twisted_lb.limits.pricing import Pricing, make_pricing
from twisted_lb.testing import FakeRequest, FakeResponse, PricingContract

PAGE = Path(__file__).parent.parent.joinpath("docs", "costs.md").read_text(encoding="utf-8")
CLASS, SUITE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SERVERS = "servers: [{name: a, url: http://a}]\n"


class ExampleTests(PricingContract, SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        (directory / "language_model.py").write_text(CLASS)
        (directory / "language_model_tests.py").write_text(SUITE)
        self.patch(sys, "path", [str(directory.absolute()), *sys.path])
        for name in ("language_model", "language_model_tests"):
            self.addCleanup(sys.modules.pop, name, None)

    def make(self) -> Any:
        from language_model import LanguageModel  # type: ignore[import-not-found]

        return LanguageModel()

    def pricings(self) -> list[Pricing]:
        """One for each way in which the page has it in servers.yaml."""
        pools = [only_pool(SERVERS + text, "x.yaml") for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
        return [make_pricing(pool.pricing, pool.pricing_options) for pool in pools]

    def test_configuration(self) -> None:
        """Both ways to name the class make it, and an option of the file changes the estimate."""
        prompt = FakeRequest(method=b"POST", content_length=2000)
        self.assertEqual([pricing.cost(prompt) for pricing in self.pricings()], [1000, 1300])

    def test_figures(self) -> None:
        """A request costs what the page says, before and after."""
        pricing = self.pricings()[0]
        prompt = FakeRequest(method=b"POST", content_length=2000)
        cases = [
            (FakeResponse(token_cost=3700), 3700),
            (FakeResponse(token_cost=400), 400),
            (FakeResponse(body_bytes=9), 1000),
            (FakeResponse(503, token_cost=5), 0),
        ]
        for response, expected in cases:
            self.assertEqual(pricing.settle(prompt, response, pricing.cost(prompt)), expected)
        self.assertEqual(pricing.cost(FakeRequest()), 0)
        self.assertEqual(pricing.cost(FakeRequest(method=b"POST", content_length=-1)), 100_000)

    def test_suite(self) -> None:
        """The suite of the page runs the contract over the class."""
        from language_model_tests import LanguageModelTests  # type: ignore[import-not-found]

        self.assertTrue(issubclass(LanguageModelTests, PricingContract))
        LanguageModelTests("test_cost").debug()
