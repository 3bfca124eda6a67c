"""What serves clients in one process, as parts that fit together."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api.gate import AddressGate
from twisted_lb.config import read_fleet
from twisted_lb.interfaces import Account, AccountPage, Limits, Policy, Profile, StoreState
from twisted_lb.limits.standby import COUNTS
from twisted_lb.serving import Serving, limits_of
from twisted_lb.settings import Settings

FLEET = """
servers:
- {name: near, url: "http://127.0.0.1:9001"}
- {name: far, url: "http://10.0.0.1", weight: 0}
"""


class FakeStore:
    """What a report asks of a store."""

    def __init__(self) -> None:
        self.up = False
        self.asked: list[tuple[str, int]] = []

    def state(self) -> StoreState:
        return StoreState(self.up, "" if self.up else "Redis is away")

    def counts(self) -> dict[str, float]:
        return {"store_up": float(self.up)}

    def page(self, after: str, count: int) -> Deferred[AccountPage]:
        self.asked.append((after, count))
        return succeed(AccountPage([Profile(Account("b", 5, 1.0), -1)], "b"))


def serving_of(fleet: str = FLEET, redis_url: str = "redis://127.0.0.1:1", **settings: Any) -> Serving:
    return Serving(MemoryReactorClock(), Settings(redis_url=redis_url, **settings), read_fleet(fleet, "x.yaml"), {})


class Three:
    """A pricing class."""

    def cost(self, request: Any) -> int:
        return 3


class ServingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.serving = serving_of()
        self.store = FakeStore()
        self.patch(self.serving, "_store", self.store)

    def swap(self, text: str) -> str:
        return self.serving.swap(read_fleet(text, "x.yaml"))

    def test_parts(self) -> None:
        """The store comes first and the proxy last, and nothing is among them that a machine has only once."""
        kinds = [type(part).__name__ for part in self.serving.together()]
        self.assertEqual(kinds, ["StoreService", "Caretaker", "ProxyService"])

    def readiness(self) -> tuple[bool, bool, str]:
        return self.serving.report()[:3]

    def test_readiness(self) -> None:
        """Traffic is welcome while the proxy runs and a server is available, and at no other time."""
        serving = self.serving
        self.store.up = True
        self.assertEqual(self.readiness(), (False, False, "draining"))
        serving.proxy.running = True
        self.assertEqual(self.readiness(), (True, False, "serving"))
        serving.fleet.backends[0].up = False
        self.assertEqual(self.readiness(), (False, False, "no server is available"))

    def test_store_away(self) -> None:
        """While the store is away traffic is welcome, but not served as it should be; with deny it is not welcome."""
        for mode, ready in (("local", True), ("allow", True), ("deny", False)):
            serving = serving_of(on_store_error=mode)
            self.patch(serving, "_store", FakeStore())
            serving.proxy.running = True
            self.assertEqual(serving.report()[:3], (ready, ready, "Redis is away"), mode)
            serving.fleet.backends[0].up = False
            self.assertEqual(serving.report()[:3], (False, False, "no server is available"), mode)

    def test_store_that_cannot_be_written(self) -> None:
        """An embedded store that cannot be written has all keys in memory, so traffic is welcome, in any mode."""
        serving = serving_of(redis_url="", on_store_error="deny")
        self.patch(serving, "_store", FakeStore())
        serving.proxy.running = True
        self.assertEqual(serving.report()[:2], (True, True))

    def test_password_is_not_told(self) -> None:
        """What a report says of a Redis that is away has no password in it."""
        serving = serving_of(redis_url="redis://user:geheim@127.0.0.1:1")
        serving.proxy.running = True
        report = serving.report()
        self.assertEqual(report[:2], (True, True))
        self.assertNotIn("geheim", report.reason)

    def test_shown(self) -> None:
        """The servers are shown in the order of the file, and one that is gone as long as it has exchanges."""
        near = self.serving.fleet.backends[0]
        near.in_flight = 1
        self.swap("servers: [{name: new, url: 'http://127.0.0.1:1'}]")
        states = [(server["name"], server["state"], server["reason"]) for server in self.serving.report().servers]
        self.assertEqual(states, [("new", "up", "new"), ("near", "draining", "removed")])
        near.in_flight = 0
        self.assertEqual(len(self.serving.report().servers), 1)

    def test_counts(self) -> None:
        """The numbers of the store are those that the store gives; an embedded one has none."""
        self.assertEqual(self.serving.report().counts, {"store_up": 0.0})
        self.assertEqual(serving_of(redis_url="").report().counts, {})
        real = serving_of().report().counts
        self.assertEqual(set(real), set(COUNTS))
        self.assertEqual(real["store_up"], 0)

    def test_users(self) -> None:
        """A page of users is the store's, in words for JSON."""
        page = self.successResultOf(self.serving.users("a", 1))
        users = [{"name": "b", "capacity": 5, "rate_per_sec": 1, "current_capacity": -1}]
        self.assertEqual((self.store.asked, page), ([("a", 1)], {"users": users, "next": "b"}))

    def test_limits(self) -> None:
        """The limits are those of the settings."""
        settings = Settings(
            global_capacity=1,
            global_rate_per_sec=2.0,
            address_capacity=3,
            address_rate_per_sec=4.0,
            max_in_flight_per_key=5,
        )
        self.assertEqual(limits_of(settings), Limits(Policy(1, 2.0), Policy(3, 4.0), 5))

    def test_familiar_keys(self) -> None:
        """The proxy and the user API share one memory of keys, and there is none where addresses have no bucket."""
        shared = self.serving.proxy.factory.doorstep.shared
        gate = self.serving.gate
        assert isinstance(gate, AddressGate), gate
        self.assertIs(gate.familiar, shared.familiar)
        without = serving_of(address_capacity=0)
        self.assertIsNone(without.proxy.factory.doorstep.shared.familiar)
        self.assertNotIsInstance(without.gate, AddressGate)

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

    def test_pricing(self) -> None:
        """What the file says of costs holds from the start, and after a swap."""
        priced = FLEET + 'pricing: "tests.test_serving:Three"\n'
        request: Any = object()
        shared = serving_of(priced).proxy.factory.doorstep.shared
        self.assertEqual(shared.pricing.cost(request), 3)
        shared = self.serving.proxy.factory.doorstep.shared
        self.assertFalse(shared.pricing.asks)
        self.swap(priced)
        self.assertEqual(shared.pricing.cost(request), 3)
        self.swap(FLEET)
        self.assertFalse(shared.pricing.asks)
