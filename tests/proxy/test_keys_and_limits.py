"""Which clients may send requests, and how many: keys, buckets, and the fields and responses about them."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.reading import Response
from tests.proxy.scripted import ADMITTED, KEY, REFUSED, OrderedServices
from tests.proxy.world import World, request, response
from twisted_lb.credentials import digest
from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, MICROTOKENS, Taken
from twisted_lb.key_format import KeyFormat
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.limits.rejection import MISTYPED
from twisted_lb.users import KEY_DISABLED, KEY_EXPIRED, USER_DISABLED


def keyed(*fields: bytes) -> bytes:
    """A request with these fields and no other key."""
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: api.example", *fields, b"", b""])


class KeyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_four_places(self) -> None:
        """A key is found in each of its four places, and reaches the bucket as its digest and the server not at all."""
        for field in (b"Authorization: ", b"Authorization: Bearer ", b"X-API-Key: ", b"apikey: "):
            client = self.world.client()
            client.send(keyed(field + KEY))
            upstream = self.world.server.last
            self.assertEqual(self.world.buckets.asked.pop(), digest(KEY), field)
            forwarded = upstream.read()
            self.assertNotIn(KEY, forwarded)
            self.assertIn(b"\r\nX-Consumer-Username: user1\r\n", forwarded)
            upstream.send(response(b"hello"))
            self.assertEqual(client.response().status, 200)

    def test_no_key(self) -> None:
        """Without a key the answer is 401 with a challenge, no bucket is asked, and the connection goes on."""
        client = self.world.client()
        client.send(keyed())
        answer = client.response()
        self.assertEqual((answer.status, answer.detail), (401, "Send your API key as: Authorization: <key>."))
        self.assertEqual(answer.field("www-authenticate"), 'Bearer realm="twisted_lb"')
        self.assertEqual(self.world.buckets.asked, [])
        client.send(request())
        self.world.server.last.send(response())
        self.assertEqual(client.response().status, 200)

    def test_unknown_key(self) -> None:
        """A key that nobody has is 401 with a challenge, without limits, and no server hears of it."""
        client = self.world.client()
        client.send(keyed(b"Authorization: someone-else"))
        answer = client.response()
        self.assertEqual((answer.status, answer.detail), (401, "No user has this API key."))
        self.assertEqual(answer.field("www-authenticate"), 'Bearer realm="twisted_lb"')
        self.assertIsNone(answer.field("x-ratelimit-limit"))
        self.assertEqual(self.world.dialled, [])

    def test_two_keys(self) -> None:
        """Two keys that differ are 400, and neither bucket is asked."""
        client = self.world.client()
        client.send(keyed(b"Authorization: " + KEY, b"X-API-Key: another"))
        answer = client.response()
        self.assertEqual(answer.status, 400)
        self.assertIn("two different API keys", answer.detail)
        self.assertEqual(self.world.buckets.asked, [])

    def test_other_scheme(self) -> None:
        """Credentials of another scheme beside a key are the server's: they are passed on."""
        client = self.world.client()
        client.send(keyed(b"X-API-Key: " + KEY, b"Authorization: Basic dXNlcjpwYXNz"))
        self.assertIn(b"\r\nAuthorization: Basic dXNlcjpwYXNz\r\n", self.world.server.last.received)
        self.assertNotIn(KEY, self.world.server.last.received)

    def test_clients_own_consumer(self) -> None:
        """A client cannot name itself: its X-Consumer-Username is dropped."""
        client = self.world.client()
        client.send(request("GET", "/", b"X-Consumer-Username: root", b"X_Consumer_Username: root"))
        self.assertNotIn(b"root", self.world.server.last.received)
        self.assertEqual(self.world.server.last.received.lower().count(b"consumer"), 1)

    def test_names_that_look_like_the_consumers(self) -> None:
        """With either setting, no spelling of X-Consumer-Username that servers may know lets a client name itself."""
        for setting in ("drop", "pass"):
            world = World(unusual_field_names=setting)
            client = world.client()
            names = (b"X.Consumer.Username", b"x~consumer-username", b"X-Consumer'Username", b"X_CONSUMER_USERNAME")
            lines = [b"%b: root" % name for name in names]
            head = request("POST", "/", *lines, b"X_Odd: 1", b"Transfer-Encoding: chunked")
            client.send(head + b"\r\n".join([b"0", *lines, b"y_z: 2", b"", b""]))
            forwarded = world.server.last.received
            self.assertNotIn(b"root", forwarded)
            self.assertEqual((b"X_Odd: 1" in forwarded, b"y_z: 2" in forwarded), (setting == "pass",) * 2)
            self.assertTrue(forwarded.endswith(b"\r\n\r\n"))

    def test_plug_ins(self) -> None:
        """A balancer that asks for X-Consumer-Username gets the user's name, not what the client says."""
        self.world.asked(request("GET", "/", b"X-Consumer-Username: root", b"X.Consumer.Username: root"))
        assert isinstance(self.world.balancer, OrderedServices)
        [seen] = self.world.balancer.requests
        self.assertEqual(seen.header(b"X-Consumer-Username"), b"user1")
        self.assertIsNone(seen.header(b"X.Consumer.Username"))


class LimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_headers_of_an_answer(self) -> None:
        """A server's answer carries both families of limit fields in place of any of its own."""
        client, upstream = self.world.asked()
        upstream.send(response(b"", b"X-RateLimit-Remaining: 77", b"RateLimit: other"))
        answer = client.response()
        self.assertEqual(answer.field("x-ratelimit-limit"), "5")
        self.assertEqual(answer.field("x-ratelimit-remaining"), "4")
        self.assertEqual(answer.field("x-ratelimit-reset"), "1")
        self.assertEqual(answer.field("ratelimit-policy"), '"default";q=5;w=5')
        self.assertEqual(answer.field("ratelimit"), '"default";r=4;t=1')

    def test_families(self) -> None:
        """Only the families that the settings name are sent."""
        world = World(rate_limit_headers=("ratelimit",))
        client, upstream = world.asked()
        upstream.send(response())
        answer = client.response()
        self.assertIsNotNone(answer.field("ratelimit"))
        self.assertIsNone(answer.field("x-ratelimit-limit"))

    def test_empty_bucket(self) -> None:
        """An empty bucket is 429 with Retry-After and the limit fields; no server hears of it, no token comes back."""
        self.world.buckets.answer = REFUSED._replace(rate_per_sec=0.4)
        client = self.world.client()
        client.send(request())
        answer = client.response()
        self.assertEqual(answer.status, 429)
        self.assertEqual(answer.detail, "The bucket of 5 tokens is empty. The next token is available in 3 s.")
        self.assertEqual(answer.field("retry-after"), "3")
        self.assertEqual(answer.field("x-ratelimit-remaining"), "0")
        self.assertEqual((self.world.dialled, self.world.buckets.refunded), ([], []))
        self.assertFalse(client.ended or answer.closes)

    def test_never_refilled(self) -> None:
        """Where the rate is 0, nobody is told to come back."""
        self.world.buckets.answer = REFUSED._replace(rate_per_sec=0.0)
        client = self.world.client()
        client.send(request())
        answer = client.response()
        self.assertEqual(answer.detail, "The bucket of 5 tokens is empty. It is not refilled.")
        self.assertIsNone(answer.field("retry-after"))

    def test_store_unavailable(self) -> None:
        """When the store cannot tell, the answer is 503 without its reason, which names hosts; no server is asked."""
        self.world.buckets.answer = "Redis does not answer."
        client = self.world.client()
        client.send(request())
        answer = client.response()
        self.assertEqual(answer.status, 503)
        self.assertEqual(answer.detail, "The rate limit of this key cannot be checked now. Try again soon.")
        self.assertEqual(answer.field("retry-after"), "1")
        self.assertIsNone(answer.field("x-ratelimit-limit"))
        self.assertEqual((self.world.dialled, self.world.buckets.refunded), ([], []))

    def test_answer_later(self) -> None:
        """A bucket may answer later: until then no server is dialled, and afterwards all goes on as ever."""
        self.world.buckets.later = True
        client = self.world.client()
        client.send(request())
        self.assertEqual((self.world.dialled, client.received), ([], b""))
        self.world.buckets.answer_now()
        self.world.settle()
        self.world.server.last.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")

    def test_one_token_each(self) -> None:
        """Each request asks its bucket exactly once, also on one connection; an answered one gets nothing back."""
        client = self.world.client()
        for _ in range(3):
            client.send(request())
            self.world.server.last.send(response())
        self.assertEqual(self.world.buckets.asked, [digest(KEY)] * 3)
        self.assertEqual(self.world.buckets.refunded, [])

    def test_problem_to_head(self) -> None:
        """A refusal of HEAD has the length of its document and not the document."""
        self.world.buckets.answer = REFUSED
        client = self.world.client()
        client.send(request("HEAD") + request("GET"))
        of_head, of_get = client.responses("HEAD", "GET")
        self.assertEqual((of_head.status, of_get.status), (429, 429))
        self.assertEqual(of_head.field("content-length"), str(len(of_get.body)))

    def test_token_back_shows(self) -> None:
        """A token that came back is counted in the fields of the answer, up to the capacity."""
        for level, remaining in ((2 * MICROTOKENS, "3"), (5 * MICROTOKENS - 1, "5")):
            world = World()
            world.server.refuses = True
            world.buckets.answer = ADMITTED._replace(level=level)
            client = world.client()
            client.send(request())
            answer = client.response()
            self.assertEqual((answer.status, answer.field("x-ratelimit-remaining")), (503, remaining))
            self.assertEqual(world.buckets.refunded, [digest(KEY)])


class OtherLimitTests(SynchronousTestCase):
    """The limits beside the key's own bucket."""

    def refused(self, taken: Taken) -> Response:
        world = World()
        world.buckets.answer = taken
        client = world.client()
        client.send(request())
        self.assertEqual(world.dialled, [])
        return client.response()

    def test_named(self) -> None:
        """Each limit that refuses names itself in the problem and in the fields, and tells its own numbers."""
        cases = (
            (Taken(False, b"u", 5, 1.0, 0), '"default";q=5;w=5', '"default";r=0;t=1', "1"),
            (Taken(False, b"u", 100, 0.5, 0, GLOBAL), '"global";q=100;w=200', '"global";r=0;t=2', "2"),
            (Taken(False, b"", 20, 0.25, 0, ADDRESS), '"address";q=20;w=80', '"address";r=0;t=4', "4"),
            (
                Taken(False, b"u", 3, 0.0, 0, IN_FLIGHT),
                '"in-flight";q=3;qu="concurrent-requests"',
                '"in-flight";r=0',
                "1",
            ),
        )
        for taken, policy, limit, retry in cases:
            answer = self.refused(taken)
            self.assertEqual((answer.status, answer.members["violated-policies"]), (429, [taken.limit]))
            self.assertEqual((answer.field("ratelimit-policy"), answer.field("ratelimit")), (policy, limit))
            self.assertEqual((answer.field("retry-after"), answer.field("x-ratelimit-remaining")), (retry, "0"))
            self.assertEqual(answer.field("x-ratelimit-limit"), str(taken.capacity))

    def test_no_key(self) -> None:
        """Where addresses have a bucket, a request without a key takes from its network's, and then gets its 401."""
        world = World(known_keys=KnownKeys(10))
        client = world.client()
        client.send(keyed())
        self.assertEqual((client.response().status, world.buckets.addresses), (401, ["192.0.2.7"]))
        world.buckets.of_address = Taken(False, b"", 20, 2.0, 0, ADDRESS)
        client.send(keyed())
        answer = client.response()
        self.assertEqual((answer.status, answer.members["violated-policies"]), (429, ["address"]))

    def test_familiar(self) -> None:
        """The network goes along until the key was seen valid from there, and again from another network."""
        world = World(known_keys=KnownKeys(10))
        for address, network in (
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7", ""),
            ("192.0.2.8", "192.0.2.8"),
            ("192.0.2.8", ""),
            ("192.0.2.7", ""),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::2", ""),
        ):
            client = world.client(IPv4Address("TCP", address, 1))
            client.send(request())
            self.assertEqual(world.buckets.networks.pop(), network, address)

    def test_never_familiar(self) -> None:
        """A key that is unknown, or refused for its network, does not become known_keys."""
        world = World(known_keys=KnownKeys(10))
        client = world.client()
        world.buckets.answer = Taken(False, b"", 20, 2.0, 0, ADDRESS)
        client.send(request())
        client.send(request())
        client.send(keyed(b"Authorization: someone-else") * 2)
        self.assertEqual(world.buckets.networks, ["192.0.2.7"] * 4)

    def test_no_such_limit(self) -> None:
        """Where addresses have no bucket, nobody asks for one."""
        world = World()
        client = world.client()
        client.send(keyed())
        client.send(request())
        self.assertEqual((world.buckets.addresses, world.buckets.networks), ([], [""]))


class RefusedKeyTests(SynchronousTestCase):
    """Keys that exist, and must not be used."""

    def setUp(self) -> None:
        self.world = World()

    def test_the_reason(self) -> None:
        """A disabled or expired key, or one of a disabled user, is 403 with a reason, without limits or a challenge."""
        for reason, detail in (
            (KEY_DISABLED, "This API key is disabled."),
            (KEY_EXPIRED, "This API key has expired."),
            (USER_DISABLED, "The user of this API key is disabled."),
        ):
            self.world = World()
            self.world.buckets.answer = Taken(False, b"user1", 0, 0.0, 0, reason)
            client = self.world.client()
            client.send(request())
            answer = client.response()
            self.assertEqual((answer.status, answer.detail), (403, detail))
            self.assertEqual(answer.members["reason"], reason)
            for field in ("www-authenticate", "x-ratelimit-limit", "ratelimit", "retry-after"):
                self.assertIsNone(answer.field(field))
            self.assertEqual(self.world.dialled, [])
            self.assertEqual(self.world.factory.counts()[f"refused {reason}"], 1)
            self.world.buckets.answer = ADMITTED
            client.send(request())
            self.world.server.last.send(response())
            self.assertEqual(client.response().status, 200)

    def test_it_does_not_wait(self) -> None:
        """A request that would wait for tokens does not wait with a key that must not be used."""
        self.world.buckets.answer = Taken(False, b"user1", 0, 0.0, 0, KEY_EXPIRED)
        client = self.world.client()
        client.send(request("GET", "/", b"Prefer: wait=30"))
        self.assertEqual(client.response().status, 403)

    def test_it_ends_to_wait(self) -> None:
        """Requests that wait for tokens are refused when their key is disabled meanwhile."""
        self.world.buckets.answer = REFUSED
        clients = [self.world.client() for _ in range(2)]
        for client in clients:
            client.send(request("GET", "/", b"Prefer: wait=30"))
            self.assertEqual(client.received, b"")
        self.world.buckets.answer = Taken(False, b"user1", 0, 0.0, 0, KEY_DISABLED)
        for _ in range(100):
            self.world.clock.advance(0.25)
        for client in clients:
            self.assertEqual(client.response().status, 403)

    def test_a_mistyped_key(self) -> None:
        """A key with our prefix and a wrong checksum is 401, and no store is asked; a right one is asked about."""
        form = KeyFormat("acme_live_")
        world = World(key_prefix="acme_live_")
        key = form.new_key().encode()
        client = world.client()
        client.send(keyed(b"Authorization: " + key[:-1]))
        answer = client.response()
        self.assertEqual((answer.status, answer.detail), (401, MISTYPED))
        self.assertEqual(answer.field("www-authenticate"), 'Bearer realm="twisted_lb"')
        self.assertEqual(world.buckets.asked, [])
        for other in (key, KEY):
            client.send(keyed(b"Authorization: " + other))
            self.assertEqual(world.buckets.asked.pop(), digest(other))
            client = world.client()

    def test_a_key_with_a_prefix_beside_another_one(self) -> None:
        """Of two keys in a request, one with the prefix counts as a key of this gateway."""
        world = World(key_prefix="acme_live_")
        key = KeyFormat("acme_live_").new_key().encode()
        client = world.client()
        client.send(keyed(b"Authorization: " + key, b"X-API-Key: " + KEY))
        self.assertEqual(client.response().status, 400)
        world.buckets.others.add(digest(key))
        client = world.client()
        client.send(keyed(b"Authorization: Custom " + key, b"X-API-Key: " + KEY))
        self.assertEqual(client.response().status, 400)
