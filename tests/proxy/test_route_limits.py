"""Limits of routes and pools: what a request takes from them, and what its client gets."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.reading import Response
from tests.proxy.scripted import KEY
from tests.proxy.test_routes import without_key
from tests.proxy.transports import Address
from tests.proxy.world import CLIENT, Client, World, request, response
from tests.stores.contract import new_path
from twisted_lb.credentials import digest
from twisted_lb.interfaces import MICROTOKENS, Account, Limits, Policy
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.proxy.token_grant import TokenGrant
from twisted_lb.request_record import RequestRecord
from twisted_lb.stores.sqlite.store import EmbeddedStore
from twisted_lb.users import Shadow, UserChange

OTHER_KEY = KEY[::-1]
ONE = "{name: one, per: route, capacity: 3, rate_per_sec: 0}"


class LimitsCase(SynchronousTestCase):
    """The proxy with a store that has two keys, each with many tokens."""

    limits = Limits(address=Policy(4, 0.0))

    def setUp(self) -> None:
        self.store = EmbeddedStore(new_path(self), lambda: self.now_us(), Clock(), maybeDeferred, self.limits)
        self.store.start()
        self.addCleanup(lambda: self.successResultOf(self.store.stop()))
        self.world = World(
            buckets=self.store,
            known_keys=KnownKeys(10) if self.limits.address.capacity else None,
            max_wait=60.0,
            max_waiting=100,
        )
        for key, name in ((KEY, "user1"), (OTHER_KEY, "user2")):
            self.successResultOf(self.store.create(digest(key), Account(name, 100, 0.0)))
        self.records: list[RequestRecord] = []
        self.world.factory.subscribe(self.records.append)

    def now_us(self) -> int:
        return 10**15 + round(self.world.clock.seconds() * 1_000_000) if hasattr(self, "world") else 10**15

    def use(self, *routes: str, pool: str = "", top: str = "") -> None:
        self.world.use_routes(*routes, pool=pool, top=top)

    def send(self, data: bytes = b"", answer: bytes = response(), address: Address = CLIENT) -> Response:
        """The response to a request, which the server answers if it gets it."""
        client = self.world.client(address)
        client.send(data or request())
        for side in self.world.server.connections:
            if side.read():
                side.send(answer)
        return client.response()

    def statuses(self, *requests: bytes) -> list[int]:
        return [self.send(data).status for data in requests]

    def level(self, key: bytes = KEY) -> float:
        profile: Any = self.successResultOf(self.store.profile(digest(key)))
        return float(profile.level / MICROTOKENS)


OTHER = request().replace(KEY, OTHER_KEY)


class BucketsTests(LimitsCase):
    def test_per_route(self) -> None:
        """All requests of a route share a bucket of it, with a key and without, and those of other routes do not."""
        self.use(f"path: /a, pool: p, key: optional, limits: [{ONE}]", "pool: p")
        a = request("GET", "/a")
        self.assertEqual(self.statuses(a, a.replace(KEY, OTHER_KEY), without_key("GET", "/a"), a), [200] * 3 + [429])
        self.assertEqual(self.statuses(request(), OTHER), [200, 200])
        self.assertEqual((self.level(), self.level(OTHER_KEY)), (98, 98))

    def test_per_key(self) -> None:
        """Each key has a bucket, and the networks of requests without a key have each one, too."""
        self.use("pool: p, key: optional, limits: [{name: k, per: key, capacity: 1, rate_per_sec: 0}]")
        self.assertEqual(self.statuses(request(), request(), OTHER, OTHER), [200, 429, 200, 429])
        self.assertEqual(self.statuses(without_key(), without_key()), [200, 429])
        elsewhere = IPv4Address("TCP", "192.0.2.8", 5)
        self.assertEqual(self.send(without_key(), address=elsewhere).status, 200)

    def test_per_network(self) -> None:
        """Each network has a bucket for all its keys; IPv6 clients of one /64 share it."""
        self.use("pool: p, key: optional, limits: [{name: n, per: network, capacity: 1, rate_per_sec: 0}]")
        self.assertEqual(self.statuses(request(), OTHER, without_key()), [200, 429, 429])
        clients = [IPv6Address("TCP", host, 5) for host in ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1")]
        self.assertEqual([self.send(address=client).status for client in clients], [200, 429, 200])

    def test_per_pool(self) -> None:
        """The routes of a pool share its bucket; a request takes of the route's and the pool's, or of neither."""
        pool = "limits: [{name: shared, per: pool, capacity: 3, rate_per_sec: 0}]"
        self.use(
            "path: /a, pool: p, cost: 2, limits: [{name: one, per: route, capacity: 9, rate_per_sec: 0}]",
            "pool: p",
            pool=pool,
        )
        a = request("GET", "/a")
        self.assertEqual(self.statuses(a, a, request(), a, request()), [200, 429, 200, 429, 429])
        self.assertEqual(self.level(), 97)
        refused = self.send(a)
        self.assertEqual(refused.members["violated-policies"], ["shared"])
        self.use("path: /a, pool: p, limits: [{name: one, per: route, capacity: 9, rate_per_sec: 0}]")
        self.assertEqual(self.send(a).field("ratelimit"), '"default";r=96, "one";r=6')

    def test_answering_routes(self) -> None:
        """A route that answers itself has limits as well."""
        self.use(f"respond: {{body: ok}}, key: none, limits: [{ONE}]")
        self.assertEqual(self.statuses(*[without_key()] * 4), [200] * 3 + [429])

    def test_another_policy(self) -> None:
        """After a reload the level is what it was, or the smaller capacity; a limit that comes back goes on, too."""
        limits = "pool: p, limits: [{{name: one, per: route, capacity: {}, rate_per_sec: 0}}]"
        self.use(limits.format(10))
        self.statuses(*[request()] * 4)
        for capacity, left in ((20, 5), (3, 2), (50, 1)):
            self.use("pool: p")
            self.send()
            self.use(limits.format(capacity))
            self.assertEqual(self.send().field("ratelimit"), f'"default";r={self.level():.0f}, "one";r={left}')

    def test_a_request_that_began_before(self) -> None:
        """What a request under way gets back counts under the policy that is in use by then."""
        limits = "pool: p, limits: [{{name: one, per: route, capacity: {}, rate_per_sec: 0}}]"
        self.use(limits.format(2))
        client, upstream = self.world.asked(request())
        self.use(limits.format(10))
        upstream.send(response(b"", b"X-Token-Cost: 0"))
        self.assertEqual(client.response().field("ratelimit"), '"default";r=100, "one";r=2')
        self.assertEqual(self.send().field("ratelimit"), '"default";r=99, "one";r=1')


class ChargesTests(LimitsCase):
    """What a request costs in the end, each of its buckets pays."""

    def setUp(self) -> None:
        super().setUp()
        self.use(
            "pool: p, key: optional, cost: 2, limits: [{name: one, per: route, capacity: 20, rate_per_sec: 0}]",
        )

    def left(self, data: bytes = b"") -> int:
        """The tokens of the limit, without those of this request."""
        fields = self.send(data or request("GET", "/"), response(b"", b"X-Token-Cost: 0")).field("ratelimit")
        return int(fields.partition('"one";r=')[2])

    def test_reported_costs(self) -> None:
        """What a server reports is charged to all buckets, and told with the same response."""
        answer = self.send(answer=response(b"", b"X-Token-Cost: 7"))
        self.assertEqual(answer.field("ratelimit"), '"default";r=93, "one";r=13')
        self.assertEqual(answer.field("x-ratelimit-remaining"), "13")
        self.assertEqual((self.left(), self.level()), (13, 93))
        answer = self.send(without_key(), response(b"", b"X-Token-Cost: 5"))
        self.assertEqual(answer.field("ratelimit"), '"one";r=8')
        self.assertEqual((self.left(), self.level()), (8, 93))

    def test_refunds(self) -> None:
        """A request without an answer gets its tokens back from all buckets."""
        self.world.backends[0].up = False
        self.world.pool.refresh()
        for data, told in ((request(), '"default";r=100, "one";r=20'), (without_key(), '"one";r=20')):
            answer = self.send(data)
            self.assertEqual((answer.status, answer.field("ratelimit")), (503, told))
        self.world.backends[0].up = True
        self.world.pool.refresh()
        self.assertEqual((self.left(), self.level()), (20, 100))

    def test_clients_that_leave(self) -> None:
        """What a client aborts is not refunded."""
        for data in (request(), without_key()):
            client, _ = self.world.asked(data)
            client.leave()
        self.assertEqual((self.left(), self.level()), (16, 98))

    def test_records(self) -> None:
        """A record has the user's level, and the name of a limit that refused."""
        self.send()
        self.assertEqual((self.records[-1].cost, self.records[-1].level), (2, 98 * MICROTOKENS))
        for _ in range(10):
            self.send()
        self.assertEqual((self.records[-1].limit, self.records[-1].reason), ("one", "limited"))
        self.assertEqual(self.world.factory.counts()["refused one"], 1)


class RefusalTests(LimitsCase):
    def test_refusal(self) -> None:
        """A refusal describes the limit that refused, says when the tokens are there, and goes to no server."""
        self.use("pool: p, cost: 2, limits: [{name: one, per: route, capacity: 3, rate_per_sec: 0.4}]")
        self.send()
        answer = self.send()
        self.assertEqual(answer.status, 429)
        self.assertEqual(answer.members["violated-policies"], ["one"])
        detail = "The bucket of 3 tokens of the limit one has 1, and this request costs 2. They are available in 3 s."
        self.assertEqual(answer.members["detail"], detail)
        self.assertEqual(answer.field("retry-after"), "3")
        self.assertEqual(answer.field("ratelimit-policy"), '"one";q=3;w=8')
        self.assertEqual(answer.field("ratelimit"), '"one";r=1;t=3')
        self.assertEqual(answer.field("x-ratelimit-limit"), "3")
        self.world.clock.advance(2.4)
        self.assertEqual(self.send().status, 429)
        self.world.clock.advance(0.1)
        self.assertEqual(self.send().status, 200)

    def test_admitted(self) -> None:
        """A response describes all limits, and X-RateLimit the one with the fewest tokens."""
        self.use(
            "pool: p, limits: [{name: a, per: route, capacity: 300, rate_per_sec: 1}, "
            "{name: b, per: key, capacity: 9, rate_per_sec: 3}]"
        )
        answer = self.send()
        self.assertEqual(answer.field("ratelimit-policy"), '"default";q=100, "a";q=300;w=300, "b";q=9;w=3')
        self.assertEqual(answer.field("ratelimit"), '"default";r=99, "a";r=299;t=1, "b";r=8;t=1')
        limit, left, reset = (answer.field(f"x-ratelimit-{name}") for name in ("limit", "remaining", "reset"))
        self.assertEqual((limit, left, reset), ("9", "8", "1"))

    def test_too_expensive(self) -> None:
        """What the bucket never holds has no Retry-After."""
        self.use(f"pool: p, cost: 4, limits: [{ONE}]")
        answer = self.send()
        self.assertNotIn("retry-after", answer.fields)
        self.assertTrue(answer.members["detail"].endswith("costs 4. It never holds that many."))


class WithoutKeyTests(LimitsCase):
    """Routes that serve requests without a key."""

    def test_the_network_pays_the_cost(self) -> None:
        """Without limits of the route its cost is taken of the network, and settled there."""
        self.use("pool: p, key: none, cost: 2")
        answer = self.send(answer=response(b"", b"X-Token-Cost: 1"))
        self.assertEqual(answer.field("ratelimit"), '"address";r=3')
        self.send()
        answer = self.send()
        detail = "The bucket of 4 tokens for requests without an API key from your network has 1, and this request"
        self.assertEqual(answer.members["detail"], f"{detail} costs 2. It is not refilled.")
        self.assertEqual(answer.members["violated-policies"], ["address"])

    def test_with_limits_the_network_does_not_pay(self) -> None:
        """Where the route or the pool has limits, these alone are asked."""
        network = "{name: n, per: network, capacity: 6, rate_per_sec: 0}"
        self.use(f"pool: p, key: none, limits: [{network}]")
        self.assertEqual(self.statuses(*[request()] * 7), [200] * 6 + [429])
        self.use("pool: p, key: optional", pool=f"limits: [{network}]")
        self.assertEqual(self.statuses(*[without_key()] * 7), [200] * 6 + [429])
        self.use("pool: p, key: none")
        self.assertEqual(self.statuses(*[request()] * 5), [200] * 4 + [429])

    def test_a_wrong_key_is_not_paid_by_the_route(self) -> None:
        """Who guesses keys takes tokens of the network, and none of the route."""
        self.use(f"pool: p, key: optional, limits: [{ONE}]")
        wrong = request().replace(KEY, b"11111111-2222-4333-8444-555555555555")
        self.assertEqual(self.statuses(*[wrong] * 5), [401] * 4 + [429])
        self.assertEqual(self.statuses(*[without_key()] * 4), [200] * 3 + [429])

    def test_no_waiting(self) -> None:
        """A request without a key does not wait for tokens, whatever its client prefers."""
        self.use("pool: p, key: none, limits: [{name: n, per: network, capacity: 1, rate_per_sec: 1}]")
        self.assertEqual(self.statuses(*[without_key("GET", "/", b"Prefer: wait=9")] * 2), [200, 429])


class WaitingTests(LimitsCase):
    """Prefer: wait."""

    def waiting(self, target: str) -> Client:
        client = self.world.client()
        client.send(request("GET", target, b"Prefer: wait=30"))
        return client

    def test_for_a_limit_of_the_route(self) -> None:
        """A request waits for the tokens of the route's limit; the key's requests to other routes go on meanwhile."""
        self.use("path: /a, pool: p, limits: [{name: one, per: route, capacity: 1, rate_per_sec: 0.5}]", "pool: p")
        self.send(request("GET", "/a"))
        clients = [self.waiting("/a"), self.waiting("/a")]
        self.assertEqual(self.statuses(request(), request("GET", "/a")), [200, 429])
        self.world.clock.pump([0.1] * 45)
        for side in self.world.server.connections:
            if side.read():
                side.send(response())
        self.assertEqual([client.response().status for client in clients], [200, 200])
        self.assertEqual(self.level(), 96)


class GlobalLimitsTests(LimitsCase):
    """`global_limits`."""

    def test_all_routes_share_them(self) -> None:
        """A limit for all concerns the requests of each route to a pool, and none that a route answers itself."""
        top = "global_limits: [{name: everything, per: all, capacity: 2, rate_per_sec: 0}]"
        self.use("path: /a, pool: p", "path: /b, respond: {body: ok}", "pool: p", top=top)
        a, b = request("GET", "/a"), request("GET", "/b")
        self.assertEqual(self.statuses(a, b, request(), a, request(), b), [200, 200, 200, 429, 429, 200])
        self.assertEqual(self.send().members["violated-policies"], ["everything"])

    def test_per_key_and_network(self) -> None:
        """Each key, or network, has a bucket for all routes together."""
        for per, statuses in (("key", [200, 429, 200, 429]), ("network", [200, 429, 429, 429])):
            top = f"global_limits: [{{name: {per}, per: {per}, capacity: 1, rate_per_sec: 0}}]"
            self.use("path: /a, pool: p", "pool: p", top=top)
            other = OTHER.replace(b" / ", b" /a ")
            self.assertEqual(self.statuses(request("GET", "/a"), request(), OTHER, other), statuses)


class ShadowTests(LimitsCase):
    """Limits that are not enforced yet."""

    def numbers(self) -> dict[str, float]:
        """The numbers of shadows, without the words before them."""
        counts = self.world.factory.counts()
        return {name.removeprefix("shadow_"): count for name, count in counts.items() if name.startswith("shadow_")}

    def test_it_is_counted_and_not_told(self) -> None:
        """A shadow refuses nothing and is in no response, and what it would have refused is counted exactly."""
        plain = [self.send() for _ in range(2)][-1]
        shadow = ONE.replace("}", ", shadow: true}")
        of_all = shadow.replace("route", "key").replace("name: one", "name: all-keys")
        self.use(f"pool: p, limits: [{shadow}]", top=f"global_limits: [{of_all}]")
        answers = [self.send() for _ in range(5)]
        self.assertEqual([answer.status for answer in answers], [200] * 5)
        self.assertEqual(answers[-1].fields.keys(), plain.fields.keys())
        self.assertEqual(answers[-1].field("ratelimit"), '"default";r=93')
        self.send(OTHER)
        self.assertEqual(
            self.numbers(),
            {
                "requests one route /": 6,
                "would_refuse one route /": 3,
                "requests all-keys all": 6,
                "would_refuse all-keys all": 2,
            },
        )

    def test_what_is_refused_is_not_asked(self) -> None:
        """A request that an enforced limit refuses is neither counted nor taken of the shadow."""
        shadow = ONE.replace("}", ", shadow: true}").replace("one", "later")
        self.use(f"pool: p, limits: [{shadow}, {ONE}]")
        self.assertEqual(self.statuses(*[request()] * 5), [200] * 3 + [429] * 2)
        self.assertEqual(self.numbers(), {"requests later route /": 3, "would_refuse later route /": 0})
        self.assertEqual(self.send().field("ratelimit-policy"), '"one";q=3')

    def test_costs_are_settled(self) -> None:
        """What a request costs in the end is settled with a shadow that it has tokens of, and with no other."""
        self.use(f"pool: p, limits: [{ONE.replace('}', ', shadow: true}')}]")
        self.send(answer=response(b"", b"X-Token-Cost: 2"))
        self.send(answer=response(b"", b"X-Token-Cost: 0"))
        self.send(answer=response(b"", b"X-Token-Cost: 3"))
        # It is at -2 now: nothing is taken of it, so nothing comes back.
        for _ in range(3):
            self.send(answer=response(b"", b"X-Token-Cost: 0"))
        self.assertEqual(self.numbers(), {"requests one route /": 6, "would_refuse one route /": 3})
        self.assertEqual(self.level(), 95)

    def test_requests_without_a_key(self) -> None:
        """Where all limits are shadows, the network's bucket pays; both are settled."""
        self.use(f"pool: p, key: none, limits: [{ONE.replace('}', ', shadow: true}')}]")
        costless = response(b"", b"X-Token-Cost: 0")
        for _ in range(3):
            self.send(without_key(), costless)
        self.assertEqual(self.statuses(*[without_key()] * 5), [200] * 4 + [429])
        self.assertEqual(self.numbers(), {"requests one route /": 7, "would_refuse one route /": 1})

    def test_a_user_with_a_shadow_policy(self) -> None:
        """The shadow policy of a user is counted with those of all users, and told to nobody."""
        change = UserChange(shadow=Shadow(2, 0.0))
        self.successResultOf(self.store.change_user("user1", change))
        self.send(answer=response(b"", b"X-Token-Cost: 2"))
        self.assertEqual([self.send().field("ratelimit") for _ in range(2)], ['"default";r=97', '"default";r=96'])
        self.send(OTHER)
        self.assertEqual(self.numbers(), {"requests shadow users": 3, "would_refuse shadow users": 2})

    def test_a_queue_is_that_of_enforced_limits(self) -> None:
        """A key's requests that wait have the same place in the queue, whatever shadows there are."""
        shadow = ONE.replace("}", ", shadow: true}").replace("one", "later")
        keys = []
        for limits in ("", shadow, ONE, f"{shadow}, {ONE}"):
            self.use(f"pool: p, limits: [{limits}]")
            tokens = TokenGrant(self.world.factory.limits.context, self.world.route.pricing)
            tokens.digest = tokens.queue = "key"
            route: Any = self.world.factory.limits.context.routes.only
            if route.limits is not None:
                tokens.use(route, "network")
            keys.append(tokens.queue)
        self.assertEqual(keys, ["key", "key", "key limit:route|/|one", "key limit:route|/|one"])
