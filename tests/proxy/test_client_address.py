"""The client of a request: behind trusted proxies, and after headers of the PROXY protocol."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import KEY, OrderedServices
from tests.proxy.world import CLIENT, Client, World, request, response
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.proxy.client_connection import ClientConnection
from twisted_lb.request_record import RequestRecord
from twisted_lb.wire.proxy_protocol import V2, local_header, proxy_header

PROXY = IPv4Address("TCP", "10.0.0.1", 40_000)
TRUSTED = ("10.0.0.0/8",)
V1_HEADER = b"PROXY TCP4 198.51.100.7 203.0.113.1 50000 443\r\n"
# Of a client of `World`.
OWN_HEADER = b"PROXY TCP4 192.0.2.7 127.0.0.1 50000 8080\r\n"


def lines(head: bytes, name: bytes) -> list[bytes]:
    """The values of the fields of this name."""
    fields = [line.partition(b": ") for line in head.split(b"\r\n")]
    return [value for field, _, value in fields if field.lower() == name.lower()]


class TrustedProxyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(trusted_proxies=TRUSTED, max_refusals=3, max_connections_per_address=2)
        assert isinstance(self.world.balancer, OrderedServices)
        self.seen = self.world.balancer.requests

    def serve(self, client: Client, *fields: bytes) -> bytes:
        """A request with these fields is served; returns the head that the server got."""
        client.send(request("GET", "/", *fields))
        server = self.world.server.last
        head = server.read()
        server.send(response())
        self.assertEqual(client.response().status, 200)
        return head

    def test_each_request(self) -> None:
        """Each request of a connection has its own client, for balancers and for servers."""
        proxy = self.world.client(PROXY)
        head = self.serve(proxy, b"X-Forwarded-For: 198.51.100.7", b"X-Forwarded-Proto: https")
        self.assertEqual(lines(head, b"x-forwarded-for"), [b"198.51.100.7, 10.0.0.1"])
        self.assertEqual(lines(head, b"x-forwarded-proto"), [b"https"])
        self.assertEqual(lines(head, b"x-forwarded-port"), [b"443"])
        self.assertEqual(lines(head, b"x-real-ip"), [b"198.51.100.7"])
        head = self.serve(proxy, b"X-Forwarded-For: 2001:db8::7")
        self.assertEqual(lines(head, b"x-forwarded-for"), [b"2001:db8::7, 10.0.0.1"])
        self.assertEqual(lines(head, b"x-forwarded-proto"), [b"http"])
        self.assertEqual(lines(self.serve(proxy), b"x-forwarded-for"), [b"10.0.0.1, 10.0.0.1"])
        self.assertEqual([one.client_address for one in self.seen], ["198.51.100.7", "2001:db8::7", "10.0.0.1"])

    def test_anyone_else(self) -> None:
        """What anyone else says of itself is replaced, for balancers too."""
        head = self.serve(self.world.client(), b"X-Forwarded-For: 198.51.100.7", b"X-Forwarded-Proto: https")
        self.assertEqual(lines(head, b"x-forwarded-for"), [b"192.0.2.7"])
        self.assertEqual(lines(head, b"x-forwarded-proto"), [b"http"])
        [seen] = self.seen
        self.assertEqual(seen.client_address, "192.0.2.7")
        self.assertEqual(seen.header(b"X-Forwarded-For"), b"192.0.2.7")
        self.assertEqual(seen.header(b"x-forwarded-proto"), b"http")

    def test_balancers_view(self) -> None:
        """A balancer sees the fields as servers get them."""
        self.serve(self.world.client(PROXY), b"X-Forwarded-For: 198.51.100.7", b"Forwarded: for=198.51.100.7")
        [seen] = self.seen
        self.assertEqual(seen.header(b"X-Forwarded-For"), b"198.51.100.7, 10.0.0.1")
        self.assertEqual(seen.header(b"x-real-ip"), b"198.51.100.7")
        self.assertEqual(
            seen.header(b"forwarded"), b'for=198.51.100.7, for=10.0.0.1;host="api.example";proto=http'
        )

    def test_options_of_the_client(self) -> None:
        """A client that makes its proxy pass on a Connection field cannot have the proxy's fields removed."""
        fields = b"X-Forwarded-For: 198.51.100.7", b"Connection: X-Forwarded-For, X-Forwarded-Proto, keep-alive"
        head = self.serve(self.world.client(PROXY), *fields, b"X-Forwarded-Proto: https")
        self.assertEqual(lines(head, b"x-forwarded-for"), [b"198.51.100.7, 10.0.0.1"])
        self.assertEqual(lines(head, b"x-forwarded-proto"), [b"https"])

    def test_refusals(self) -> None:
        """Requests that are refused do not cut the connection of a trusted proxy, which others use; a client's own
        they do."""
        bad = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        for address, ends in ((PROXY, False), (CLIENT, True)):
            client = self.world.client(address)
            client.send(*(bad,) * 4)
            self.assertEqual({answer.status for answer in client.responses("GET", "GET", "GET", "GET")}, {401})
            self.assertEqual(client.ended, ends)

    def test_connections(self) -> None:
        """The connections of a trusted proxy are not limited like those of one address."""
        for _ in range(5):
            self.serve(self.world.client(PROXY))
        busy = [self.world.client() for _ in range(2)]
        for client in busy:
            client.send(request())
        self.assertEqual(self.world.client().response().status, 503)

    def test_malformed(self) -> None:
        """After a client's request, what is no request is the proxy's again."""
        proxy = self.world.client(PROXY)
        self.serve(proxy, b"X-Forwarded-For: 198.51.100.7")
        connection = proxy.transport.protocol
        assert isinstance(connection, ClientConnection)
        self.assertEqual(connection.peer.address, "198.51.100.7")
        proxy.send(b"GET\x01/ HTTP/1.1\r\n\r\n")
        self.assertEqual(connection.peer.address, "10.0.0.1")
        self.assertEqual(proxy.response().status, 400)

    def test_record_of_no_request(self) -> None:
        """What is refused before any of a request was read is recorded as the proxy's, not as the last client's."""
        records: list[RequestRecord] = []
        self.world.factory.subscribe(records.append)
        proxy = self.world.client(PROXY)
        self.serve(proxy, b"X-Forwarded-For: 198.51.100.7")
        proxy.send(b"\r\n" * 1000)
        said = [(one.peer.address, one.status) for one in records]
        self.assertEqual(said, [("198.51.100.7", 200), ("10.0.0.1", 400)])

    def test_user_api(self) -> None:
        """The user API is told the client of each request."""
        proxy = self.world.client(PROXY)
        for value, expected in (
            (b"198.51.100.7:80", IPv4Address("TCP", "198.51.100.7", 80)),
            (b"2001:db8::7", IPv6Address("TCP", "2001:db8::7", 0)),
        ):
            proxy.send(request("POST", "/door", b"X-Forwarded-For: " + value, body=b""))
            self.assertEqual(self.world.door.calls[-1].peer, expected)

    def test_networks(self) -> None:
        """A request without a valid key is charged to the network of its client, not of the proxy."""
        world = World(trusted_proxies=TRUSTED, known_keys=KnownKeys(10))
        proxy = world.client(PROXY)
        proxy.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::7\r\n\r\n")
        proxy.send(request("GET", "/", b"X-Forwarded-For: 198.51.100.7"))
        self.assertEqual(world.buckets.addresses, ["2001:db8::/64"])
        self.assertEqual(world.buckets.networks, ["198.51.100.7"])

    def test_unix(self) -> None:
        """A proxy behind a Unix socket is trusted by `unix:`."""
        for trusted, address in ((("unix:",), "198.51.100.7"), (("0.0.0.0/0",), "unix:"), ((), "unix:")):
            world = World(trusted_proxies=trusted)
            world.client(UNIXAddress(None)).send(request("GET", "/", b"X-Forwarded-For: 198.51.100.7"))
            assert isinstance(world.balancer, OrderedServices)
            self.assertEqual(world.balancer.requests[0].client_address, address)


class AnnouncedTests(SynchronousTestCase):
    """PROXY_PROTOCOL_FROM."""

    def setUp(self) -> None:
        self.world = World(proxy_protocol_from=TRUSTED, max_connections_per_address=2, head_timeout=10.0)
        assert isinstance(self.world.balancer, OrderedServices)
        self.seen = self.world.balancer.requests

    def test_request(self) -> None:
        """The client is the one in the header, whichever version, whole, byte by byte, and with a request at once."""
        for header in (V1_HEADER, proxy_header(V2, "198.51.100.7", 50000, "203.0.113.1", 443)):
            for pieces in (
                (header, request()),
                (header + request(),),
                [bytes((byte,)) for byte in header + request()],
            ):
                client = self.world.client(PROXY)
                client.send(*pieces)
                head = self.world.server.last.read()
                self.assertEqual(lines(head, b"x-forwarded-for"), [b"198.51.100.7"])
                self.assertEqual(lines(head, b"forwarded"), [b'for=198.51.100.7;host="api.example";proto=http'])
                self.assertEqual(self.seen[-1].client_address, "198.51.100.7")
                self.world.server.last.send(response())
                self.assertEqual(client.response().status, 200)
                client.leave()

    def test_nothing_told(self) -> None:
        """With LOCAL and UNKNOWN it is the proxy's own connection."""
        for header in (b"PROXY UNKNOWN\r\n", local_header(V2)):
            client = self.world.client(PROXY)
            client.send(header + request())
            self.assertEqual(self.seen[-1].client_address, "10.0.0.1")
            client.leave()

    def test_tls(self) -> None:
        """A client that has come to the proxy over TLS has used https."""
        header = proxy_header(V2, "198.51.100.7", 50000, "203.0.113.1", 443)
        header = header[:14] + b"\0\x14" + header[16:] + b"\x20\0\5\1\0\0\0\0"
        self.world.client(PROXY).send(header + request())
        self.assertEqual(lines(self.world.server.last.received, b"x-forwarded-proto"), [b"https"])

    def test_without(self) -> None:
        """A connection from there without a valid header is closed, with no answer."""
        for data in (request(), b"PROXY TCP4 nonsense\r\n" + request(), b"\x16\x03\x01"):
            client = self.world.client(PROXY)
            client.send(data)
            self.assertTrue(client.ended)
            self.assertEqual(client.received, b"")
        self.assertEqual(len(self.world.factory.limits.connections), 0)

    def test_late(self) -> None:
        """A header that does not arrive within HEAD_TIMEOUT ends the connection; what drips in wins no time."""
        client = self.world.client(PROXY)
        for byte in V1_HEADER[:11]:
            client.send(bytes((byte,)))
            self.world.wait(1.0)
        self.assertTrue(client.ended)
        self.assertEqual(client.received, b"")

    def test_from_others(self) -> None:
        """From anyone else a header is a malformed request."""
        for header in (V1_HEADER, proxy_header(V2, "198.51.100.7", 50000, "203.0.113.1", 443)):
            client = self.world.client()
            client.send(header + request())
            self.assertEqual(client.response().status, 400)
            self.assertTrue(client.transport.half_closed or client.ended)

    def test_twice(self) -> None:
        """A second header is a malformed request."""
        client = self.world.client(PROXY)
        client.send(V1_HEADER + V1_HEADER + request())
        self.assertEqual(client.response().status, 400)

    def test_no_files(self) -> None:
        """Where there is no open file to linger with, a connection is closed at once, also with a request behind it."""
        self.world.client(PROXY).send(V1_HEADER + request())
        client = self.world.client(PROXY)
        lose = client.transport._lose

        def lose_protocol(reason: Failure) -> None:
            lose(reason)
            # As Twisted's transports.
            del client.transport.protocol

        self.patch(client.transport, "_lose", lose_protocol)
        self.world.factory._files = 1
        client.send(V1_HEADER + request())
        self.assertEqual((client.response().status, client.ended), (503, True))

    def test_connections(self) -> None:
        """The connections of each client are counted, and not those of the proxy."""
        waiting = [self.world.client(PROXY) for _ in range(5)]
        self.assertEqual([client.ended for client in waiting], [False] * 5)
        for client in waiting[:2]:
            client.send(V1_HEADER + request())
        waiting[2].send(V1_HEADER + request())
        self.assertEqual(waiting[2].response().status, 503)
        waiting[3].send(V1_HEADER.replace(b".7", b".8") + request())
        self.assertEqual(self.seen[-1].client_address, "198.51.100.8")

    def test_room(self) -> None:
        """A connection that waits for its header makes room for another one."""
        world = World(proxy_protocol_from=TRUSTED, max_connections=2)
        waiting = [world.client(PROXY) for _ in range(3)]
        self.assertEqual([client.ended for client in waiting], [True, False, False])

    def test_drain(self) -> None:
        """At the end of the program a connection without a header is closed."""
        client = self.world.client(PROXY)
        done: list[int] = []
        self.world.factory.drain(5.0).addCallback(done.append)
        self.world.wait(1.0)
        self.assertTrue(client.ended)
        self.assertEqual(done, [0])

    def test_leaving(self) -> None:
        """A proxy that leaves within the header leaves nothing behind."""
        client = self.world.client(PROXY)
        client.send(V1_HEADER[:9])
        client.finish()
        self.assertEqual(len(self.world.factory.limits.connections), 0)
        self.world.wait(20.0)

    def test_trusted_behind(self) -> None:
        """The client in the header may be a trusted proxy, which tells of its own."""
        world = World(proxy_protocol_from=TRUSTED, trusted_proxies=("198.51.100.0/24",))
        world.client(PROXY).send(V1_HEADER + request("GET", "/", b"X-Forwarded-For: 203.0.113.9"))
        self.assertEqual(lines(world.server.last.received, b"x-forwarded-for"), [b"203.0.113.9, 198.51.100.7"])

    def test_user_api(self) -> None:
        """The user API is told the client."""
        self.world.client(PROXY).send(V1_HEADER + request("POST", "/door", body=b""))
        self.assertEqual(self.world.door.calls[-1].peer, IPv4Address("TCP", "198.51.100.7", 50000))


class SendProxyTests(SynchronousTestCase):
    """send_proxy."""

    def world_of(self, version: int, **more: object) -> World:
        world = World(**more)  # type: ignore[arg-type]
        world.backends[0].send_proxy = version
        return world

    def test_header(self) -> None:
        """A new connection begins with the header of the client for which it is opened, in the same write."""
        world = self.world_of(1)
        _, upstream = world.asked()
        self.assertTrue(upstream.received.startswith(OWN_HEADER + b"GET / HTTP/1.1\r\n"))
        world = self.world_of(2)
        _, upstream = world.asked()
        header = proxy_header(V2, "192.0.2.7", 50000, "127.0.0.1", 8080)
        self.assertTrue(upstream.received.startswith(header + b"GET / HTTP/1.1\r\n"))

    def test_reuse(self) -> None:
        """A connection is used again for the same client connection, without another header, and for no other."""
        world = self.world_of(1)
        first, other = world.client(), world.client(IPv4Address("TCP", "192.0.2.8", 50_000))
        again = world.client(IPv4Address("TCP", "192.0.2.7", 50_001))
        used = []
        for client in (first, other, first, again, first, other):
            client.send(request())
            side = next(side for side in world.server.connections if KEY not in (data := side.read()) and data)
            used.append(side)
            side.send(response())
            self.assertEqual(client.response().status, 200)
        self.assertEqual(len(world.server.connections), 3)
        self.assertIs(used[0], used[2])
        self.assertIs(used[0], used[4])
        self.assertIs(used[1], used[5])
        self.assertEqual([side.received.count(b"PROXY ") for side in world.server.connections], [1, 1, 1])

    def test_clients_of_a_proxy(self) -> None:
        """Clients of one connection of a trusted proxy have connections of their own."""
        world = self.world_of(1, trusted_proxies=TRUSTED)
        proxy = world.client(PROXY)
        for address in (b"198.51.100.7", b"198.51.100.8:99", b"198.51.100.7"):
            proxy.send(request("GET", "/", b"X-Forwarded-For: " + address))
            number = 0 if address == b"198.51.100.7" else 1
            world.server.connections[number].send(response())
            proxy.read()
        self.assertEqual(
            [side.received.partition(b"\r\n")[0] for side in world.server.connections],
            [b"PROXY TCP4 198.51.100.7 127.0.0.1 0 8080", b"PROXY TCP4 198.51.100.8 127.0.0.1 99 8080"],
        )

    def test_passed_on(self) -> None:
        """What a header of the PROXY protocol has said is passed on, with the address that the client connected to."""
        world = self.world_of(1, proxy_protocol_from=TRUSTED)
        world.client(PROXY).send(V1_HEADER + request())
        self.assertTrue(world.server.last.received.startswith(V1_HEADER + b"GET "))

    def test_kept(self) -> None:
        """Of idle connections there are no more than UPSTREAM_IDLE_CONNECTIONS; the one idle longest goes first."""
        world = self.world_of(1, upstream_idle_connections=2)
        for port in (50_001, 50_002, 50_003):
            client = world.client(IPv4Address("TCP", "192.0.2.7", port))
            client.send(request())
            world.server.last.send(response())
        self.assertEqual([side.transport.ended for side in world.server.connections], [True, False, False])
        world.wait(61.0)
        self.assertEqual([side.transport.ended for side in world.server.connections], [True, True, True])

    def test_closed_meanwhile(self) -> None:
        """A kept connection that the server has closed is replaced by one with the same header."""
        world = self.world_of(1)
        client, upstream = world.asked()
        upstream.send(response())
        client.read()
        upstream.transport.finish(noticed=False)
        client.send(request())
        self.assertEqual(len(world.server.connections), 2)
        self.assertTrue(world.server.last.received.startswith(OWN_HEADER + b"GET "))

    def test_switched(self) -> None:
        """A change of servers.yaml holds for the next request: no connection of the other kind is used."""
        world = self.world_of(0)
        client = world.client()
        for version in (0, 1, 0):
            world.backends[0].send_proxy = version
            client.send(request())
            side = next(side for side in world.server.connections if side.read())
            self.assertEqual(side.received.startswith(b"PROXY "), version == 1)
            side.send(response())
            self.assertEqual(client.response().status, 200)
            world.wait(0.5)

    def test_unix_client(self) -> None:
        """A client without an address is unknown to the server."""
        world = self.world_of(1)
        world.client(UNIXAddress(None)).send(request())
        self.assertTrue(world.server.last.received.startswith(b"PROXY UNKNOWN\r\nGET "))
