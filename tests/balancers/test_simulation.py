"""The simulation whose results are in docs/balancing.md."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bench.simulate_balancers import ENTRANTS, LOADS, Entrant, simulate
from tests.configuration import only_pool
from twisted_lb.balancers.registry import BALANCERS, make_balancer
from twisted_lb.interfaces import IBalancer

DOCS = (Path(__file__).parent.parent.parent / "docs" / "balancing.md").read_text(encoding="utf-8")


class SimulationTests(SynchronousTestCase):
    def test_same_figures_each_time(self) -> None:
        """Two runs of one balancer give the same figures."""
        for word in ("least_conn", "p2c"):
            entrant = Entrant(word, word)
            self.assertEqual(simulate(entrant, 0.9, 1500), simulate(entrant, 0.9, 1500))

    def test_who_spares_the_slowest_server(self) -> None:
        """Balancers that see the load or the latency give the slowest server less than half of an equal share."""
        for word, spares in (("least_conn", True), ("p2c", True), ("ewma", True), ("round_robin", False)):
            slowest = simulate(Entrant(word, word), 0.7, 6000).slowest
            self.assertEqual(slowest < 0.005, spares, (word, slowest))

    def test_every_balancer_is_compared(self) -> None:
        """The simulation has a row for each balancer, and the documentation a table with each row for each load."""
        self.assertEqual({entrant.word for entrant in ENTRANTS}, set(BALANCERS))
        rows = re.findall(r"^\| ([^|]+?) \|(?: +[\d.]+ \|){3}", DOCS, re.MULTILINE)
        self.assertEqual(rows, [entrant.title for _ in LOADS for entrant in ENTRANTS])

    def test_every_balancer_is_documented(self) -> None:
        """The documentation names each balancer as servers.yaml does."""
        for word in BALANCERS:
            self.assertIn(f"`{word}`", DOCS)

    def test_examples(self) -> None:
        """Each balancer that the documentation writes out for servers.yaml can be made."""
        examples = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
        self.assertEqual(len(examples), 3)
        for example in examples:
            pool = only_pool(example + "servers: [{name: a, url: 'http://a.example'}]\n", "servers.yaml")
            self.assertTrue(IBalancer.providedBy(make_balancer(pool.balancer, pool.options)), example)
