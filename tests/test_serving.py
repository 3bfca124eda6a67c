"""What serves clients in one process, as parts that fit together."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config import read_fleet
from twisted_lb.serving import Serving
from twisted_lb.settings import Settings

FLEET = """
servers:
- {name: near, url: "http://127.0.0.1:9001"}
- {name: far, url: "http://10.0.0.1", weight: 0}
"""


class ServingTests(SynchronousTestCase):
    def setUp(self) -> None:
        settings = Settings(redis_url="redis://127.0.0.1:1")
        self.serving = Serving(MemoryReactorClock(), settings, read_fleet(FLEET, "x.yaml"), {})

    def swap(self, text: str) -> str:
        return self.serving.swap(read_fleet(text, "x.yaml"))

    def test_parts(self) -> None:
        """The store comes first and the proxy last, and nothing is among them that a machine has only once."""
        kinds = [type(part).__name__ for part in self.serving.together()]
        self.assertEqual(kinds, ["StoreService", "Caretaker", "ProxyService"])

    def test_readiness(self) -> None:
        """Traffic is welcome while the proxy runs and a server is available, and at no other time."""
        serving = self.serving
        self.assertEqual(serving.readiness(), (False, "draining"))
        serving.proxy.running = True
        self.assertEqual(serving.readiness(), (True, "serving"))
        serving.fleet.backends[0].up = False
        self.assertEqual(serving.readiness(), (False, "no server is available"))

    def test_shown(self) -> None:
        """The servers are shown in the order of the file, and one that is gone as long as it has exchanges."""
        near = self.serving.fleet.backends[0]
        near.in_flight = 1
        self.swap("servers: [{name: new, url: 'http://127.0.0.1:1'}]")
        shown: list[Any] = self.serving.shown()
        states = [(server["name"], server["state"], server["reason"]) for server in shown]
        self.assertEqual(states, [("new", "up", "new"), ("near", "draining", "removed")])
        near.in_flight = 0
        self.assertEqual(len(self.serving.shown()), 1)

    def test_new_server_starts_slowly(self) -> None:
        """A server that comes while the program runs begins with a part of its weight; those of the start do not."""
        slow = ', slowstart: 10}'
        self.swap(FLEET.replace("}", slow))
        near = self.serving.fleet.backends[0]
        self.assertEqual(near.effective_weight, 1)
        self.swap(FLEET.replace("}", slow) + "- {name: new, url: 'http://127.0.0.1:1', slowstart: 10}")
        new = self.serving.fleet.backends[2]
        self.assertTrue(0 < new.effective_weight < 1, new.effective_weight)

    def test_health_of_what_stays(self) -> None:
        """A server that was ejected before a swap is ejected after it."""
        self.swap("ejection: {consecutive_failures: 2}\n" + FLEET.replace(", weight: 0", ""))
        near, far = self.serving.fleet.backends
        for _ in range(2):
            self.serving.caretaker.seen(near, 0, 0.0, "refused")
        self.assertFalse(near.up)
        self.swap(FLEET.replace(", weight: 0", ", weight: 3"))
        self.assertIs(self.serving.fleet.backends[0], near)
        self.assertEqual((near.up, far.up, far.weight), (False, True, 3))

    def test_retries_and_queue(self) -> None:
        """What the file says of retries and of the queue holds from the start, and after a swap."""
        factory = self.serving.proxy.factory
        self.assertEqual(factory.doorstep.shared.retries.attempts, 3)
        self.swap(FLEET + "retries: {attempts: 1}\nqueue: {size: 0}\n")
        self.assertEqual(factory.doorstep.shared.retries.attempts, 1)
        waiting: Any = object()
        self.assertFalse(factory.queue.join(waiting, b"user", 1))
