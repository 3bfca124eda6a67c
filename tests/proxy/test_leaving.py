"""Clients that leave: whatever was done for them is let go, and counted out."""

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
        self.assertEqual(len(self.world.factory.doorstep.connections), 0)
        self.assertEqual(self.world.buckets.given_back, [])

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
        self.assertEqual(world.buckets.given_back, [])

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
