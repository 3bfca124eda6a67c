"""The servers of a worker: what its parent has found, for the current servers file or for another one."""

from __future__ import annotations

import json
from collections.abc import Mapping

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Misconfigured
from twisted_lb.discovery.worker_servers import ServersOfWorker

WEB = read_gateway("servers: [{name: web, url: 'http://web.test:8000'}]\n", "/x/servers.yaml")
LISTED = read_gateway("discover: {file: list.json}\n", "/x/servers.yaml")
ONE = json.dumps({"name": "one", "url": "http://one.test"})


class WorkerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.changes: list[list[str]] = []
        self.problem: Misconfigured | None = None
        self.clock = Clock()
        self.servers = ServersOfWorker(self.clock, WEB, {"web.test": ["10.0.0.1", "10.0.0.2"]})

    def change(self, spec: GatewaySpec) -> Deferred[str]:
        if self.problem is not None:
            return fail(self.problem)
        self.changes.append([server.name for server in spec.servers])
        return succeed("everything")

    def use(self, configured: GatewaySpec | None, answers: Mapping[str, list[str]]) -> Deferred[None]:
        used = Deferred.fromCoroutine(self.servers.use(configured, answers, self.change))
        self.clock.pump([0] * 5)
        return used

    def test_start(self) -> None:
        """A worker starts with the servers that are known."""
        names = [server.name for server in self.servers.spec.servers]
        self.assertEqual(names, ["web@10.0.0.1:8000", "web@10.0.0.2:8000"])

    def test_answers(self) -> None:
        """An answer that has changed is used with the present file, and the others stay."""
        self.successResultOf(self.use(None, {"web.test": ["10.0.0.3", "10.0.0.4"]}))
        self.assertEqual(self.changes, [["web@10.0.0.3:8000", "web@10.0.0.4:8000"]])

    def test_another_file(self) -> None:
        """Another file is used with its answers; those of the former one are forgotten."""
        self.successResultOf(self.use(LISTED, {"file /x/list.json": [ONE]}))
        self.successResultOf(self.use(WEB, {}))
        self.assertEqual(self.changes, [["one"], ["web"]])

    def test_rejected(self) -> None:
        """After a file that was rejected, answers are used with the one before it."""
        self.problem = Misconfigured(["no"])
        self.failureResultOf(self.use(LISTED, {"file /x/list.json": [ONE]}), Misconfigured)
        self.problem = None
        self.successResultOf(self.use(None, {"web.test": ["10.0.0.3", "10.0.0.4"]}))
        self.assertEqual(self.changes, [["web@10.0.0.3:8000", "web@10.0.0.4:8000"]])
