"""One connection, many requests: in order, one at a time, and for as long as both sides want."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import KEY
from tests.proxy.world import World, request, response


class KeepAliveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_both_connections_are_reused(self) -> None:
        """Requests one after the other use one connection on each side."""
        client = self.world.client()
        for n in range(3):
            client.send(request("GET", f"/{n}"))
            self.assertTrue(self.world.server.last.read().startswith(b"GET /%d " % n))
            self.world.server.last.send(response(b"%d" % n))
            answer = client.response()
            self.assertEqual((answer.body, answer.closes), (b"%d" % n, False))
        self.assertEqual(len(self.world.server.connections), 1)

    def test_clients_share_servers_connections(self) -> None:
        """A connection to a server that one client's request has left is used for another client's."""
        for _ in range(2):
            client = self.world.client()
            client.send(request())
            self.world.server.last.send(response(b"hello"))
            self.assertEqual(client.response().body, b"hello")
        self.assertEqual(len(self.world.server.connections), 1)

    def test_close(self) -> None:
        """After `Connection: close` the answer says so too, and the connection ends with it."""
        client, upstream = self.world.asked(request("GET", "/", b"Connection: close"))
        self.assertNotIn(b"Connection:", upstream.received)
        upstream.send(response(b"hello"))
        answer = client.response()
        self.assertEqual((answer.body, answer.closes, client.ended), (b"hello", True, True))
        self.assertFalse(upstream.ended)

    def test_nothing_after_close(self) -> None:
        """A request that follows one with `Connection: close` is not served."""
        client = self.world.client()
        client.send(request("GET", "/1", b"Connection: close") + request("GET", "/2"))
        self.world.server.last.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")
        self.assertEqual(len(self.world.buckets.asked), 1)
        self.assertNotIn(b"/2", self.world.server.last.received)

    def test_server_closes(self) -> None:
        """A server's `Connection: close` ends its connection, and the client's goes on."""
        client, upstream = self.world.asked()
        upstream.send(response(b"one", b"Connection: close"))
        self.assertTrue(upstream.ended)
        answer = client.response()
        self.assertEqual((answer.body, answer.closes, client.ended), (b"one", False, False))
        client.send(request())
        self.world.server.last.send(response(b"two"))
        self.assertEqual(client.response().body, b"two")
        self.assertEqual(len(self.world.server.connections), 2)

    def test_number_of_requests(self) -> None:
        """The last request that a connection may carry is answered with `Connection: close`."""
        world = World(keepalive_requests=2)
        client = world.client()
        for closes in (False, True):
            client.send(request())
            world.server.last.send(response())
            self.assertEqual(client.response().closes, closes)
            self.assertEqual(client.ended, closes)


class Http10Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_closes(self) -> None:
        """An HTTP/1.0 request is answered and the connection ended, though its server hears HTTP/1.1."""
        client, upstream = self.world.asked(request(version="1.0"))
        self.assertTrue(upstream.received.startswith(b"GET / HTTP/1.1\r\n"))
        upstream.send(response(b"hello"))
        answer = client.response()
        self.assertEqual((answer.body, answer.closes, client.ended), (b"hello", True, True))

    def test_keep_alive(self) -> None:
        """An HTTP/1.0 client that asks for it keeps its connection, and is told so each time."""
        client = self.world.client()
        for _ in range(2):
            client.send(request("GET", "/", b"Connection: keep-alive", version="1.0"))
            self.world.server.last.send(response(b"hello"))
            self.assertEqual(client.response().field("connection"), "keep-alive")
        self.assertFalse(client.ended)

    def test_unknown_length(self) -> None:
        """To HTTP/1.0 a body of unknown length goes unchunked, and ends with the connection, kept alive or not."""
        client, upstream = self.world.asked(request("GET", "/", b"Connection: keep-alive", version="1.0"))
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
        answer = client.response()
        self.assertEqual((answer.body, answer.closes, client.ended), (b"abcde", True, True))
        self.assertIsNone(answer.field("transfer-encoding"))

    def test_until_close(self) -> None:
        """A body that its server ends with the connection ends with the connection of an HTTP/1.0 client, in order."""
        client, upstream = self.world.asked(request(version="1.0"))
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def")
        self.assertFalse(client.ended)
        upstream.finish()
        self.assertEqual((client.response().body, client.ended, client.transport.aborted), (b"abcdef", True, False))

    def test_server_of_http10(self) -> None:
        """An HTTP/1.0 server without keep-alive is not sent a second request on its connection."""
        client, upstream = self.world.asked()
        upstream.send(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc")
        self.assertEqual(client.response().body, b"abc")
        self.assertTrue(upstream.ended)
        self.assertFalse(client.ended)


class PipeliningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_in_order(self) -> None:
        """Requests sent at once are forwarded one by one, each after the response before it, and answered in order."""
        client = self.world.client()
        client.send(b"".join(request("GET", f"/{n}") for n in range(4)))
        upstream = self.world.server.last
        for n in range(4):
            forwarded = upstream.read()
            self.assertEqual(forwarded.count(b" HTTP/1.1\r\n"), 1)
            self.assertTrue(forwarded.startswith(b"GET /%d " % n))
            self.assertEqual(len(self.world.buckets.asked), n + 1)
            upstream.send(response(b"%d" % n))
        self.assertEqual([answer.body for answer in client.responses()], [b"0", b"1", b"2", b"3"])

    def test_waits_for_the_whole_response(self) -> None:
        """A second request is not forwarded while the first one's response is still coming."""
        client = self.world.client()
        client.send(request("GET", "/1"), request("GET", "/2"))
        upstream = self.world.server.last
        upstream.send(response(b"abcdef")[:-1])
        self.assertEqual((len(self.world.server.connections), upstream.received.count(b"GET /")), (1, 1))
        upstream.send(b"f")
        self.assertEqual(upstream.received.count(b"GET /"), 2)

    def test_after_bodies(self) -> None:
        """The request after a body, of either framing, is found where the body ends."""
        client = self.world.client()
        chunked = request("POST", "/2", b"Transfer-Encoding: chunked") + b"3\r\nGET\r\n0\r\n\r\n"
        client.send(request("POST", "/1", body=b"GET /x") + chunked + request("GET", "/3"))
        for method, body in ((b"POST /1", b"GET /x"), (b"POST /2", b"3\r\nGET\r\n0\r\n\r\n"), (b"GET /3", b"")):
            forwarded = self.world.server.last.read()
            self.assertTrue(forwarded.startswith(method))
            self.assertEqual(forwarded.partition(b"\r\n\r\n")[2], body)
            self.world.server.last.send(response())
        self.assertEqual(len(client.responses()), 3)

    def test_refused_among_served(self) -> None:
        """Answers that are made here keep their place among those of servers."""
        client = self.world.client()
        keyless = b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n"
        client.send(request() + keyless + keyless + request())
        self.world.server.last.send(response())
        self.world.server.last.send(response())
        self.assertEqual([answer.status for answer in client.responses()], [200, 401, 401, 200])

    def test_thousands_refused(self) -> None:
        """Thousands of requests that are answered here at once do not go deeper and deeper."""
        client = World(max_refusals=0).client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
        self.assertEqual([answer.status for answer in client.responses()], [401] * 2000)

    def test_broken_one(self) -> None:
        """A malformed request ends the connection, and only after the answers to those before it."""
        client = self.world.client()
        client.send(request() + b"GET / HTTP/1.1\nHost: a\r\n\r\n" + request())
        self.assertEqual(client.received, b"")
        self.world.server.last.send(response())
        first, second = client.responses()
        self.assertEqual((first.status, second.status, second.closes), (200, 400, True))
        self.assertEqual(len(self.world.buckets.asked), 1)

    def test_broken_after_head(self) -> None:
        """The answer to a malformed request has a body, also when the request before it was HEAD."""
        client, upstream = self.world.asked(request("HEAD"))
        upstream.send(response())
        client.send(b"nonsense\r\n\r\n")
        _, refusal = client.responses("HEAD", "GET")
        self.assertEqual(refusal.status, 400)
        self.assertIn("request line", refusal.detail)

    def test_backlog_is_bounded(self) -> None:
        """A client that sends on and on without waiting is read no further than a bounded backlog."""
        client = self.world.client()
        big = request("GET", "/", b"X-Long: " + b"x" * 30_000)
        client.send(*[big] * 20)
        self.assertFalse(client.transport.reading)
        self.assertGreater(client.transport.unread, 20 * len(big) - 65_536 * 2 - len(big))
        answers = 0
        while answers < 20:
            self.world.server.last.send(response())
            answers += len(client.responses())
        self.assertEqual((client.transport.unread, client.transport.reading), (0, True))


class HalfCloseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_answer_still_comes(self) -> None:
        """A client that has ended its direction still gets its answer, and then the end."""
        client, upstream = self.world.asked()
        client.finish()
        self.assertFalse(upstream.ended)
        upstream.send(response(b"hel")[:-1])
        upstream.send(b"l")
        answer = client.response()
        self.assertEqual((answer.body, answer.closes, client.ended), (b"hel", True, True))

    def test_pipelined_answers_still_come(self) -> None:
        """All requests that were whole before the client ended its direction are answered."""
        client = self.world.client()
        client.send(request("GET", "/1") + request("GET", "/2") + request("GET", "/3"))
        client.finish()
        for _ in range(3):
            self.world.server.last.send(response(b"hello"))
        answers = client.responses()
        self.assertEqual([answer.closes for answer in answers], [False, False, True])
        self.assertTrue(client.ended)

    def test_silent_server(self) -> None:
        """A client that has ended its direction and gets nothing for a while has left, and its request is given up."""
        world = World(counts_in_flight=True, half_close_timeout=1.0)
        client, upstream = world.asked()
        client.finish()
        world.wait(0.75)
        self.assertFalse(upstream.ended)
        world.wait(1.0)
        self.assertEqual((upstream.ended, client.ended, world.buckets.unreleased), (True, True, 0))

    def test_slow_response(self) -> None:
        """A response that has begun in time goes on to its end, however long it takes."""
        world = World(half_close_timeout=1.0)
        client, upstream = world.asked()
        client.finish()
        upstream.send(response(b"hello")[:-2])
        world.wait(5.0)
        upstream.send(b"lo")
        self.assertEqual((client.response().body, client.ended), (b"hello", True))

    def test_pipelined_and_silent(self) -> None:
        """Each of the requests behind has its own time."""
        world = World(half_close_timeout=1.0)
        client = world.client()
        client.send(request("GET", "/1") + request("GET", "/2"))
        client.finish()
        world.wait(0.75)
        world.server.last.send(response())
        world.wait(0.75)
        self.assertFalse(client.ended)
        world.wait(1.0)
        self.assertEqual((len(client.responses()), client.ended), (1, True))

    def test_amid_the_response(self) -> None:
        """A client that ends its direction amid its answer gets the rest of it, and then the end."""
        client, upstream = self.world.asked()
        upstream.send(response(b"hello")[:-2])
        client.finish()
        self.assertFalse(client.ended or upstream.ended)
        upstream.send(b"lo")
        self.assertEqual((client.response().body, client.ended), (b"hello", True))

    def test_while_the_bucket_is_asked(self) -> None:
        """A client may end its direction before the bucket has answered."""
        self.world.buckets.later = True
        client = self.world.client()
        client.send(request())
        client.finish()
        self.world.buckets.answer_now()
        self.world.settle()
        self.world.server.last.send(response(b"hello"))
        self.assertEqual((client.response().body, client.ended), (b"hello", True))

    def test_idle(self) -> None:
        """A client without a request that ends its direction is let go at once, and nothing is said."""
        client, upstream = self.world.asked()
        upstream.send(response())
        client.response()
        client.finish()
        self.assertEqual((client.read(), client.ended, upstream.ended), (b"", True, False))

    def test_amid_a_head(self) -> None:
        """A client that ends amid a head is let go, and no bucket is asked."""
        client = self.world.client()
        client.send(b"GET / HTTP/1.1\r\nAuthorization: " + KEY)
        client.finish()
        self.assertEqual((client.received, client.ended, self.world.buckets.asked), (b"", True, []))

    def test_amid_a_body(self) -> None:
        """A request whose body will never be whole is given up on both sides."""
        client, upstream = self.world.asked(request("POST", "/", b"Content-Length: 10") + b"hello")
        client.finish()
        self.assertEqual((client.received, client.ended, upstream.ended), (b"", True, True))
        self.assertEqual(self.world.in_flight, [0])

    def test_partial_head_behind_an_answer(self) -> None:
        """The beginning of a head behind the last whole request holds nothing up once the client has ended."""
        client = self.world.client()
        client.send(request("GET", "/1") + b"GET /2 HTTP/1.1\r\n")
        client.finish()
        self.world.server.last.send(response())
        self.assertEqual(client.response().status, 200)
        self.assertTrue(client.ended)
