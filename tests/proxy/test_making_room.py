"""At the maximum of connections, the one that has been idle longest is closed for a new one."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.transports import FakeTransport
from tests.proxy.world import CLIENT, Client, World, request, response
from twisted_lb.config.settings import Settings

OTHER = IPv4Address("TCP", "192.0.2.8", 1)
NO_KEY = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
BODY_FOR_THE_DOOR = b"POST /door HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n"


class RoomTestCase(SynchronousTestCase):
    def make(self, most: int, most_of_address: int = 0, **settings: object) -> World:
        return World(max_connections=most, max_connections_per_address=most_of_address, **settings)

    def serve(self, world: World, client: Client) -> None:
        """A request on this connection gets the server's answer."""
        client.read()
        for side in world.server.connections:
            side.read()
        client.send(request())
        [asked] = [side for side in world.server.connections if side.read()]
        asked.send(response(b"served"))
        self.assertEqual(client.response().body, b"served")

    def busy(self, world: World) -> Client:
        """A client that waits for the server."""
        client = world.client()
        client.send(request())
        return client

    def assert_turned_away(self, client: Client, detail: str = "too many connections") -> None:
        answer = client.response()
        self.assertEqual((answer.status, answer.closes, answer.field("retry-after")), (503, True, "1"))
        self.assertIn(detail, answer.detail)
        # It may still be sending.
        self.assertEqual((client.transport.half_closed, client.ended), (True, False))
        client.finish()
        self.assertTrue(client.ended and not client.transport.aborted)

    def ended(self, *clients: Client) -> list[bool]:
        return [client.ended for client in clients]


class RoomTests(RoomTestCase):
    def test_idle_between_requests(self) -> None:
        """Of connections between two requests that one ends whose last response is longest ago, in order, silently."""
        world = self.make(3)
        clients = [world.client() for _ in range(3)]
        for number in (1, 2, 0):
            self.serve(world, clients[number])
        for expected in ([False, True, False], [False, True, True], [True, True, True]):
            self.serve(world, world.client())
            self.assertEqual(self.ended(*clients), expected)
        self.assertEqual([client.read() for client in clients], [b""] * 3)
        self.assertFalse(any(client.transport.aborted for client in clients))
        self.assertEqual(len(world.factory.limits.connections), 3)

    def test_after_a_refusal(self) -> None:
        """Any number of connections that are kept open after a 401 keep nobody out."""
        world = self.make(50)
        for _ in range(50):
            client = world.client()
            client.send(NO_KEY)
            self.assertEqual(client.response().status, 401)
        for _ in range(100):
            self.serve(world, world.client())

    def test_silent(self) -> None:
        """Connections that have never sent a byte keep nobody out either, in whatever number they come."""
        world = self.make(10)
        for _ in range(30):
            world.client()
        paying = world.client()
        for _ in range(9):
            world.client()
        self.serve(world, paying)

    def test_head_that_drips(self) -> None:
        """A part of a head is no request; it counts since its first byte, and more bytes do not prolong that."""
        world = self.make(3)
        first, second, third = [world.client() for _ in range(3)]
        self.serve(world, first)
        for client in (second, third, first):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nA: ")
        for _ in range(5):
            second.send(b"a")
        self.serve(world, world.client())
        self.assert_turned_away(second)
        self.assertEqual(self.ended(first, third), [False, False])
        self.serve(world, world.client())
        self.assert_turned_away(third)
        self.assertFalse(first.ended)

    def test_body_for_the_user_api_that_drips(self) -> None:
        """A request for the user API that is not whole is nobody's yet: it is told, and the door never hears of it."""
        world = self.make(1)
        client = world.client()
        client.send(BODY_FOR_THE_DOOR, b"a")
        self.serve(world, world.client())
        self.assert_turned_away(client)
        self.assertEqual(world.door.calls, [])

    def test_lingering(self) -> None:
        """A connection that has been refused, and only has to end, takes no place."""
        world = self.make(1)
        client = world.client()
        client.send(b"GET  / HTTP/1.1\r\n\r\n")
        self.assertEqual((client.response().status, client.ended), (400, False))
        self.serve(world, world.client())
        self.assertFalse(client.ended)

    def test_busy(self) -> None:
        """Requests that wait for a server, bodies for a server, and answers of the API under way are left alone."""
        world = self.make(3)
        waiting = self.busy(world)
        uploading = world.client()
        uploading.send(request("POST", "/", b"Content-Length: 100"))
        receiver = world.client()
        world.door.during = None
        receiver.send(BODY_FOR_THE_DOOR + b"a" * 900)
        for _ in range(3):
            self.assert_turned_away(world.client())
        self.assertEqual(self.ended(waiting, uploading, receiver), [False] * 3)
        world.door.calls[0].answer()
        self.assertEqual(receiver.response().status, 200)
        self.serve(world, world.client())
        self.assertEqual(self.ended(waiting, uploading, receiver), [False, False, True])

    def test_waiting_for_tokens(self) -> None:
        """A request that waits for its tokens, as its client prefers, is not idle."""
        world = self.make(1, rate_per_sec=1.0)
        client = world.client()
        client.send(request("GET", "/", b"Prefer: wait=5"))
        self.assert_turned_away(world.client())
        self.assertFalse(client.ended)

    def test_next_request_has_arrived(self) -> None:
        """A connection whose next request has reached this machine, but has not been read, is not idle."""
        world = self.make(2)
        first, second = world.client(), world.client()
        for client in (first, second):
            self.serve(world, client)
        first.transport.arrive(request())
        world.client()
        self.assertEqual(self.ended(first, second), [False, True])
        first.send(b"")
        world.server.last.send(response(b"served"))
        self.assertEqual(first.response().body, b"served")

    def test_answer_on_its_way(self) -> None:
        """A client that has yet to take its answer is not cut off for another one."""
        world = self.make(1)
        client = self.busy(world)
        client.stop_taking()
        world.server.last.send(response(b"a" * 1000))
        self.assert_turned_away(world.client())
        client.take()
        self.assertEqual(len(client.response().body), 1000)
        self.serve(world, world.client())
        self.assertTrue(client.ended)

    def test_incomplete_response(self) -> None:
        """A response that was cut short still ends with a reset where an orderly end would mean that it is whole."""
        world = self.make(1)
        client = world.client()
        client.send(request(version="1.0"))
        world.server.last.transport.deliver(b"HTTP/1.1 200 OK\r\n\r\npart")
        world.server.last.transport.reset()
        new = world.factory.buildProtocol(CLIENT)
        self.assertTrue(client.transport.aborted and client.ended)
        self.assertEqual(len(world.factory.limits.connections), 0)
        self.assertIsNotNone(new)

    def test_place_is_free_at_once(self) -> None:
        """Also within one event, in which many are accepted, there are never more than there may be."""
        world = self.make(5)
        clients = [world.client() for _ in range(5)]
        for _ in range(20):
            protocol = world.factory.buildProtocol(CLIENT)
            self.assertEqual(len(world.factory.limits.connections), 4)
            assert protocol is not None
            FakeTransport(world.clock, CLIENT).connect(protocol)
        self.assertEqual(len(world.factory.limits.connections), 5)
        self.assertEqual(self.ended(*clients), [True] * 5)

    def test_log(self) -> None:
        """One line a minute says which limit it was, and how many connections it has cost."""
        world = self.make(2)
        lines: list[str] = []
        def observe(event: dict[str, object]) -> None:
            if event.get("log_namespace") == "twisted_lb.proxy.connection_limits":
                lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for _ in range(50):
            world.client()
        self.busy(world), self.busy(world)
        world.client()
        world.wait(61)
        world.client()
        self.assertEqual(len(lines), 2)
        self.assertIn("(MAX_CONNECTIONS=2); since the last such line: closed to make room 1, refused 0", lines[0])
        self.assertIn("(MAX_CONNECTIONS=2); since the last such line: closed to make room 50, refused 1", lines[1])


class AddressTests(RoomTestCase):
    def test_own_longest_idle(self) -> None:
        """An address that has its number of connections makes room for itself, and nobody else does."""
        world = self.make(10, 2)
        others = [world.client(OTHER) for _ in range(2)]
        first, second = world.client(), world.client()
        third = world.client()
        self.assertEqual(self.ended(*others, first, second, third), [False, False, True, False, False])

    def test_busy(self) -> None:
        """An address whose connections are all busy gets no more; another one does."""
        world = self.make(10, 2)
        mine = [self.busy(world) for _ in range(2)]
        self.assert_turned_away(world.client(), "An address can have 2 connections.")
        self.assertEqual(self.ended(*mine, world.client(OTHER)), [False] * 3)
        world.server.connections[0].send(response())
        self.serve(world, world.client())
        self.assertEqual(self.ended(*mine), [True, False])

    def test_both_limits(self) -> None:
        """An address at its number makes room for itself also when all places are taken."""
        world = self.make(4, 2)
        others = [world.client(OTHER) for _ in range(2)]
        mine = [world.client() for _ in range(2)]
        self.serve(world, world.client())
        self.assertEqual(self.ended(*others, *mine), [False, False, True, False])
        third_address = world.client(IPv4Address("TCP", "192.0.2.9", 1))
        self.serve(world, third_address)
        self.assertEqual(self.ended(*others, *mine), [True, False, True, False])

    def test_ipv6(self) -> None:
        """A /64 of IPv6 counts as one address, since one client has all of it; the next /64 is another."""
        world = self.make(10, 2)
        clients = [world.client(IPv6Address("TCP", f"2001:db8::{number}", 1)) for number in range(1, 4)]
        next_network = world.client(IPv6Address("TCP", "2001:db8:0:1::1", 1))
        self.assertEqual(self.ended(*clients, next_network), [True, False, False, False])

    def test_unix_socket(self) -> None:
        """Clients over a Unix socket have no address, and only the total bounds them."""
        world = self.make(5, 2)
        clients = [world.client(UNIXAddress(None)) for _ in range(5)]  # type: ignore[arg-type]
        self.assertEqual(self.ended(*clients), [False] * 5)
        self.serve(world, world.client(UNIXAddress(None)))  # type: ignore[arg-type]
        self.assertEqual(self.ended(*clients), [True] + [False] * 4)

    def test_default(self) -> None:
        """By default one address cannot have all places, and a quarter of them is kept for others."""
        numbers = {0: 0, 1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 8: 6, 500: 375, 8192: 6144}
        found = {most: Settings(max_connections=most).connections_of_an_address for most in numbers}
        self.assertEqual(found, numbers)
        self.assertEqual(Settings(max_connections=500, max_connections_per_address=0).connections_of_an_address, 0)
        world = World(max_connections=4)
        for _ in range(3):
            self.busy(world)
        self.assert_turned_away(world.client(), "An address can have 3 connections.")
        self.serve(world, world.client(OTHER))


class FilesTests(RoomTestCase):
    def test_open_files(self) -> None:
        """When clients and servers have nearly all open files, idle clients make room, whatever MAX_CONNECTIONS is."""
        world = self.make(0)
        world.factory._files = 8
        busy = [self.busy(world) for _ in range(2)]
        idle = [world.client() for _ in range(4)]
        self.assertEqual(len(world.server.connections), 2)
        self.assertEqual(self.ended(*idle, world.client()), [True, False, False, False, False])
        self.assertEqual(self.ended(*busy), [False, False])

    def test_all_are_busy(self) -> None:
        """When all open files are in use, a new client gets 503, and servers keep what they have."""
        world = self.make(0)
        world.factory._files = 4
        busy = [self.busy(world) for _ in range(2)]
        turned_away = world.client()
        self.assertEqual((turned_away.response().status, turned_away.ended), (503, True))
        self.assertEqual(self.ended(*busy), [False, False])

    def test_lingering_connections_count(self) -> None:
        """Connections that linger have open files as well, and nobody lingers who would take the last ones."""
        world = self.make(0)
        world.factory._files = 4
        for _ in range(4):
            world.client().send(b"GET  / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(world.factory.limits.lingering), 4)
        turned_away = world.client()
        self.assertEqual((turned_away.response().status, turned_away.ended), (503, True))
