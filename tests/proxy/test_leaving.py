"""Clients that disconnect: whatever was done for them is released, and no longer counted."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import DoorCall
from tests.proxy.world import World, request, response


class LeavingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def assert_forgotten(self) -> None:
        """Nothing is counted, kept open, or given back for a client that is gone."""
        self.assertEqual(self.world.in_flight, [0])
        self.assertEqual(len(self.world.factory.limits.connections), 0)
        self.assertEqual(self.world.buckets.refunded, [])

    def test_waiting_for_the_response(self) -> None:
        """The server's connection is dropped when the client leaves before the response."""
        client, upstream = self.world.asked()
        self.assertEqual(self.world.in_flight, [1])
        client.leave()
        self.assertTrue(upstream.ended and upstream.transport.aborted)
        self.assert_forgotten()

    def test_amid_the_response(self) -> None:
        """The server's connection is dropped when the client leaves amid the response."""
        client, upstream = self.world.asked()
        upstream.send(response(b"hello")[:-1])
        client.leave()
        self.assertTrue(upstream.ended)
        self.assert_forgotten()

    def test_amid_the_request(self) -> None:
        """The server's connection is dropped when the client leaves amid the request."""
        client, upstream = self.world.asked(request("POST", "/", b"Content-Length: 10") + b"hello")
        client.leave()
        self.assertTrue(upstream.ended)
        self.assert_forgotten()

    def test_no_deadline_stays(self) -> None:
        """A connection that has ended, on either side, is watched no longer."""
        before = len(self.world.factory.sweeper.watched)
        client, upstream = self.world.asked()
        upstream.send(response())
        self.assertEqual(len(self.world.factory.sweeper.watched), before + 2)
        client.leave()
        self.assertEqual(len(self.world.factory.sweeper.watched), before + 1)
        upstream.finish()
        self.assertEqual(len(self.world.factory.sweeper.watched), before)

    def test_while_the_bucket_is_asked(self) -> None:
        """The bucket's answer for a client that has left is dropped: no server is dialled."""
        for answer in (self.world.buckets.answer, "unavailable"):
            self.world.buckets.answer = answer
            self.world.buckets.later = True
            client = self.world.client()
            client.send(request())
            client.leave()
            self.world.buckets.answer_now()
            self.world.settle()
            self.assertEqual(self.world.dialled, [])
            self.assert_forgotten()

    def test_while_connecting(self) -> None:
        """A connection that is made for a client that has left carries nothing, and is there for the next one."""
        self.world.server.waits = True
        client = self.world.client()
        client.send(request())
        self.assertEqual(self.world.in_flight, [1])
        client.leave()
        self.assert_forgotten()
        self.world.server.decide()
        self.assertEqual(self.world.server.last.received, b"")
        other = self.world.client()
        other.send(request("GET", "/other"))
        self.assertTrue(self.world.server.last.received.startswith(b"GET /other "))
        self.assertEqual(len(self.world.server.connections), 1)

    def test_while_connecting_in_vain(self) -> None:
        """A refused connection for a client that has left leads to no other server."""
        world = World(servers=2)
        world.server.waits = True
        client = world.client()
        client.send(request())
        client.leave()
        world.server.refuses = True
        world.server.decide()
        self.assertEqual((world.dialled, world.in_flight), ([("127.0.0.1", 9001)], [0, 0]))
        self.assertEqual(world.buckets.refunded, [])

    def test_with_requests_waiting(self) -> None:
        """Pipelined requests of a client that has left are not served."""
        client = self.world.client()
        client.send(request() + request())
        client.leave()
        self.world.wait(1)
        self.assertEqual(len(self.world.buckets.asked), 1)
        self.assert_forgotten()

    def test_from_the_door(self) -> None:
        """The door is told, once, that a client has left."""
        self.world.door.during = None
        client = self.world.client()
        client.send(request("GET", "/door"))
        client.leave()
        [call] = self.world.door.calls
        self.assertEqual(call.abandoned, 1)
        call.answer()
        self.assertEqual(client.received, b"")
        self.assert_forgotten()

    def test_while_the_door_begins(self) -> None:
        """The door is told also when the client leaves within the call that begins the serving."""
        client = self.world.client()
        self.world.door.during = lambda call: client.leave()
        client.send(request("GET", "/door"))
        [call] = self.world.door.calls
        self.assertEqual(call.abandoned, 1)

    def test_before_the_door_is_asked(self) -> None:
        """A client that leaves before its body for the door is whole never reaches the door."""
        self.world.door.during = DoorCall.answer
        client = self.world.client()
        client.send(request("POST", "/door", b"Content-Length: 10") + b"hello")
        client.leave()
        self.assertEqual(self.world.door.calls, [])
        self.assert_forgotten()

    def test_others_stay(self) -> None:
        """One client's leaving does not touch another's exchange."""
        one, _ = self.world.asked()
        other = self.world.client()
        other.send(request())
        self.assertEqual(self.world.in_flight, [2])
        one.leave()
        self.assertEqual(self.world.in_flight, [1])
        self.world.server.last.send(response(b"hello"))
        self.assertEqual(other.response().body, b"hello")
        self.assertEqual(self.world.in_flight, [0])


class LeavingUnreadTests(SynchronousTestCase):
    """Clients that leave when more of what they have sent waits than is read ahead."""

    MUCH = 200_000

    def leave_waiting(self, world: World, first: bytes) -> None:
        """A client sends much, has to wait, and ends its direction."""
        client = world.client()
        client.send(first + request("GET", "/later") * (self.MUCH // 100))
        self.assertFalse(client.transport.reading)
        self.assertFalse(client.ended)
        client.finish()
        world.settle()
        self.assertTrue(client.ended)

    def test_waiting_for_tokens(self) -> None:
        """One that waits for a token is given up, takes none, and no server is asked."""
        world = World(rate_per_sec=1.0)
        self.leave_waiting(world, request("GET", "/", b"Prefer: wait=30"))
        world.wait(5.0)
        self.assertEqual((world.dialled, world.in_flight), ([], [0]))
        self.assertEqual(len(world.factory.limits.context.waiting), 0)

    def test_waiting_with_a_body(self) -> None:
        """The same for one whose body is read no further until there is a token."""
        world = World(rate_per_sec=1.0)
        client = world.client()
        client.send(request("POST", "/", b"Prefer: wait=30", b"Content-Length: 300000"), b"x" * self.MUCH)
        self.assertFalse(client.transport.reading)
        client.finish()
        world.wait(5.0)
        self.assertEqual((client.ended, world.dialled), (True, []))

    def test_waiting_for_a_server(self) -> None:
        """One that waits for a server with room loses its place, and its token is given back: no server was asked."""
        world = World(maxconn=1)
        world.asked()
        self.leave_waiting(world, request("GET", "/"))
        self.assertEqual(world.in_flight, [1])
        self.assertEqual(len(world.buckets.refunded), 1)
        world.server.last.send(response())
        self.assertEqual(world.in_flight, [0])

    def test_pipelining(self) -> None:
        """One whose response does not begin in HALF_CLOSE_TIMEOUT is given up, and its later requests are not begun."""
        world = World(half_close_timeout=1.0)
        client = world.client()
        client.send(request() + request("GET", "/later") * (self.MUCH // 100))
        self.assertFalse(client.transport.reading)
        client.finish()
        world.wait(0.5)
        self.assertFalse(client.ended)
        world.wait(1.5)
        self.assertTrue(client.ended and world.server.last.ended)
        self.assertEqual((len(world.buckets.asked), world.in_flight), (1, [0]))

    def test_still_there(self) -> None:
        """One that has only ended its direction gets the responses to all its requests."""
        world = World(half_close_timeout=1.0)
        client = world.client()
        count = self.MUCH // 100
        client.send(request() * count)
        self.assertFalse(client.transport.reading)
        client.finish()
        for _ in range(count):
            world.server.last.send(response(b"a"))
        self.assertEqual(len(client.responses()), count)
        self.assertTrue(client.ended)
        self.assertEqual(world.in_flight, [0])

    def test_long_response(self) -> None:
        """A response that has begun goes on, however long it takes."""
        world = World(half_close_timeout=1.0)
        client = world.client()
        client.send(request() + request("GET", "/later") * (self.MUCH // 100))
        world.server.last.send(response(b"x" * 100)[:-50])
        client.finish()
        world.wait(10.0)
        self.assertFalse(client.ended)
