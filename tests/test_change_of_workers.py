"""Another configuration for all workers, or for none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.gateway import Gateway
from twisted_lb.app.workers.change import ChangeOfWorkers
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Misconfigured
from twisted_lb.discovery.service import Found

ONE = "servers: [{name: a, url: http://a.test}]\n"
TWO = "servers: [{name: a, url: http://a.test}, {name: b, url: http://b.test}]\n"
ANSWERS = {"a.test": ("10.0.0.1",)}


class FakeWorkers:
    """Workers with these problems, call by call."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.problems: Iterator[list[str]] = iter(())

    def use(self, text: str | None, servers: Any, files: Any, answers: Any) -> Deferred[list[str]]:
        self.told.append((text, [name for _, name, _ in servers], answers))
        return succeed(next(self.problems, []))


class ChangeTests(SynchronousTestCase):
    def setUp(self) -> None:
        first = read_gateway(ONE, "servers.yaml")
        self.gateway = Gateway(Clock(), first)
        self.workers = FakeWorkers()
        workers: Any = self.workers
        self.change = ChangeOfWorkers(self.gateway, workers, Found(first, first, ANSWERS, ONE))

    def use(self, text: str, answers: Any = ANSWERS, changed: bool = True) -> Any:
        spec = read_gateway(text, "servers.yaml")
        return self.change.use(Found(spec, spec, answers, text if changed else None))

    def servers(self) -> list[str]:
        return [backend.name for backend in self.gateway.backends]

    def test_used(self) -> None:
        """All workers are told, and the description is that of the change."""
        self.assertIn("added b", self.successResultOf(self.use(TWO)))
        self.assertEqual((self.workers.told, self.servers()), ([(TWO, ["a", "b"], ANSWERS)], ["a", "b"]))

    def test_rejected(self) -> None:
        """When one worker rejects it, all are told what they had before, and it fails with the reason."""
        self.workers.problems = iter([["it rejected the servers (worker 2)"]])
        failure = self.failureResultOf(self.use(TWO, {}), Misconfigured)
        self.assertEqual(failure.value.problems, ("it rejected the servers (worker 2)",))
        self.assertEqual(self.workers.told, [(TWO, ["a", "b"], {}), (ONE, ["a"], ANSWERS)])
        self.assertEqual(self.servers(), ["a"])

    def test_other_answers_are_rejected(self) -> None:
        """What was before has the text that was used last, also where only the answers have changed."""
        self.successResultOf(self.use(TWO))
        self.successResultOf(self.use(TWO, {}, changed=False))
        self.workers.problems = iter([["no"]])
        self.failureResultOf(self.use(ONE, changed=False), Misconfigured)
        self.assertEqual(self.workers.told[-2:], [(None, ["a"], ANSWERS), (TWO, ["a", "b"], {})])
        self.assertEqual(self.servers(), ["a", "b"])
