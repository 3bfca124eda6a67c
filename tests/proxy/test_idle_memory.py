"""What connections keep of a request that is over: nothing but what the next one on the connection may use."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.api.memory_accounts import MemoryAccounts
from tests.proxy.kept import kept_bytes
from tests.proxy.scripted import KEY, REFUSED
from tests.proxy.world import Client, World, request, response
from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.user import UserApi
from twisted_lb.proxy.client_connection import ClientConnection
from twisted_lb.proxy.server_connection import ServerConnection
from twisted_lb.wire.grammar import MAX_HOST_BYTES

LONG = b"x" * 25_000
# More than a fresh connection: numbers that are not small any more.
MAX_MORE_BYTES = 100
# A connection to a server keeps the text of its address.
MAX_MORE_BYTES_OF_SERVERS = 700
# All that a client's connection takes besides its transport.
MAX_BYTES = 1_000


class KeptBytesTests(SynchronousTestCase):
    def test_kept_bytes(self) -> None:
        """What is reachable counts once; what is shared does not count."""
        large = [b"a" * 10_000]
        one = {"large": large, "again": (large, large)}
        self.assertGreater(kept_bytes(one, []), 10_000)
        self.assertLess(kept_bytes(one, []), 20_000)
        self.assertLess(kept_bytes(one, [large]), 1_000)


class IdleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.client = self.world.client()
        self.fresh = self.kept_of_client()
        # One that has been used once, for a short request.
        _, side = self.world.asked(request())
        side.send(response())
        self.fresh_upstream = self.kept_of_server()

    def kept_of_client(self) -> int:
        transport = self.client.transport
        connection = transport.protocol
        assert isinstance(connection, ClientConnection)
        world = self.world
        factory = world.factory
        shared = [factory.limits, factory.sweeper, factory.data_path, world.settings, world.clock]
        return kept_bytes(connection, [transport, *shared])

    def kept_of_server(self) -> int:
        transport = self.world.server.last.transport
        connection = transport.protocol
        assert isinstance(connection, ServerConnection)
        world = self.world
        factory = world.factory
        backend = world.backends[0]
        shared = [backend, world.server_pool.connections[backend], factory.sweeper, factory.data_path]
        return kept_bytes(connection, [transport, *shared])

    def assert_idle(self, *statuses: int) -> None:
        """The client has these answers, and both connections are idle and as small as before."""
        answers = self.client.responses(*("GET",) * len(statuses))
        self.assertEqual([answer.status for answer in answers], list(statuses))
        self.assertFalse(self.client.ended)
        kept = self.kept_of_client()
        self.assertLess(kept - self.fresh, MAX_MORE_BYTES)
        self.assertLess(kept, MAX_BYTES)
        self.assertLess(self.kept_of_server() - self.fresh_upstream, MAX_MORE_BYTES_OF_SERVERS)

    def served(self, data: bytes, *fields: bytes) -> None:
        """A request that a server answers leaves nothing behind."""
        self.client.send(data)
        self.world.server.last.send(response(b"y" * 100_000, *fields))
        self.assert_idle(200)

    def test_many_fields(self) -> None:
        """A head of 25 kB in 90 fields."""
        self.served(request("GET", "/", *(b"F%d: %b" % (number, b"x" * 270) for number in range(90))))

    def test_long_fields(self) -> None:
        """Long values of fields that are passed on, spent here, continued, and put back."""
        for name in (b"Cookie", b"TE", b"X-Forwarded-For", b"Forwarded", b"Via", b"Content-Type", b"X-API-Key"):
            data = b"GET / HTTP/1.1\r\nHost: a\r\n%b: %b\r\n" % (name, LONG)
            if name != b"X-API-Key":
                self.served(b"%bX-API-Key: %b\r\n\r\n" % (data, KEY))
            else:
                self.client.send(data + b"\r\n")
                self.assert_idle(401)

    def test_long_target(self) -> None:
        """A target of 8 KiB, as a path and in absolute form."""
        self.served(request("GET", "/" + "t" * 8000))
        self.served(request("GET", "http://api.example/" + "t" * 8000))

    def test_longest_host(self) -> None:
        """Nothing is kept of the longest host either."""
        for letter in (b"a", b"b"):
            data = b"GET / HTTP/1.1\r\nHost: %b\r\nX-API-Key: %b\r\n\r\n" % (letter * MAX_HOST_BYTES, KEY)
            self.served(data)

    def test_pipelined(self) -> None:
        """64 KiB of requests that came at once."""
        self.client.send(request("GET", "/", b"Cookie: " + LONG) * 2 + request() * 100)
        for _ in range(102):
            self.world.server.last.send(response())
        self.assert_idle(*(200,) * 102)

    def test_bodies(self) -> None:
        """A long body, whole and in pieces, and chunks with trailers."""
        self.served(request("POST", "/", body=b"b" * 300_000))
        head, body = request("POST", "/", body=b"b" * 300_000)[:-300_000], b"b" * 100_000
        self.client.send(head)
        self.client.send(body, body)
        self.served(body)
        chunked = request("POST", "/", b"Transfer-Encoding: chunked")
        self.served(chunked + b"8000\r\n" + b"x" * 0x8000 + b"\r\n0\r\nA: " + b"t" * 15_000 + b"\r\n\r\n")

    def test_servers_head(self) -> None:
        """A response with a long head leaves nothing with either connection."""
        self.served(request(), b"Set-Cookie: " + b"c" * 60_000, b"Connection: a, b, c", b"A: " + b"a" * 2000)

    def test_refused(self) -> None:
        """A request without a key, with a key that nobody has, and with an empty bucket."""
        cookie = b"Cookie: " + LONG
        self.client.send(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % cookie)
        self.client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: a\r\n%b\r\n\r\n" % cookie)
        self.world.buckets.answer = REFUSED
        self.client.send(request("GET", "/", cookie))
        self.assert_idle(401, 401, 429)

    def test_user_api(self) -> None:
        """Calls of the user API, with the longest body that it takes."""
        self.world.factory.limits.door = ApiDoor(UserApi(MemoryAccounts(), 5, 1.0).resource())
        for body in (b'{"name":"user1"}', b'{"name":"%b"}' % (b"n" * 60_000)):
            data = request("POST", "/user/create", b"Content-Type: application/json", b"Cookie: " + LONG, body=body)
            self.client.send(data)
        self.assert_idle(200, 400)


class NotIdleTests(SynchronousTestCase):
    def kept(self, world: World, client: Client) -> int:
        transport = client.transport
        return kept_bytes(
            transport.protocol,
            [
                transport,
                world.factory.limits,
                world.factory.limits.context,
                world.route.pricing,
                world.server_pool,
                world.factory.sweeper,
                world.factory.data_path,
                world.settings,
                world.clock,
                world.balancer,
                world.backends[0],
                world.server_pool.connections[world.backends[0]],
                *(server.transport for server in world.server.connections),
                *(server.transport.protocol for server in world.server.connections),
            ],
        )

    def test_unfinished_head(self) -> None:
        """Of a head that is not whole there is one copy, however it came."""
        head = request("GET", "/", b"Cookie: " + b"c" * 31_000)[:-4]
        for size in (len(head), 1000, 10):
            world = World()
            client = world.client()
            fresh = self.kept(world, client)
            client.send(*(head[at : at + size] for at in range(0, len(head), size)))
            self.assertLess(self.kept(world, client) - fresh, len(head) + 500, size)

    def test_after_a_refused_head(self) -> None:
        """While a client that was refused takes its time to end the connection, nothing of its request is kept."""
        for data in (
            request("POST", "/", b"Cookie: " + LONG, body=b"b" * 30_000)[:-10_000],
            request("POST", "/", b"Cookie: " + LONG, b"Transfer-Encoding: chunked") + b"5;" + b"e" * 4000,
            request("GET", "/", b"Expect: " + LONG),
            request("TRACE", "/", b"Cookie: " + LONG),
        ):
            world = World(max_body_bytes=20_000)
            client = world.client()
            fresh = self.kept(world, client)
            client.send(data)
            if not client.received:
                client.send(b"\n")
            self.assertEqual((client.received[9:10], client.ended), (b"4" if b"TRACE" not in data else b"5", False))
            self.assertLess(self.kept(world, client) - fresh, MAX_MORE_BYTES)

    def test_while_the_response_goes_on(self) -> None:
        """Once its response has begun, the content of a request is kept no longer: it will not be sent again."""
        world = World()
        client = world.client()
        fresh = self.kept(world, client)
        client.send(request("POST", "/", body=b"b" * 60_000))
        self.assertGreater(self.kept(world, client) - fresh, 60_000)
        world.server.last.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        self.assertLess(self.kept(world, client) - fresh, 6_000)
