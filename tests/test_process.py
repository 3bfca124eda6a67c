"""What serves clients in one process, as parts that fit together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from inspect import isgetsetdescriptor, ismemberdescriptor
from types import FunctionType, ModuleType
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api.address_limit import AddressGate
from twisted_lb.app.process import Serving, limits_of
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Settings
from twisted_lb.interfaces import Account, AccountPage, Limits, Policy, Profile, StoreState
from twisted_lb.limits.fallback import COUNTS
from twisted_lb.proxy.client_connection import ClientConnection

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


def serving_of(pool: str = FLEET, redis_url: str = "redis://127.0.0.1:1", **settings: Any) -> Serving:
    return Serving(MemoryReactorClock(), Settings(redis_url=redis_url, **settings), read_gateway(pool, "x.yaml"), {})


def reachable(root: object, closed: tuple[object, ...]) -> Iterator[object]:
    """The values within reach of `root`, by attributes, items, methods and partials, but not through `closed`.

    Nor through a Logger: Twisted's history of the log has the tracebacks of other tests.
    """
    seen = {id(one): one for one in closed}
    left = [root]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType, FunctionType, Logger)):
            continue
        seen[id(one)] = one
        yield one
        if isinstance(one, (str, bytes, int, float)):
            continue
        # Slots, the __dict__, the object of a method, and the attributes of compiled classes.
        for kind in type(one).__mro__:
            for name, value in kind.__dict__.items():
                if (ismemberdescriptor(value) or isgetsetdescriptor(value)) and hasattr(one, name):
                    left.append(getattr(one, name))
        if isinstance(one, Mapping):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, (tuple, list, set, frozenset, deque)):
            left += one


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
        return self.serving.gateway.change(read_gateway(text, "x.yaml"))

    def test_parts(self) -> None:
        """The store comes first and the proxy last, and nothing is among them that a machine has only once."""
        kinds = [type(part).__name__ for part in self.serving.together()]
        self.assertEqual(kinds, ["StoreService", "UsageService", "PoolsInProcess", "TunnelKeys", "ProxyService"])

    def readiness(self) -> tuple[bool, bool, str]:
        return self.serving.report()[:3]

    def test_readiness(self) -> None:
        """Traffic is welcome while the proxy runs and a server is available, and at no other time."""
        serving = self.serving
        self.store.up = True
        self.assertEqual(self.readiness(), (False, False, "draining"))
        serving.proxy.running = True
        self.assertEqual(self.readiness(), (True, False, "serving"))
        serving.gateway.backends[0].up = False
        self.assertEqual(self.readiness(), (False, False, "no server is available"))

    def test_store_away(self) -> None:
        """While the store is away traffic is welcome, but not served as it should be; with deny it is not welcome."""
        for mode, ready in (("local", True), ("allow", True), ("deny", False)):
            serving = serving_of(on_store_error=mode)
            self.patch(serving, "_store", FakeStore())
            serving.proxy.running = True
            self.assertEqual(serving.report()[:3], (ready, ready, "Redis is away"), mode)
            serving.gateway.backends[0].up = False
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
        # It was never reached: nobody can be served, whatever ON_STORE_ERROR says.
        self.assertEqual(report[:2], (False, False))
        self.assertNotIn("geheim", report.reason)

    def test_shown(self) -> None:
        """The servers are shown in the order of the file, and one that is gone as long as it has exchanges."""
        near = self.serving.gateway.backends[0]
        near.in_flight = 1
        self.swap("servers: [{name: new, url: 'http://127.0.0.1:1'}]")
        states = [(server["name"], server["state"], server["reason"]) for server in self.serving.report().servers]
        self.assertEqual(states, [("new", "up", "new"), ("near", "draining", "removed")])
        near.in_flight = 0
        self.assertEqual(len(self.serving.report().servers), 1)

    def test_counts(self) -> None:
        """The numbers of the store, of which an embedded one has none, stand beside those of requests."""
        of_requests = dict.fromkeys(("admitted", "tunnels", "tunnel_bytes client", "tunnel_bytes server"), 0)
        self.assertEqual(self.serving.report().counts, {"store_up": 0.0, **of_requests})
        self.assertEqual(serving_of(redis_url="").report().counts, of_requests)
        real = serving_of().report().counts
        self.assertEqual(set(real), {*COUNTS, *of_requests})
        self.assertEqual(real["store_up"], 0)

    def test_users(self) -> None:
        """The users are those of the store."""
        self.assertIs(self.serving.users, self.store)

    def test_secrets(self) -> None:
        """No part of the data path can reach a password or token, except through the store, which uses it."""
        secret = "geheim"
        url = f"redis+sentinel://:{secret}@127.0.0.1:1/main"
        serving = serving_of(redis_url=url, redis_sentinel_password=secret, admin_token=secret)
        factory = serving.factory
        context = factory.limits.context
        found = list(reachable(ClientConnection(factory.limits), (context.buckets, factory.limits.door, serving)))
        self.assertIn(context.settings, found)
        self.assertIn(context.routes.only.pool.servers, found)
        self.assertEqual([one for one in found if isinstance(one, Settings)], [])
        self.assertEqual([one for one in found if isinstance(one, (str, bytes)) and secret in repr(one)], [])
        # The walk would have found it.
        everything = reachable(factory, (serving,))
        self.assertTrue(any(isinstance(one, str) and secret in one for one in everything))

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
        shared = self.serving.proxy.factory.limits.context
        gate = self.serving.gate
        assert isinstance(gate, AddressGate), gate
        self.assertIs(gate.known_keys, shared.known_keys)
        without = serving_of(address_capacity=0)
        self.assertIsNone(without.proxy.factory.limits.context.known_keys)
        self.assertNotIsInstance(without.gate, AddressGate)

    def test_new_server_starts_slowly(self) -> None:
        """A server that comes while the program runs begins with a part of its weight; those of the start do not."""
        slow = ', slowstart: 10}'
        self.swap(FLEET.replace("}", slow))
        near = self.serving.gateway.backends[0]
        self.assertEqual(near.effective_weight, 1)
        self.swap(FLEET.replace("}", slow) + "- {name: new, url: 'http://127.0.0.1:1', slowstart: 10}")
        new = self.serving.gateway.backends[2]
        self.assertTrue(0 < new.effective_weight < 1, new.effective_weight)

    def test_health_of_what_stays(self) -> None:
        """A server that was ejected before a swap is ejected after it."""
        self.swap("ejection: {consecutive_failures: 2}\n" + FLEET.replace(", weight: 0", ""))
        near, far = self.serving.gateway.backends
        seen = self.serving.factory.limits.context.routes.only.seen
        for _ in range(2):
            seen(near, 0, 0.0, "refused")
        self.assertFalse(near.up)
        self.swap(FLEET.replace(", weight: 0", ", weight: 3"))
        self.assertIs(self.serving.gateway.backends[0], near)
        self.assertEqual((near.up, far.up, far.weight), (False, True, 3))

    def test_retries_and_queue(self) -> None:
        """What the file says of retries and of the queue holds from the start, and after a swap."""
        factory = self.serving.proxy.factory
        pool = factory.limits.context.routes.only.pool
        self.assertEqual(pool.retries.attempts, 3)
        self.swap(FLEET + "retries: {attempts: 1}\nqueue: {size: 0}\n")
        self.assertEqual(pool.retries.attempts, 1)
        waiting: Any = object()
        self.assertFalse(pool.queue.join(waiting, b"user", 1))

    def test_pricing(self) -> None:
        """What the file says of costs holds from the start, and after a swap."""
        priced = FLEET + 'pricing: "tests.test_process:Three"\n'
        request: Any = object()
        shared = serving_of(priced).proxy.factory.limits.context
        self.assertEqual(shared.routes.only.pricing.cost(request), 3)
        shared = self.serving.proxy.factory.limits.context
        self.assertFalse(shared.routes.only.pricing.asks)
        self.swap(priced)
        self.assertEqual(shared.routes.only.pricing.cost(request), 3)
        self.swap(FLEET)
        self.assertFalse(shared.routes.only.pricing.asks)
