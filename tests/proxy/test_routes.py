"""What a route does with its requests, other than sending them to a pool."""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.reading import Response
from tests.proxy.scripted import KEY, REFUSED, OrderedServices, ScriptedServer
from tests.proxy.world import CLIENT, Client, World, request, response
from twisted_lb.backend import Backend
from twisted_lb.config.pool import Retries
from twisted_lb.credentials import digest
from twisted_lb.interfaces import ADDRESS, Taken
from twisted_lb.limits.client_networks import KnownKeys, network_of
from twisted_lb.limits.pricing import NO_PRICING, Pricing
from twisted_lb.pool.pool import Pool
from twisted_lb.proxy.route import OPTIONAL, Route, Split

NETWORK = network_of(CLIENT.host)
NO_TOKENS = Taken(False, b"", 20, 2.0, 0, ADDRESS)


def without_key(method: str = "GET", target: str = "/", *fields: bytes, body: bytes | None = None) -> bytes:
    return request(method, target, *fields, body=body).replace(b"\r\nAuthorization: " + KEY, b"")


class RouteCase(SynchronousTestCase):
    def start(self, *routes: str, servers: int = 1, **more: object) -> World:
        self.world = World(servers, known_keys=KnownKeys(10), **more)  # type: ignore[arg-type]
        self.world.use_routes(*routes)
        return self.world

    def answered(self, data: bytes, method: str = "GET", client: Client | None = None) -> Response:
        """The response that is there at once."""
        client = client or self.world.client()
        client.send(data)
        return client.response(method)

    def served(self, data: bytes) -> tuple[bytes, Response]:
        """What the server gets, and the response."""
        client, upstream = self.world.asked(data)
        received = upstream.read()
        upstream.send(response(b"hello"))
        return received, client.response()


class KeyTests(RouteCase):
    def test_required(self) -> None:
        """By default a request needs a key."""
        self.start("pool: p")
        self.assertEqual(self.answered(without_key()).status, 401)

    def test_optional_without(self) -> None:
        """Without a key a request goes to a server, and costs its network what the route costs."""
        for route, cost in (("pool: p, key: optional", 1), ("pool: p, key: optional, cost: 5", 5)):
            world = self.start(route)
            received, answer = self.served(without_key())
            self.assertTrue(received.startswith(b"GET / HTTP/1.1\r\nHost: api.example\r\nX-Forwarded-For: "), received)
            self.assertNotIn(b"X-Consumer", received)
            self.assertEqual((answer.status, answer.body), (200, b"hello"))
            self.assertEqual(answer.field("ratelimit-policy"), '"address";q=20;w=10')
            self.assertEqual((world.buckets.asked, world.buckets.addresses), ([], [NETWORK]))
            self.assertEqual((world.buckets.of_addresses, world.buckets.returned), ([(cost, True)], []))

    def test_optional_with(self) -> None:
        """With a key it is as where a key is required, and a wrong key is refused."""
        world = self.start("pool: p, key: optional")
        received, answer = self.served(request())
        self.assertIn(b"\r\nX-Consumer-Username: user1\r\n", received)
        self.assertEqual((answer.status, world.buckets.addresses), (200, []))
        self.assertEqual(self.answered(request().replace(KEY, KEY[::-1])).status, 401)
        world.buckets.answer = REFUSED
        self.assertEqual(self.answered(request()).status, 429)

    def test_none(self) -> None:
        """Where no key is wanted none is looked at, servers do not get it, and the network pays."""
        world = self.start("pool: p, key: none")
        for data in (request(), without_key(), request("GET", "/", b"X-API-Key: " + KEY)):
            received, answer = self.served(data)
            self.assertNotIn(KEY, received)
            self.assertEqual(answer.status, 200)
        self.assertEqual((world.buckets.asked, world.buckets.addresses), ([], [NETWORK] * 3))

    def test_network_without_tokens(self) -> None:
        """A network whose bucket is empty is refused, whatever the client prefers."""
        for key in ("optional", "none"):
            world = self.start(f"pool: p, key: {key}", max_wait=10.0)
            world.buckets.of_address = NO_TOKENS
            answer = self.answered(without_key("GET", "/", b"Prefer: wait=5"))
            self.assertEqual((answer.status, answer.members["violated-policies"]), (429, ["address"]))
            self.assertEqual(world.dialled, [])

    def test_networks_without_limit(self) -> None:
        """Where networks have no bucket nothing is told of one."""
        world = self.start("pool: p, key: none")
        world.buckets.of_address = Taken(True, b"", 0, 0.0, 0, ADDRESS)
        _, answer = self.served(without_key())
        self.assertEqual([name for name in answer.fields if "ratelimit" in name], [])

    def test_refund(self) -> None:
        """When there is no server the network gets its token back."""
        world = self.start("pool: p, key: optional")
        world.backends[0].up = False
        world.pool.refresh()
        self.assertEqual(self.answered(without_key()).status, 503)
        self.assertEqual(world.buckets.returned, [NETWORK])

    def test_client_that_leaves(self) -> None:
        """What a client without a key aborts is not refunded."""
        world = self.start("pool: p, key: optional", counts_in_flight=True)
        client, _ = world.asked(without_key())
        client.leave()
        self.assertEqual((world.buckets.returned, world.in_flight), ([], [0]))

    def test_queue(self) -> None:
        """Requests without a key wait for a server as others do."""
        world = self.start("pool: p, key: optional", maxconn=1)
        first, upstream = world.asked(without_key())
        second = world.client()
        second.send(without_key())
        upstream.send(response(b"1"))
        self.assertEqual(first.response().body, b"1")
        world.wait(1)
        self.assertEqual(sum(one.received.count(b"GET / HTTP") for one in world.server.connections), 2)


class TermsTests(RouteCase):
    def test_cost(self) -> None:
        """A route has a price."""
        world = self.start("pool: p, path: /x/, cost: 3", "pool: p, path: /free, cost: 0", "pool: p")
        for target in ("/x/1", "/free", "/"):
            self.served(request("GET", target))
        self.assertEqual(world.buckets.costs, [3, 0, 1])

    def test_timeout(self) -> None:
        """A route has a time for its responses, which another route on the same connection does not get."""
        world = self.start("pool: p, path: /slow, timeout: 50s", "pool: p", upstream_timeout=10.0)
        client, upstream = world.asked(request("GET", "/slow"))
        world.wait(45)
        upstream.send(response(b"late"))
        self.assertEqual(client.response().body, b"late")
        client.send(request("GET", "/"))
        world.wait(11)
        self.assertEqual(client.response().status, 504)

    def test_attempts(self) -> None:
        """A route has a number of attempts, below and above that of its pool."""
        for attempts, of_pool in ((1, 3), (3, 1)):
            world = self.start(f"pool: p, retries: {{attempts: {attempts}}}", servers=3, retries=Retries(of_pool))
            client = world.client()
            client.send(request())
            for server in world.servers[:attempts]:
                server.last.finish()
            self.assertEqual(client.response().status, 502, attempts)
            self.assertEqual(sum(len(server.connections) for server in world.servers), attempts)

    def test_max_body(self) -> None:
        """A route has a limit for bodies, below and above that of the settings, also for chunks."""
        routes = ("pool: p, path: /small, max_body: 10", "pool: p, path: /large, max_body: 1k")
        world = self.start(*routes, max_body_bytes=100)
        chunked = (b"Transfer-Encoding: chunked",)
        cases = (("/small", 11, 413), ("/small", 10, 200), ("/large", 1024, 200), ("/large", 1025, 413))
        for target, size, status in cases:
            for fields, body in (((), b"x" * size), (chunked, b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size))):
                data = request("POST", target, *fields, body=None if fields else body) + (body if fields else b"")
                client = world.client()
                client.send(data)
                if status == 200:
                    world.server.last.send(response())
                self.assertEqual(client.response().status, status, (target, size))

    def test_no_max_body(self) -> None:
        """0 is any size."""
        world = self.start("pool: p, max_body: 0", max_body_bytes=10)
        client, upstream = world.asked(request("POST", "/", body=b"x" * 1000))
        upstream.send(response())
        self.assertEqual(client.response().status, 200)

    def test_strip_prefix(self) -> None:
        """Servers get the path without the prefix, and all other bytes as they were."""
        self.start("pool: p, path: /v1/, strip_prefix: /v1", "pool: p, path: /a/b/c, strip_prefix: /a/b")
        for target, expected in (
            ("/v1/x", "/x"),
            ("/v1", "/"),
            ("/v1/", "/"),
            ("/v1?a=/v1/", "/?a=/v1/"),
            ("/v1/v1/x", "/v1/x"),
            ("/v1/x%2Fy%20/?q=%41", "/x%2Fy%20/?q=%41"),
            ("/%76%31/%78", "/%78"),
            ("/a/b/c", "/c"),
            # What is left must not be another host, nor another path.
            ("/v1//evil.test/x", "/evil.test/x"),
            ("//v1/x", "/x"),
            ("/x/../v1/y/../z", "/z"),
            ("/v1/x/%2e%2e/y", "/y"),
        ):
            received, _ = self.served(request("GET", target))
            self.assertEqual(received.split(b" ")[1], expected.encode(), target)

    def test_prefix_of_a_second_attempt(self) -> None:
        """The prefix is removed once."""
        world = self.start("pool: p, path: /v1/, strip_prefix: /v1", servers=2)
        client = world.client()
        client.send(request("GET", "/v1/v1/x"))
        world.servers[0].last.finish()
        self.assertTrue(world.servers[1].last.received.startswith(b"GET /v1/x "))


class RefusedTests(RouteCase):
    def test_no_route(self) -> None:
        """Without a route a request is 404, costs nothing, and the connection goes on."""
        world = self.start("pool: p, path: /x/")
        client = world.client()
        for data in (request("GET", "/y"), request("POST", "/y", body=b"content"), request("GET", "/xy")):
            answer = self.answered(data, client=client)
            self.assertEqual((answer.status, answer.closes), (404, False))
        self.assertEqual((world.buckets.asked, world.dialled), ([], []))
        client.send(request("GET", "/x/"))
        self.assertTrue(world.server.last.received)

    def test_ambiguous_path(self) -> None:
        """A path that some servers read as another one is refused where routes are told apart."""
        self.start("pool: p, path: /public/, key: none", "pool: p")
        dots = ("/public/..%2Fadmin", "/public%2f..%2fadmin", "/public/%2e%2e%5cadmin")
        others = ("/public/..;/admin", "/x//../public/y", "/public%2Fx", "/public;a/x", "/%", "/public/%00")
        for target in (*dots, *others):
            self.assertEqual(self.answered(request("GET", target)).status, 400, target)
        self.start("pool: p")
        received, _ = self.served(request("GET", "/public/..%2Fadmin"))
        self.assertTrue(received.startswith(b"GET /public/..%2Fadmin "))

    def test_access(self) -> None:
        """Addresses that a route denies, or does not allow, are 403; what is denied is denied though it is allowed."""
        for rules, status in (
            ("allow: 192.0.2.0/24", 200),
            ("allow: [198.51.100.0/24, 192.0.2.7]", 200),
            ("allow: 198.51.100.0/24", 403),
            ("deny: 192.0.2.7", 403),
            ("deny: 192.0.2.8", 200),
            ("allow: 192.0.2.0/24, deny: 192.0.2.7/32", 403),
        ):
            world = self.start(f"pool: p, {rules}")
            client = world.client()
            client.send(request())
            if status == 200:
                world.server.last.send(response())
            else:
                self.assertEqual((world.buckets.asked, world.dialled), ([], []))
            self.assertEqual(client.response().status, status, rules)

    def test_access_behind_a_proxy(self) -> None:
        """The address is the one that a trusted proxy names."""
        self.start("pool: p, deny: 203.0.113.9", trusted_proxies=("192.0.2.0/24",))
        self.assertEqual(self.answered(request("GET", "/", b"X-Forwarded-For: 203.0.113.9")).status, 403)
        _, answer = self.served(request("GET", "/", b"X-Forwarded-For: 203.0.113.10"))
        self.assertEqual(answer.status, 200)

    def test_maintenance(self) -> None:
        """In maintenance all requests are 503 with a Retry-After, and cost nothing."""
        for rule, seconds in (("true", "60"), ("5m", "300"), ("1.5", "2")):
            world = self.start(f"pool: p, path: /x/, maintenance: {rule}", "pool: p, maintenance: false")
            for data in (request("GET", "/x/"), without_key("GET", "/x/")):
                answer = self.answered(data)
                self.assertEqual((answer.status, answer.field("retry-after")), (503, seconds))
            self.assertEqual((world.buckets.asked, world.buckets.addresses), ([], []))
            self.assertEqual(self.served(request())[1].status, 200)

    def test_maintenance_of_a_pool(self) -> None:
        """All routes to a pool that is in maintenance are."""
        world = self.start("pool: p")
        world.server_pool.maintenance = 30.0
        self.assertEqual(self.answered(request()).field("retry-after"), "30")

    def test_too_many_refusals(self) -> None:
        """Requests without a route count as refusals of their connection."""
        world = self.start("pool: p, path: /x/", max_refusals=3)
        client = world.client()
        client.send(*[request("GET", "/y")] * 3)
        world.settle()
        self.assertEqual([answer.closes for answer in client.responses()], [False, False, True])


class AnswerTests(RouteCase):
    def test_respond(self) -> None:
        """A fixed response has its content and its type, and the connection goes on."""
        world = self.start("path: /health, respond: {body: ok}, key: none", "pool: p")
        client = world.client()
        for data, method in ((without_key("GET", "/health?x"), "GET"), (without_key("HEAD", "/health"), "HEAD")):
            answer = self.answered(data, method, client)
            self.assertEqual((answer.status, answer.closes), (200, False))
            self.assertEqual(answer.body, b"ok" if method == "GET" else b"")
            self.assertEqual(answer.field("content-length"), "2")
            self.assertEqual(answer.field("content-type"), "text/plain; charset=utf-8")
            self.assertTrue(answer.field("date"))
        self.assertEqual((world.dialled, world.buckets.addresses), ([], [NETWORK] * 2))

    def test_other_responses(self) -> None:
        """Any status, any type, and no content."""
        for rule, status, kind, length in (
            ("{status: 204}", 204, None, None),
            ("{status: 404}", 404, None, "0"),
            ("{status: 299, body: x}", 299, "text/plain; charset=utf-8", "1"),
            ("{body: '{}', content_type: application/json}", 200, "application/json", "2"),
            ("{body: \u00e4}", 200, "text/plain; charset=utf-8", "2"),
        ):
            self.start(f"respond: {rule}, key: none")
            answer = self.answered(without_key())
            found = (answer.status, answer.field("content-type"), answer.field("content-length"))
            self.assertEqual(found, (status, kind, length), rule)

    def test_with_a_key(self) -> None:
        """A route that answers itself needs a key as any other, and costs what others cost."""
        world = self.start("respond: {body: ok}, cost: 2", counts_in_flight=True)
        self.assertEqual(self.answered(without_key()).status, 401)
        answer = self.answered(request())
        self.assertEqual((answer.status, answer.field("x-ratelimit-remaining")), (200, "4"))
        self.assertEqual((world.buckets.costs, world.buckets.unreleased), ([2], 0))
        world.buckets.answer = REFUSED
        self.assertEqual(self.answered(request()).status, 429)

    def test_upload(self) -> None:
        """The response does not wait for content; after an unfinished one the connection ends."""
        self.start("respond: {body: ok}, key: none")
        answer = self.answered(without_key("POST", "/", body=b"content"))
        self.assertEqual((answer.body, answer.closes), (b"ok", False))
        answer = self.answered(without_key("POST", "/", body=b"x" * 100)[:-50])
        self.assertEqual((answer.body, answer.closes), (b"ok", True))

    def test_redirect(self) -> None:
        """A location is made of the request; the query goes with it unless the rule has one."""
        for to, host, target, expected in (
            ("https://example.com{path}", "a.test", "/old/x?y=1", "https://example.com/old/x?y=1"),
            ("https://example.com/new", "a.test", "/old?y=1", "https://example.com/new?y=1"),
            ("https://example.com/new?z", "a.test", "/old?y=1", "https://example.com/new?z"),
            ("https://example.com/{query}", "a.test", "/old?y=1", "https://example.com/?y=1"),
            ("https://www.{host}{path}", "A.test:8080", "/x", "https://www.a.test/x"),
            ("/new{path}", "a.test", "/x%20y//z", "/new/x%20y//z"),
            ("/new{path}", "a.test", "//evil.test/", "/new//evil.test/"),
        ):
            self.start(f"redirect: {{to: '{to}'}}, key: none")
            answer = self.answered(without_key("GET", target).replace(b"api.example", host.encode()))
            self.assertEqual((answer.status, answer.field("location")), (308, expected), to)
            self.assertEqual(answer.field("content-length"), "0")

    def test_redirect_of_the_whole_server(self) -> None:
        """`*` is no path."""
        self.start("redirect: {to: 'https://example.com{path}', status: 302}, key: none")
        answer = self.answered(without_key("OPTIONS", "*"))
        self.assertEqual((answer.status, answer.field("location")), (302, "https://example.com/"))

    def test_redirect_without_a_host(self) -> None:
        """A host that no URL can have is refused."""
        world = self.start("redirect: {to: 'https://{host}/'}")
        answer = self.answered(request().replace(b"api.example", b"a,b"))
        self.assertEqual(answer.status, 400)
        self.assertEqual(len(world.buckets.refunded), 1)

    def test_client_that_leaves(self) -> None:
        """A client may leave while its tokens are asked for."""
        world = self.start("respond: {body: ok}", counts_in_flight=True)
        world.buckets.later = True
        client = world.client()
        client.send(request())
        client.leave()
        world.buckets.answer_now()
        self.assertEqual(world.buckets.unreleased, 0)

    def test_wait(self) -> None:
        """A request may wait for its tokens."""
        world = self.start("respond: {body: ok}", max_wait=10.0, rate_per_sec=1.0)
        client = world.client()
        client.send(request("GET", "/", b"Prefer: wait=5"))
        self.assertEqual(client.read(), b"")
        world.wait(1.5)
        self.assertEqual(client.response().body, b"ok")


class SplitTests(RouteCase):
    def split(self, *weights: int, by_network: bool = False) -> tuple[list[Route], Split]:
        pool = World().server_pool
        routes = [Route(pool, NO_PRICING, f"r{number}") for number in range(len(weights))]
        return routes, Split(list(zip(routes, weights)), by_network)

    def test_shares(self) -> None:
        """Each pool has its share of many clients, within what chance allows; a weight of 0 has none."""
        for weights in ((5, 95), (1, 1, 2), (0, 3, 0), (1000000, 1)):
            routes, split = self.split(*weights)
            found = Counter(split.route_of(f"client{number}") for number in range(10_000))
            for route, weight in zip(routes, weights):
                share = weight / sum(weights)
                self.assertLessEqual(abs(found[route] - 10_000 * share), 5 * (10_000 * share * (1 - share)) ** 0.5 + 1)

    def test_stable(self) -> None:
        """A client has its pool at any time and in any process, and keeps the first one when its share grows."""
        clients = [f"client{number}" for number in range(1000)]
        before, small = self.split(5, 95)
        after, large = self.split(30, 70)
        others, again = self.split(5, 95)
        for one in clients:
            self.assertEqual(small.route_of(one) is before[0], again.route_of(one) is others[0])
            if small.route_of(one) is before[0]:
                self.assertIs(large.route_of(one), after[0])

    def test_requests(self) -> None:
        """A request goes to the pool of its key, or, where that is asked for or there is no key, of its network."""
        for by_network, data, client in (
            (False, request(), digest(KEY)),
            (True, request(), NETWORK),
            (False, without_key(), NETWORK),
        ):
            world, split, second = self.halves((1, 1), by_network)
            world.client().send(data)
            reached = world.servers[-1] if split.route_of(client) is second else world.server
            self.assertEqual([one for one in world.servers if one.connections], [reached])

    def halves(self, weights: tuple[int, int], by_network: bool = False) -> tuple[World, Split, Route]:
        """A route to two pools, of which the second has the last server, and what leads to that one."""
        world = self.start("pool: p")
        backend = Backend("other", "127.0.0.1", 9100)
        world.servers.append(ScriptedServer(backend, world.clock))
        other = world.factory.add_pool(Pool(OrderedServices(), [backend]), name="other")
        first = Route(world.server_pool, NO_PRICING, key=OPTIONAL)
        second = Route(other, NO_PRICING, key=OPTIONAL)
        split = Split(list(zip((first, second), weights)), by_network)
        first.divide(split)
        world.use(first)
        return world, split, second

    def test_price(self) -> None:
        """A request costs what the pool says that it goes to, with a key and without."""
        for weights, cost in (((1, 0), 3), ((0, 1), 7)):
            world, _, second = self.halves(weights)
            world.route.pricing, second.pricing = Pricing(default_cost=3), Pricing(default_cost=7)
            for data in (request(), without_key()):
                world.client().send(data)
            self.assertEqual((world.buckets.costs, world.buckets.of_addresses), ([cost], [(cost, True)]))

    def test_maintenance_of_a_pool(self) -> None:
        """Only the share of the pool that is in maintenance is 503, and costs nothing; also of preflights."""
        preflight = request("OPTIONS", "/", b"Origin: https://a.test", b"Access-Control-Request-Method: GET")
        for resting, reached in ((0, 1), (1, 1), (0, 0), (1, 0)):
            weights, served = (1 - reached, reached), resting != reached
            for data in (request(), without_key(), preflight):
                world, split, second = self.halves(weights)
                (second.pool if resting else world.server_pool).maintenance = 30.0
                client = world.client()
                client.send(data)
                world.settle()
                self.assertEqual(any(one.connections for one in world.servers), served, (resting, weights, data))
                if not served:
                    answer = client.response()
                    self.assertEqual((answer.status, answer.field("retry-after")), (503, "30"))
                    refunded = len(world.buckets.refunded) + len(world.buckets.returned)
                    self.assertEqual(refunded, len(world.buckets.asked) + len(world.buckets.addresses))
