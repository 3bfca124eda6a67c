"""Requests for the door, on the connections of the proxied traffic."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.proxy.scripted import KEY, DoorCall
from tests.proxy.world import CLIENT, World, request, response
from twisted_lb.interfaces import IReply


class VisitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.door = self.world.door

    def test_between_proxied_ones(self) -> None:
        """A client may mix requests for the door and for servers on one connection, pipelined or not, in order."""
        client = self.world.client()
        client.send(request("GET", "/door/1") + request("GET", "/2") + request("GET", "/door/3"))
        self.assertEqual(len(self.door.calls), 1)
        self.world.server.last.send(response(b"server"))
        client.send(request("GET", "/4"))
        self.world.server.last.send(response(b"server"))
        answers = client.responses()
        self.assertEqual([answer.body for answer in answers], [b"door", b"server", b"door", b"server"])
        self.assertFalse(client.ended or any(answer.closes for answer in answers))

    def test_later_answer(self) -> None:
        """The request behind one for the door waits until the door has answered."""
        self.door.during = None
        client = self.world.client()
        client.send(request("GET", "/door") + request("GET", "/2"))
        self.assertEqual((client.received, self.world.dialled), (b"", []))
        [call] = self.door.calls
        call.reply.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        self.assertTrue(client.received.endswith(b"\r\n\r\na"))
        self.assertEqual(self.world.dialled, [])
        call.reply.write(b"b")
        call.reply.finished(False)
        self.world.settle()
        self.assertEqual(client.response().body, b"ab")
        self.world.server.last.send(response(b"server"))
        self.assertEqual(client.response().body, b"server")

    def test_free(self) -> None:
        """A request for the door asks no bucket and no server, with a key or without."""
        client = self.world.client()
        client.send(b"GET /door HTTP/1.1\r\nHost: a\r\n\r\n" + request("GET", "/door?query"))
        self.assertEqual(len(client.responses()), 2)
        self.assertEqual((self.world.buckets.asked, self.world.dialled), ([], []))

    def test_whole_path_only(self) -> None:
        """What is the door's is decided by the path, without the query."""
        client = self.world.client()
        client.send(request("GET", "/other?/door"))
        self.assertEqual((self.door.calls, len(self.world.dialled)), ([], 1))

    def test_head_and_body(self) -> None:
        """The door gets a whole request: the fields that are its business, and a body framed by its length."""
        for how in (
            request("POST", "/door", b"X: 1", b"Content-Type: text/plain", body=b"hello"),
            request("POST", "/door", b"X: 1", b"Content-Type: text/plain", b"Transfer-Encoding: chunked")
            + b"2\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer-Field: 1\r\n\r\n",
        ):
            for size in (1, 1000):
                client = self.world.client()
                client.send(*(how[at : at + size] for at in range(0, len(how), size)))
                call = self.door.calls[-1]
                self.assertEqual((call.body, call.peer), (b"hello", CLIENT))
                self.assertEqual(
                    call.head,
                    b"POST /door HTTP/1.1\r\nHost: api.example\r\nX: 1\r\nauthorization: "
                    + KEY
                    + b"\r\ncontent-type: text/plain\r\nContent-Length: 5\r\n\r\n",
                )
                self.assertEqual(client.response().body, b"door")
        self.assertEqual(len(self.door.calls), 4)
        verifyObject(IReply, self.door.calls[0].reply)

    def test_body_too_large(self) -> None:
        """A body that is larger than the door takes is 413, declared or not, and never reaches the door."""
        for data in (
            request("POST", "/door", b"Content-Length: 2000") + b"x" * 1500,
            request("POST", "/door", b"Transfer-Encoding: chunked") + b"5dc\r\n" + b"x" * 1500 + b"\r\n",
        ):
            client = self.world.client()
            client.send(data)
            answer = client.response()
            self.assertEqual((answer.status, answer.closes), (413, True))
            self.assertIn("1000 bytes", answer.detail)
        self.assertEqual(self.door.calls, [])

    def test_body_announced_too_large(self) -> None:
        """A body that is announced too large is refused unread, and 100 Continue is not sent."""
        client = self.world.client()
        client.send(request("POST", "/door", b"Content-Length: 1001", b"Expect: 100-continue"))
        answer = client.response()
        self.assertEqual((answer.status, answer.closes, self.door.calls), (413, True, []))

    def test_chunked_body_too_large_but_whole(self) -> None:
        """After a chunked body that is too large and whole, the connection can go on."""
        client = self.world.client()
        body = b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"
        client.send(request("POST", "/door", b"Transfer-Encoding: chunked") + body + request("GET", "/door"))
        self.assertEqual([answer.status for answer in client.responses()], [413, 200])

    def test_last_stop(self) -> None:
        """OPTIONS with Max-Forwards: 0 is answered here, needs no key, and the connection goes on."""
        client = self.world.client()
        client.send(request("OPTIONS", "/", b"Max-Forwards: 0") * 2)
        self.assertEqual([(one.status, one.body, one.closes) for one in client.responses()], [(200, b"", False)] * 2)
        self.assertEqual(self.world.dialled, [])

    def test_largest_body(self) -> None:
        """A body as large as the door takes reaches it."""
        client = self.world.client()
        client.send(request("POST", "/door", body=b"x" * 1000))
        self.assertEqual((client.response().status, len(self.door.calls[0].body)), (200, 1000))

    def test_malformed_body(self) -> None:
        """A malformed body is 400 and never reaches the door."""
        client = self.world.client()
        client.send(request("POST", "/door", b"Transfer-Encoding: chunked") + b"2\r\nhe\r\n", b"nonsense\r\n")
        self.assertEqual((client.response().status, self.door.calls), (400, []))

    def test_close(self) -> None:
        """A client that closes after its request is let go after the door's answer, and the door knows."""
        client = self.world.client()
        client.send(request("GET", "/door", b"Connection: close"))
        self.assertIn(b"\r\nConnection: close\r\n", self.door.calls[0].head)
        self.assertEqual((client.response().body, client.ended), (b"door", True))

    def test_door_closes(self) -> None:
        """A door whose response the connection cannot outlive has its way."""
        self.door.during = lambda call: call.answer(close=True)
        client = self.world.client()
        client.send(request("GET", "/door") + request("GET", "/2"))
        client.finish()
        self.assertEqual((client.response().body, client.ended, self.world.dialled), (b"door", True, []))

    def test_http10(self) -> None:
        """The door hears from an HTTP/1.0 client whether its connection goes on."""
        client = self.world.client()
        client.send(request("GET", "/door", b"Connection: keep-alive", version="1.0"))
        self.assertIn(b"\r\nConnection: keep-alive\r\n", self.door.calls[0].head)
        self.assertFalse(client.ended)
        client.send(request("GET", "/door", version="1.0"))
        self.assertIn(b"\r\nConnection: close\r\n", self.door.calls[1].head)
        self.assertTrue(client.ended)

    def test_half_closed_client(self) -> None:
        """A client that has ended its direction still gets the door's answer."""
        self.door.during = None
        client = self.world.client()
        client.send(request("GET", "/door"))
        client.finish()
        self.door.calls[0].answer()
        self.world.settle()
        self.assertEqual((client.response().body, client.ended), (b"door", True))

    def test_client_that_does_not_read(self) -> None:
        """A client that takes nothing of the door's answer is cut, and the door is told."""
        self.door.during = None
        client = self.world.client()
        client.send(request("GET", "/door"))
        client.stop_taking()
        self.door.calls[0].reply.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
        self.world.wait(31)
        self.assertEqual((client.ended, self.door.calls[0].abandoned), (True, 1))

    def test_slow_body(self) -> None:
        """A client that stops amid its body for the door is 408, and the door never hears of it."""
        client = self.world.client()
        client.send(request("POST", "/door", b"Content-Length: 10") + b"x")
        self.world.wait(31)
        self.assertEqual((client.response().status, self.door.calls), (408, []))

    def test_nothing_after_the_end(self) -> None:
        """What a door says after its answer is finished reaches nobody."""
        client = self.world.client()
        client.send(request("GET", "/door"))
        client.read()
        [call] = self.door.calls
        DoorCall.answer(call, b"again")
        self.world.settle()
        self.assertEqual((client.read(), client.ended), (b"", False))
