"""Bodies in chunks of a few bytes: all of them arrive, no other client waits for them, and none continues for ever."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.reading import read_chunks
from tests.proxy.world import World, request, response
from twisted_lb.proxy.progress import FREE_CHUNKS_PER_SECOND, MIN_CHUNK_BYTES, BodyProgress
from twisted_lb.wire.body import MAX_CHUNKS, ChunkedDecoder
from twisted_lb.wire.errors import RequestError

CHUNKED = b"Transfer-Encoding: chunked"
TINY = b"1\r\nx\r\n"
END = b"0\r\n\r\n"


class DecoderTests(SynchronousTestCase):
    def test_chunks_of_a_call(self) -> None:
        """A call reads MAX_CHUNKS at most, and the next one goes on where it stopped."""
        body = ChunkedDecoder(lambda detail: RequestError(400, detail))
        content = body.feed(TINY * 1000 + END + b"tail")
        self.assertLessEqual(len(content), MAX_CHUNKS)
        self.assertFalse(body.done)
        calls = 1
        while not body.done:
            content += body.feed(body.rest)
            calls += 1
        self.assertEqual((content, body.rest, body.chunks), (b"x" * 1000, b"tail", 1001))
        self.assertEqual(calls, 1000 // MAX_CHUNKS + 1)

    def test_nothing_left(self) -> None:
        """What ends with the last chunk of a call leaves nothing."""
        body = ChunkedDecoder(lambda detail: RequestError(400, detail))
        self.assertEqual(body.feed(b"5\r\nabcde\r\n2\r\na"), b"abcdea")
        self.assertEqual((body.rest, body.done), (b"", False))
        self.assertEqual(body.feed(b"b\r\n"), b"b")
        self.assertEqual((body.rest, body.done), (b"", False))


class RequestTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.client = self.world.client()

    def test_whole(self) -> None:
        """All of it arrives, in order, whether it comes with the head or after it, and the connection goes on."""
        head = request("POST", "/", CHUNKED)
        body = b"".join(b"2\r\n%02d\r\n" % (n % 100) for n in range(5000)) + END
        for data in ((head + body,), (head, body)):
            self.client.send(*data, request("GET", "/next"))
            upstream = self.world.server.last
            forwarded, _, rest = upstream.read().partition(b"\r\n\r\n")
            self.assertEqual(read_chunks(rest), b"".join(b"%02d" % (n % 100) for n in range(5000)))
            upstream.send(response(b"a"))
            upstream.send(response(b"b"))
            self.assertEqual([answer.body for answer in self.client.responses()], [b"a", b"b"])
            upstream.read()

    def test_others_come_first(self) -> None:
        """An event brings MAX_CHUNKS to the server at most, and reading is held when there is more."""
        self.client.send(request("POST", "/", CHUNKED))
        upstream = self.world.server.last
        upstream.read()
        self.client.transport.deliver(TINY * 5000)
        self.assertLessEqual(len(read_chunks(upstream.read() + END)), MAX_CHUNKS)
        self.client.transport.deliver(TINY)
        self.assertFalse(self.client.transport.reading)
        self.world.settle()
        self.assertTrue(self.client.transport.reading)

    def test_half_close(self) -> None:
        """A client that ends its direction after the whole body gets its response."""
        self.client.transport.deliver(request("POST", "/", CHUNKED) + TINY * 2000 + END)
        self.client.finish()
        self.world.server.last.send(response(b"done"))
        self.assertEqual(self.client.response().body, b"done")

    def test_half_close_too_soon(self) -> None:
        """A client that ends its direction before the end of the body is given up, and its server's connection too."""
        self.client.transport.deliver(request("POST", "/", CHUNKED) + TINY * 2000)
        self.client.finish()
        self.assertEqual((self.client.received, self.client.ended, self.world.server.last.ended), (b"", True, True))

    def test_leaves(self) -> None:
        """A client that leaves while some of its chunks wait leaves nothing behind."""
        self.client.send(request("POST", "/", CHUNKED))
        self.client.transport.deliver(TINY * 5000)
        self.client.leave()
        self.assertEqual((self.world.in_flight, self.world.server.last.ended), ([0], True))

    def test_malformed_later(self) -> None:
        """What is wrong in chunks that waited is refused as anywhere else."""
        self.client.send(request("POST", "/", CHUNKED))
        self.client.send(TINY * 2000 + b"nonsense\r\n")
        self.assertEqual(self.client.response().status, 400)
        self.assertTrue(self.world.server.last.ended)

    def test_for_ever(self) -> None:
        """A body that goes on in tiny chunks for BODY_TIMEOUT is 408, however many bytes a second that is."""
        world = World(body_timeout=2.0, min_body_rate=1)
        client = world.client()
        client.send(request("POST", "/", CHUNKED))
        for _ in range(20):
            client.send(TINY * 200)
            world.wait(0.25)
        self.assertEqual(client.response().status, 408)
        self.assertTrue(world.server.last.ended)

    def test_not_too_tiny(self) -> None:
        """A body in chunks of a sensible size, or in few tiny ones, may go on for ever."""
        for data in (b"40\r\n%b\r\n" % (b"x" * 64) * 200, TINY * 20):
            world = World(body_timeout=2.0, min_body_rate=1)
            client = world.client()
            client.send(request("POST", "/", CHUNKED))
            for _ in range(40):
                client.send(data)
                world.wait(0.25)
            self.assertEqual(client.received, b"")
            self.assertFalse(client.ended)


class ResponseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()
        self.client, self.upstream = self.world.asked()

    def test_whole(self) -> None:
        """A server's response arrives whole, and its connection is used again."""
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for data in ((head + TINY * 3000 + END,), (head, TINY * 3000, END)):
            self.upstream.send(*data)
            self.assertEqual(self.client.response().body, b"x" * 3000)
            self.client.send(request())
        self.assertEqual(len(self.world.dialled), 1)

    def test_others_come_first(self) -> None:
        """An event brings MAX_CHUNKS to the client at most."""
        self.upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.client.read()
        self.upstream.transport.deliver(TINY * 5000)
        self.assertLessEqual(len(read_chunks(self.client.read() + END)), MAX_CHUNKS)
        self.assertFalse(self.upstream.transport.reading)
        self.world.settle()
        self.assertTrue(self.upstream.transport.reading)

    def test_client_leaves(self) -> None:
        """When the client leaves, what waits is dropped with the server's connection."""
        self.upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.upstream.transport.deliver(TINY * 5000)
        self.client.leave()
        self.assertEqual((self.world.in_flight, self.upstream.ended), ([0], True))

    def test_malformed_later(self) -> None:
        """What is wrong in chunks that waited cuts the response."""
        self.upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + TINY * 2000 + b"zz\r\n")
        self.assertTrue(self.client.ended)
        self.assertFalse(self.client.received.endswith(END))


class ProgressTests(SynchronousTestCase):
    def test_chunks(self) -> None:
        """Chunks beyond the free ones must have MIN_CHUNK_BYTES on average, in each period anew."""
        progress = BodyProgress()
        progress.chunks = FREE_CHUNKS_PER_SECOND * 10
        self.assertTrue(progress.in_sensible_chunks(10))
        progress.chunks += 100
        self.assertFalse(progress.in_sensible_chunks(10))
        progress.received = 100 * MIN_CHUNK_BYTES
        self.assertTrue(progress.in_sensible_chunks(10))
        progress.chunks += 1
        self.assertFalse(progress.in_sensible_chunks(10))
        progress.next_period()
        self.assertTrue(progress.in_sensible_chunks(10))

    def test_rate(self) -> None:
        """A period needs its bytes, at least one of them."""
        progress = BodyProgress()
        self.assertFalse(progress.enough(10, 0))
        progress.received = 1
        self.assertTrue(progress.enough(10, 0))
        self.assertFalse(progress.enough(10, 100))
        progress.received = 1000
        self.assertTrue(progress.enough(10, 100))
