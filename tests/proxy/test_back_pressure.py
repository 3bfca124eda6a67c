"""A slow reader on one side stops the sender on the other, and only as long as it is slow."""

from __future__ import annotations

from itertools import product

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import REFUSED, ServerSide
from tests.proxy.transports import BUFFER_BYTES
from tests.proxy.world import Client, World, request, response

MORE_THAN_A_BUFFER = BUFFER_BYTES + 1
WITHOUT_KEY = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


class ResponseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.client, self.upstream = self.world.asked()
        self.client.stop_taking()

    def test_slow_client_stops_the_server(self) -> None:
        """A client that takes nothing stops the reading from its server after a buffer, and starts it again."""
        body = b"x" * 1_000_000
        self.upstream.send(response(body))
        self.assertFalse(self.upstream.transport.reading)
        self.assertTrue(self.client.transport.reading)
        self.assertGreater(self.upstream.transport.unread, 800_000)
        while self.upstream.transport.unread:
            self.client.take()
            self.client.stop_taking()
        self.client.take()
        self.assertTrue(self.upstream.transport.reading)
        self.assertEqual(self.client.response().body, body)

    def test_released_at_the_end(self) -> None:
        """A server's connection is read again when its response is done, though the client has taken nothing."""
        self.upstream.send(response(b"x" * MORE_THAN_A_BUFFER)[:-1])
        self.assertFalse(self.upstream.transport.reading)
        self.client.take()
        self.client.stop_taking()
        self.upstream.send(b"x")
        self.assertTrue(self.upstream.transport.reading)
        other, same = self.world.asked(request("GET", "/other"))
        self.assertIs(same, self.upstream)
        same.send(response(b"hello"))
        self.assertEqual(other.response().body, b"hello")

    def test_full_with_the_last_piece(self) -> None:
        """A response whose last piece fills the client's buffer leaves its server's connection readable."""
        self.upstream.send(response(b"x" * 60_000))
        self.client.send(request("GET", "/2"))
        self.upstream.send(response(b"y" * 60_000))
        self.assertTrue(self.upstream.transport.reading and not self.upstream.ended)
        self.client.take()
        self.assertEqual(len(self.client.responses()), 2)

    def test_next_request_waits_too(self) -> None:
        """A client's next request goes to no server until the client has taken its answer to the one before."""
        self.upstream.send(response(b"x" * 70_000))
        self.upstream.read()
        self.client.send(request("GET", "/2"))
        self.assertEqual(self.upstream.read(), b"")
        self.client.take()
        self.assertTrue(self.upstream.read().startswith(b"GET /2 "))
        self.upstream.send(response(b"second"))
        self.assertEqual([len(answer.body) for answer in self.client.responses()], [70_000, 6])

    def test_answers_of_our_own_wait_too(self) -> None:
        """A client that sends what is refused and takes no answer is answered a buffer's worth, and then cut off."""
        world = World(send_timeout=5.0)
        client = world.client()
        client.stop_taking()
        for _ in range(100):
            client.send(WITHOUT_KEY * 50)
        self.assertLess(len(client.transport.buffer), 2 * MORE_THAN_A_BUFFER)
        self.assertFalse(client.transport.reading)
        world.wait(6)
        self.assertTrue(client.ended)

    def test_slow_client(self) -> None:
        """A client that reads slowly, but steadily, is not cut, nor at the end of its connection; one that stops is."""
        for fields in ((), (b"Connection: close",)):
            world = World(send_timeout=5.0, upstream_timeout=60.0)
            client, upstream = world.asked(request("GET", "/", *fields))
            client.stop_taking()
            upstream.send(response(b"x" * 100_000))
            for _ in range(20):
                world.wait(4)
                client.transport.take_some(500)
            self.assertFalse(client.ended)
            world.wait(3)
            client.transport.take_some(100)  # less than 100 bytes a second
            world.wait(8)
            self.assertTrue(client.ended)
            self.assertEqual(world.in_flight, [0])

    def test_all_is_answered_in_the_end(self) -> None:
        """Requests that wait for the client to take earlier answers are answered when it does, also its last ones."""
        world = World(max_refusals=0)
        client = world.client()
        client.stop_taking()
        client.send(WITHOUT_KEY * 1000)
        client.finish()
        client.take()
        self.assertEqual([answer.status for answer in client.responses()], [401] * 1000)
        self.assertTrue(client.ended)

    def test_client_leaves(self) -> None:
        """A client that leaves while its server is stopped does not leave the connection behind."""
        self.upstream.send(response(b"x" * 1_000_000))
        self.client.leave()
        self.assertTrue(self.upstream.ended)
        self.assertEqual(self.world.in_flight, [0])

    def test_server_is_not_blamed(self) -> None:
        """A server that is stopped for the client's sake is not timed out."""
        world = World(upstream_timeout=5.0, send_timeout=60.0)
        client, upstream = world.asked()
        client.stop_taking()
        upstream.send(response(b"x" * 100_000))
        world.wait(30)
        client.take()
        self.assertEqual(len(client.response().body), 100_000)


class CutTests(SynchronousTestCase):
    """Servers that end a response which is not whole yet, while the client takes nothing of it, or later."""

    def setUp(self) -> None:
        self.world = World(upstream_timeout=5.0, send_timeout=60.0)

    def begun(self, head: bytes = b"Content-Length: 300000") -> tuple[Client, ServerSide]:
        """A response of which more has come than the client takes."""
        client, upstream = self.world.asked()
        client.stop_taking()
        content = b"x" * 200_000
        data = b"%x\r\n%b" % (250_000, content) if b"chunked" in head else content
        upstream.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (head, data))
        self.assertFalse(upstream.transport.reading)
        return client, upstream

    def assert_blamed(self, times: int) -> None:
        self.assertEqual([status for _, status, _ in self.world.seen].count(0), times, self.world.seen)
        self.assertEqual(self.world.backends[0].failures, times)
        self.assertEqual(self.world.in_flight, [0])

    def test_the_clients_doing(self) -> None:
        """A server that gives up on a client that takes nothing is not blamed, however it ends and is noticed."""
        framings = [b"Content-Length: 300000", b"Transfer-Encoding: chunked", b"Connection: close"]
        for framing, end, seen_at_once in product(framings, ("finish", "reset"), (True, False)):
            if end == "finish" and framing == b"Connection: close":
                # It looks like the end of the response.
                continue
            self.setUp()
            client, upstream = self.begun(framing)
            self.world.wait(1)
            with capturedLogs() as log:
                if end == "finish":
                    upstream.finish()
                if seen_at_once:
                    upstream.reset()
                client.take()
                if not seen_at_once:
                    self.assertEqual(client.ended, end == "finish")
                    upstream.reset()
            self.assertTrue(client.ended)
            self.assert_blamed(0)
            [event] = [event for event in log if event.get("server") == "s1"]
            self.assertIn("the client was too slow to take the response", event["cause"])

    def test_a_client_that_reads(self) -> None:
        """A server that ends the response of a client that takes all of it is blamed, also when a buffer was full."""
        for full in (False, True):
            self.setUp()
            client, upstream = self.begun()
            client.take()
            if full:
                client.stop_taking()
                upstream.send(b"x" * 70_000)
                client.take()
            upstream.reset()
            self.assert_blamed(1)

    def test_long_ago(self) -> None:
        """A client that was slow once and has read for the server's whole time since is no excuse."""
        client, upstream = self.begun()
        self.world.wait(1)
        client.take()
        for _ in range(3):
            self.world.wait(2)
            upstream.send(b"x")
        upstream.reset()
        self.assert_blamed(1)

    def test_the_next_request(self) -> None:
        """What the client did to one response is no excuse in the next one on that connection."""
        client, upstream = self.begun()
        self.world.wait(1)
        client.take()
        upstream.send(b"x" * 100_000)
        client.send(request("GET", "/2"))
        upstream.send(response(b"whole")[:-1])
        upstream.reset()
        self.assert_blamed(1)

    def test_time_counts_from_the_reading(self) -> None:
        """A server has its whole time from when it is read again, and is blamed when it says nothing in it."""
        client, upstream = self.world.asked()
        client.stop_taking()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"
        upstream.send(head + b"x" * (BUFFER_BYTES - len(head)))
        self.assertEqual((upstream.transport.reading, upstream.transport.unread), (False, 0))
        self.world.wait(4.75)
        client.take()
        self.world.wait(4.5)
        self.assertFalse(client.ended)
        self.world.wait(1)
        self.assertTrue(client.ended)
        self.assert_blamed(1)

    def test_client_that_leaves(self) -> None:
        """A client that takes nothing and leaves, before its server gives up or after that, leaves nobody to blame."""
        for first in ("server", "client"):
            self.setUp()
            client, upstream = self.begun()
            self.world.wait(1)
            if first == "server":
                upstream.finish()
            client.leave()
            self.assertTrue(upstream.ended)
            self.assert_blamed(0)


class RequestTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def uploading(self) -> Client:
        client = self.world.client()
        client.send(request("POST", "/", b"Content-Length: 1000000"))
        return client

    def test_slow_server_stops_the_client(self) -> None:
        """A server that takes nothing stops the reading from its client after a buffer, and starts it again."""
        client = self.uploading()
        upstream = self.world.server.last
        upstream.transport.stop_taking()
        client.send(b"x" * 1_000_000)
        self.assertFalse(client.transport.reading)
        self.assertTrue(upstream.transport.reading)
        self.assertGreater(client.transport.unread, 800_000)
        while client.transport.unread:
            upstream.transport.take()
            upstream.transport.stop_taking()
            self.world.settle()
        upstream.transport.take()
        self.assertTrue(client.transport.reading)
        self.assertEqual(upstream.received.partition(b"\r\n\r\n")[2], b"x" * 1_000_000)

    def test_released_by_an_early_response(self) -> None:
        """A client that was stopped for its server's sake is read again when the server answers without reading."""
        client = self.uploading()
        upstream = self.world.server.last
        upstream.transport.stop_taking()
        client.send(b"x" * 300_000)
        self.assertFalse(client.transport.reading)
        upstream.send(response(b"enough", status=b"413 Content Too Large"))
        self.assertEqual(client.response().status, 413)
        self.assertTrue(client.transport.reading)
        self.assertEqual(client.transport.unread, 0)

    def test_released_by_a_failure(self) -> None:
        """A client that was stopped for its server's sake is read again when the server is gone."""
        client = self.uploading()
        upstream = self.world.server.last
        upstream.transport.stop_taking()
        client.send(b"x" * 300_000)
        upstream.reset()
        self.assertEqual(client.response().status, 502)
        self.assertTrue(client.transport.reading)

    def test_server_that_takes_nothing(self) -> None:
        """A server that takes nothing of a request for its whole time is 504."""
        world = World(upstream_timeout=5.0, body_timeout=60.0)
        client = world.client()
        client.send(request("POST", "/", b"Content-Length: 1000000"))
        world.server.last.transport.stop_taking()
        client.send(b"x" * 300_000)
        world.wait(4)
        self.assertEqual(client.received, b"")
        world.wait(2)
        self.assertEqual(client.response().status, 504)
        self.assertEqual(len(world.buckets.refunded), 1)

    def test_slow_server(self) -> None:
        """A server that reads a request slowly, but steadily, is not timed out, also when it has been sent whole."""
        world = World(upstream_timeout=5.0, body_timeout=60.0)
        client = world.client()
        client.send(request("POST", "/", b"Content-Length: 160000"))
        transport = world.server.last.transport
        for content in (b"x" * 100_000, b"x" * 60_000):
            transport.stop_taking()
            client.send(content)
            for _ in range(5):
                world.wait(4)
                transport.take_some(10)
            self.assertEqual(client.received, b"")
            transport.take()
        # It has all of it now, and its time to answer.
        world.wait(5)
        self.assertEqual(client.received, b"")
        world.wait(6)
        self.assertEqual(client.response().status, 504)

    def test_fast_server(self) -> None:
        """What a server reads at once does not prolong its time to answer."""
        world = World(upstream_timeout=5.0)
        client = world.client()
        client.send(request("POST", "/", b"Content-Length: 2"), b"x")
        client.send(b"y")
        world.wait(6)
        self.assertEqual(client.response().status, 504)

    def test_client_is_not_blamed(self) -> None:
        """A client that is stopped for its server's sake is not timed out."""
        world = World(upstream_timeout=60.0, body_timeout=5.0)
        client = world.client()
        client.send(request("POST", "/", b"Content-Length: 300000"))
        upstream = world.server.last
        upstream.transport.stop_taking()
        client.send(b"x" * 300_000)
        world.wait(30)
        self.assertEqual(client.received, b"")
        upstream.transport.take()
        world.settle()
        upstream.send(response(b"done"))
        self.assertEqual(client.response().body, b"done")

    def test_both_directions(self) -> None:
        """Full in both directions at once, both go on when both are taken, and nothing is lost."""
        client = self.uploading()
        upstream = self.world.server.last
        client.stop_taking()
        upstream.transport.stop_taking()
        client.send(b"x" * 1_000_000)
        upstream.send(response(b"y" * 1_000_000))
        self.assertFalse(client.transport.reading or upstream.transport.reading)
        upstream.transport.take()
        self.world.settle()
        self.assertEqual(client.transport.unread, 0)
        client.take()
        self.assertEqual(client.response().body, b"y" * 1_000_000)
        self.assertTrue(upstream.received.endswith(b"x" * 1_000_000))


class PendingTests(SynchronousTestCase):
    """A request body that comes before there is a server to send it to."""

    def setUp(self) -> None:
        self.world = World()

    def stopped(self, size: int = 1_000_000, sent: int = 1_000_000) -> Client:
        """A client that was stopped in sending a body."""
        client = self.world.client()
        client.send(request("POST", "/", b"Content-Length: %d" % size), *[b"x" * 1000] * (sent // 1000))
        self.assertFalse(client.transport.reading)
        self.assertGreaterEqual(client.transport.unread, sent - 2 * BUFFER_BYTES)
        return client

    def test_while_the_bucket_is_asked(self) -> None:
        """No more than a bounded part of a body is read before the bucket has answered; then all goes on."""
        self.world.buckets.later = True
        client = self.stopped()
        self.world.buckets.answer_now()
        self.world.settle()
        self.assert_goes_on(client)

    def test_while_connecting(self) -> None:
        """No more than a bounded part of a body is read before there is a connection; then all goes on."""
        self.world.server.waits = True
        client = self.stopped()
        self.world.server.decide()
        self.assert_goes_on(client)

    def assert_goes_on(self, client: Client) -> None:
        self.world.settle()
        self.assertTrue(client.transport.reading)
        self.assertEqual(self.world.server.last.received.partition(b"\r\n\r\n")[2], b"x" * 1_000_000)
        self.world.server.last.send(response(b"done"))
        self.assertEqual(client.response().body, b"done")

    def test_refused_amid_the_body(self) -> None:
        """A client that was stopped for a bucket that then refuses is read again, so that it can read its 429."""
        self.world.buckets.later = True
        self.world.buckets.answer = REFUSED
        client = self.stopped()
        self.world.buckets.answer_now()
        self.world.settle()
        answer = client.response()
        self.assertEqual((answer.status, answer.closes), (429, True))
        self.assertTrue(client.transport.reading)
        self.assertEqual(client.transport.unread, 0)

    def test_refused_after_the_body(self) -> None:
        """A client whose large body was whole before the bucket refused can go on with its connection."""
        self.world.buckets.later = True
        self.world.buckets.answer = REFUSED
        client = self.stopped(66_000, 66_000)
        self.world.buckets.answer_now()
        self.world.settle()
        self.assertEqual(client.responses()[0].status, 429)
        self.assertTrue(client.transport.reading)
        client.send(request())
        self.world.buckets.answer_now()
        self.world.settle()
        self.assertEqual(client.response().status, 429)

    def test_no_server_after_the_body(self) -> None:
        """A client whose large body was whole before its server refused can go on with its connection."""
        self.world.server.waits = self.world.server.refuses = True
        client = self.stopped(66_000, 66_000)
        self.world.server.decide()
        self.assertEqual(client.responses()[0].status, 503)
        self.assertTrue(client.transport.reading)

    def test_client_is_not_blamed(self) -> None:
        """A client that is stopped for the bucket's sake is not timed out."""
        self.world.buckets.later = True
        client = self.stopped()
        self.world.wait(100)
        self.assertEqual((client.received, client.ended), (b"", False))


class ClientThatDoesNotReadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(send_timeout=10.0)

    def test_cut_amid_a_response(self) -> None:
        """A client that takes nothing for the time it has is cut, and its server let go."""
        client, upstream = self.world.asked()
        client.stop_taking()
        upstream.send(response(b"x" * 1_000_000))
        self.world.wait(9.75)
        self.assertFalse(client.ended)
        self.world.wait(1)
        self.assertTrue(client.ended and upstream.ended)
        self.assertEqual((self.world.in_flight, self.world.buckets.refunded), ([0], []))

    def test_taking_in_time(self) -> None:
        """A client that takes what there is within its time has its whole time again."""
        client, upstream = self.world.asked()
        client.stop_taking()
        upstream.send(response(b"x" * 500_000))
        while upstream.transport.unread:
            self.world.wait(9)
            client.take()
            client.stop_taking()
        client.take()
        self.assertEqual(len(client.response().body), 500_000)

    def test_cut_amid_the_next_response(self) -> None:
        """A client that pipelines and takes nothing is cut as well: its second request does not stop the clock."""
        client, upstream = self.world.asked()
        client.stop_taking()
        client.send(request("GET", "/2"))
        upstream.send(response(b"x" * 60_000))
        self.assertEqual(upstream.received.count(b"GET /"), 2)
        upstream.send(response(b"y" * 100_000))
        self.world.wait(12)
        self.assertTrue(client.ended and upstream.ended)

    def test_cut_after_an_early_response(self) -> None:
        """A client whose response began before its request was whole is cut too when it takes nothing."""
        client, upstream = self.world.asked(request("POST", "/", b"Content-Length: 10"))
        client.stop_taking()
        upstream.send(response(b"x" * 1_000_000))
        client.send(b"0123456789")
        self.world.wait(12)
        self.assertTrue(client.ended and upstream.ended)

    def test_cut_while_closing(self) -> None:
        """A client that does not take the end of its last response is cut."""
        client, upstream = self.world.asked(request("GET", "/", b"Connection: close"))
        client.stop_taking()
        upstream.send(response(b"hello"))
        self.assertFalse(upstream.ended)
        self.world.wait(9)
        self.assertFalse(client.ended)
        self.world.wait(2)
        self.assertTrue(client.ended and client.transport.aborted)

    def test_lingering_while_the_answer_is_being_taken(self) -> None:
        """A client that is slow to take an early response has its time for it, not just that of lingering."""
        client, upstream = self.world.asked(request("POST", "/", b"Content-Length: 10"))
        client.stop_taking()
        upstream.send(response(b"x" * 60_000))
        self.world.wait(5)
        client.take()
        self.assertEqual(len(client.response().body), 60_000)
