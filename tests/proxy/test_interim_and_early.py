"""Interim responses, expectations, and responses before the request is complete."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import REFUSED
from tests.proxy.world import World, request, response

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
EXPECT = b"Expect: 100-continue"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class InterimTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_passed_on(self) -> None:
        """Interim responses are passed on, each before the final one, together or apart."""
        for join in (True, False):
            client, upstream = self.world.asked()
            parts = [HINTS, b"HTTP/1.1 102 Processing\r\n\r\n", response(b"hello")]
            upstream.send(*([b"".join(parts)] if join else parts))
            hints, processing, final = client.responses()
            self.assertEqual((hints.status, hints.field("link"), processing.status), (103, "</a.css>", 102))
            self.assertEqual((final.status, final.body), (200, b"hello"))
            self.assertIsNone(hints.field("x-ratelimit-limit"))

    def test_not_to_http10(self) -> None:
        """An HTTP/1.0 client gets the final response only."""
        client, upstream = self.world.asked(request(version="1.0"))
        upstream.send(HINTS + response(b"hello"))
        self.assertEqual(client.response().body, b"hello")

    def test_other_protocol(self) -> None:
        """A server that switches protocols, which nobody asked for, is 502, and its connection ends."""
        client, upstream = self.world.asked(request("GET", "/", b"Upgrade: websocket"))
        self.assertNotIn(b"pgrade", upstream.received)
        upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        self.assertEqual((client.response().status, upstream.ended), (502, True))

    def test_without_end(self) -> None:
        """A server that says 1xx again and again is 502 in the end."""
        client, upstream = self.world.asked(request())
        upstream.send(HINTS * 33)
        *interims, final = client.responses()
        self.assertEqual(({answer.status for answer in interims}, final.status), ({103}, 502))
        self.assertEqual(len(self.world.buckets.refunded), 1)

    def test_are_progress(self) -> None:
        """A server that speaks within its time has its whole time again."""
        world = World(upstream_timeout=10.0)
        client, upstream = world.asked()
        for _ in range(5):
            world.wait(9)
            upstream.send(HINTS)
        upstream.send(response())
        self.assertEqual(client.responses()[-1].status, 200)


class ExpectTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.head = request("POST", "/", EXPECT, b"Content-Length: 5")

    def test_end_to_end(self) -> None:
        """The expectation goes to the server, its 100 to the client, and then the body to the server."""
        client, upstream = self.world.asked(self.head)
        self.assertIn(b"\r\n" + EXPECT + b"\r\n", upstream.received)
        self.assertEqual(client.received, b"")
        upstream.send(CONTINUE)
        self.assertEqual(client.read(), CONTINUE)
        client.send(b"hello")
        self.assertTrue(upstream.received.endswith(b"\r\n\r\nhello"))
        upstream.send(response(b"done"))
        answer = client.response()
        self.assertEqual((answer.body, answer.closes, upstream.ended), (b"done", False, False))

    def test_refused_by_the_server(self) -> None:
        """A server that refuses in place of its 100 is heard, and both connections end: the body may still come."""
        client, upstream = self.world.asked(self.head)
        upstream.send(response(b"no", status=b"413 Content Too Large"))
        answer = client.response()
        self.assertEqual((answer.status, answer.closes), (413, True))
        self.assertTrue(upstream.ended)
        self.assertTrue(client.transport.half_closed)

    def test_refused_here(self) -> None:
        """Without a token the client is told so before it sends its body."""
        self.world.buckets.answer = REFUSED
        client = self.world.client()
        client.send(self.head)
        answer = client.response()
        self.assertEqual((answer.status, answer.closes), (429, True))

    def test_other_expectation(self) -> None:
        """Any other expectation is 417, and costs no token."""
        client = self.world.client()
        client.send(request("POST", "/", b"Expect: a-wonder", body=b"hello"))
        self.assertEqual(client.response().status, 417)
        self.assertEqual(self.world.buckets.asked, [])

    def test_in_http10(self) -> None:
        """An expectation in HTTP/1.0 means nothing: it is neither refused nor passed on."""
        for expectation in (EXPECT, b"Expect: a-wonder"):
            _, upstream = self.world.asked(request("POST", "/", expectation, body=b"hello", version="1.0"))
            self.assertNotIn(b"Expect", upstream.received)

    def test_server_that_says_nothing(self) -> None:
        """While the client waits for the server's word it is the server that is late: 504, and its failure."""
        world = World(upstream_timeout=5.0, body_timeout=2.0)
        client, _ = world.asked(request("POST", "/", EXPECT, b"Content-Length: 5"))
        world.wait(4.5)
        self.assertEqual(client.received, b"")
        world.wait(1)
        self.assertEqual(client.response().status, 504)
        self.assertEqual(world.seen, [("s1", 0, "The server did not answer in time.")])
        self.assertEqual(len(world.buckets.refunded), 1)

    def test_client_that_says_nothing_then(self) -> None:
        """After the server's word it is the client's turn, with all its time: 408, and nobody's failure."""
        world = World(upstream_timeout=5.0, body_timeout=2.0)
        client, upstream = world.asked(request("POST", "/", EXPECT, b"Content-Length: 5"))
        world.wait(4)
        upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.read()
        world.wait(1.5)
        self.assertEqual(client.received.count(b"HTTP/1.1"), 1)
        world.wait(1)
        self.assertEqual((client.response().status, world.seen), (408, []))

    def test_client_that_does_not_wait(self) -> None:
        """A client that begins to send all the same is the one that is waited for."""
        world = World(upstream_timeout=5.0, body_timeout=2.0)
        client, upstream = world.asked(request("POST", "/", EXPECT, b"Content-Length: 5"))
        world.wait(1)
        client.send(b"h")
        world.wait(2.5)
        self.assertEqual((client.response().status, world.seen), (408, []))

    def test_at_the_door(self) -> None:
        """The door's requests are told to go on, once, and an HTTP/1.0 one is not."""
        client = self.world.client()
        client.send(request("POST", "/door", EXPECT, b"Content-Length: 5"))
        self.assertEqual(client.read(), CONTINUE)
        client.send(b"hello")
        self.assertEqual((client.response().body, self.world.door.calls[0].body), (b"door", b"hello"))
        client = self.world.client()
        client.send(request("POST", "/door", EXPECT, b"Content-Length: 5", version="1.0"))
        self.assertEqual(client.read(), b"")


class EarlyResponseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.client, self.upstream = self.world.asked(request("POST", "/", b"Content-Length: 100") + b"beginning")

    def test_whole(self) -> None:
        """A response before the request is whole is passed on; neither connection is used again."""
        self.upstream.send(response(b"enough", status=b"403 Forbidden"))
        answer = self.client.response()
        self.assertEqual((answer.status, answer.body, answer.closes), (403, b"enough", True))
        self.assertTrue(self.upstream.ended)
        self.assertEqual((self.world.in_flight, self.world.buckets.refunded), ([0], []))

    def test_lingering(self) -> None:
        """The rest of the request is read and dropped, for a while, so that the client can read its answer."""
        self.upstream.send(response(b"enough"))
        self.assertTrue(self.client.transport.half_closed)
        self.client.send(b"x" * 91, request("GET", "/next"))
        self.assertEqual(len(self.world.buckets.asked), 1)
        self.assertFalse(self.client.ended)
        self.world.wait(6)
        self.assertTrue(self.client.ended)

    def test_lingering_ends_with_the_client(self) -> None:
        """Nothing is waited for once the client has ended its direction too."""
        self.upstream.send(response(b"enough"))
        self.client.finish()
        self.assertTrue(self.client.ended and not self.client.transport.aborted)

    def test_requests_behind_the_last_one(self) -> None:
        """A client that sends more than its connection may carry is not reset under its last response."""
        client, upstream = self.world.asked(request("GET", "/", b"Connection: close") + request("GET", "/2"))
        upstream.send(response(b"last"))
        client.send(request("GET", "/3"))
        self.assertEqual(client.response().body, b"last")
        self.assertTrue(client.transport.half_closed and not client.ended)
        client.finish()
        self.assertTrue(client.ended and not client.transport.aborted)

    def test_request_goes_on(self) -> None:
        """While an early response is coming, the request goes on to the server, and the end is orderly."""
        self.upstream.send(response(b"0123456789")[:-5])
        self.upstream.read()
        self.client.send(b"y" * 91)
        self.assertEqual(self.upstream.read(), b"y" * 91)
        self.upstream.send(b"56789")
        answer = self.client.response()
        self.assertEqual((answer.body, answer.closes), (b"0123456789", True))
        self.assertTrue(self.client.ended and not self.client.transport.aborted)

    def test_failure_amid_the_request(self) -> None:
        """A server that closes before the request is whole is 502, and the client's connection ends in order."""
        self.upstream.finish()
        answer = self.client.response()
        self.assertEqual((answer.status, answer.closes), (502, True))
        self.client.finish()
        self.assertTrue(self.client.ended)
        self.assertEqual(len(self.world.buckets.refunded), 1)

    def test_body_that_turns_out_malformed(self) -> None:
        """A request that turns out malformed while its response is coming is cut off: two answers would be one."""
        client, upstream = self.world.asked(request("POST", "/", b"Transfer-Encoding: chunked") + b"1\r\na\r\n")
        upstream.send(response(b"0123456789")[:-5])
        client.send(b"zz\r\n")
        self.assertTrue(client.ended and upstream.ended)
        self.assertNotIn(b" 400 ", client.received)
