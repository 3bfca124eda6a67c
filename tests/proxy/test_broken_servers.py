"""Servers that violate the protocol: the client gets 502, or can tell that its response is incomplete."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import World, request, response

CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class MalformedResponseTests(SynchronousTestCase):
    def test_malformed_heads(self) -> None:
        """A malformed head is 502 and a token back; its connection is dropped, and the client's goes on."""
        for head in (
            b"nonsense\r\n\r\n",
            b"\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nConnection: (close)\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        ):
            world = World()
            client, upstream = world.asked()
            upstream.send(head)
            answer = client.response()
            self.assertEqual((answer.status, answer.closes), (502, False), head[:80])
            self.assertIn("server", answer.detail)
            self.assertTrue(upstream.ended)
            self.assertEqual((world.in_flight, len(world.buckets.refunded)), ([0], 1))
            client.send(request())
            self.assertEqual(len(world.server.connections), 2)
            world.server.last.send(response(b"well"))
            self.assertEqual(client.response().body, b"well")

    def test_malformed_head_to_head(self) -> None:
        """The 502 to HEAD has no body."""
        client, upstream = World().asked(request("HEAD"))
        upstream.send(b"nonsense\r\n\r\n")
        self.assertEqual(client.response("HEAD").status, 502)

    def test_after_interim(self) -> None:
        """A malformed head after an interim response is 502 as well."""
        world = World()
        client, upstream = world.asked()
        upstream.send(b"HTTP/1.1 103 Early Hints\r\n\r\nnonsense\r\n\r\n")
        self.assertEqual([answer.status for answer in client.responses()], [103, 502])
        self.assertEqual(len(world.buckets.refunded), 1)

    def test_malformed_first_chunk(self) -> None:
        """A body that is malformed as it comes with its head is 502 still."""
        client, upstream = World().asked()
        upstream.send(CHUNKED_HEAD + b"zz\r\n")
        self.assertEqual((client.response().status, upstream.ended), (502, True))

    def test_malformed_later_chunk(self) -> None:
        """A body that turns out malformed is cut: no last chunk, the connection ends, no token comes back."""
        world = World()
        client, upstream = world.asked()
        upstream.send(CHUNKED_HEAD + b"3\r\nabc\r\n", b"zz\r\n")
        self.assertTrue(client.ended and upstream.ended)
        self.assertTrue(client.received.endswith(b"\r\n\r\n3\r\nabc\r\n"))
        self.assertEqual((world.in_flight, world.buckets.refunded), ([0], []))


class CutShortTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_before_the_head(self) -> None:
        """A server that closes or resets before or amid its head is 502 and a token back."""
        for beginning in (b"", b"HTTP/1.1 200 OK\r\nContent-"):
            for how in ("finish", "reset"):
                world = World()
                client, upstream = world.asked()
                upstream.send(beginning)
                getattr(upstream, how)()
                answer = client.response()
                self.assertEqual((answer.status, answer.closes), (502, False))
                self.assertIn("closed the connection", answer.detail)
                self.assertEqual((world.in_flight, len(world.buckets.refunded)), ([0], 1))

    def test_amid_a_length(self) -> None:
        """A body that is shorter than its length is passed on, and the connection ended, so the client can count."""
        client, upstream = self.world.asked()
        upstream.send(response(b"hello")[:-1])
        upstream.finish()
        self.assertTrue(client.received.endswith(b"\r\n\r\nhell"))
        self.assertTrue(client.ended)
        self.assertEqual((self.world.in_flight, self.world.buckets.refunded), ([0], []))

    def test_amid_chunks(self) -> None:
        """A chunked body without its end reaches the client without an end, and the connection ends."""
        client, upstream = self.world.asked()
        upstream.send(CHUNKED_HEAD + b"5\r\nhel")
        upstream.finish()
        self.assertTrue(client.received.endswith(b"\r\n\r\n3\r\nhel\r\n"))
        self.assertTrue(client.ended)

    def test_amid_trailers(self) -> None:
        """A chunked body that lacks only the end of its trailers is not whole either."""
        client, upstream = self.world.asked()
        upstream.send(CHUNKED_HEAD + b"1\r\na\r\n0\r\nX: 1\r\n")
        upstream.finish()
        self.assertFalse(client.received.endswith(b"0\r\n\r\n"))
        self.assertTrue(client.ended)

    def test_reset_amid_until_close(self) -> None:
        """A body that ends with its connection is whole by an orderly end only: after a reset it has no last chunk."""
        client, upstream = self.world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        upstream.reset()
        self.assertTrue(client.received.endswith(b"3\r\nabc\r\n"))
        self.assertTrue(client.ended)

    def test_to_http10(self) -> None:
        """An HTTP/1.0 client takes an orderly end for the end of the body, so its connection is reset."""
        for head in (CHUNKED_HEAD + b"3\r\nabc\r\n", b"HTTP/1.1 200 OK\r\n\r\nabc"):
            client, upstream = self.world.asked(request(version="1.0"))
            upstream.send(head)
            upstream.reset()
            self.assertTrue(client.received.endswith(b"\r\n\r\nabc"))
            self.assertTrue(client.ended and client.transport.aborted)

    def test_to_http10_with_a_length(self) -> None:
        """An HTTP/1.0 client that was told a length can count: its connection ends in order."""
        client, upstream = self.world.asked(request(version="1.0"))
        upstream.send(response(b"hello")[:-1])
        upstream.reset()
        self.assertTrue(client.ended and not client.transport.aborted)

    def test_pipelined_behind_it(self) -> None:
        """A request that waits behind a response that is cut short is not served."""
        client, upstream = self.world.asked(request() + request())
        upstream.send(response(b"hello")[:-1])
        upstream.finish()
        self.assertTrue(client.ended)
        self.assertEqual(len(self.world.buckets.asked), 1)

    def test_client_that_does_not_read(self) -> None:
        """A client that reads slowly gets all that came before its response was cut short."""
        client, upstream = self.world.asked()
        client.stop_taking()
        upstream.send(response(b"hello")[:-1])
        upstream.finish()
        self.assertFalse(client.ended)
        client.take()
        self.assertTrue(client.received.endswith(b"\r\n\r\nhell"))
        self.assertTrue(client.ended)


class SurplusTests(SynchronousTestCase):
    """Bytes behind a response are nobody's, and the connection they came on is not to be trusted."""

    def setUp(self) -> None:
        self.world = World()
        self.client, self.upstream = self.world.asked()

    def assert_poison_is_gone(self) -> None:
        self.assertTrue(self.upstream.ended)
        self.client.send(request())
        self.assertEqual(len(self.world.server.connections), 2)
        self.world.server.last.send(response(b"pure"))
        self.assertEqual(self.client.response().body, b"pure")
        self.assertNotIn(b"poison", self.client.received)

    def test_with_the_response(self) -> None:
        """Surplus that comes with the response reaches nobody."""
        self.upstream.send(response(b"hello") + response(b"poison"))
        self.assertEqual(self.client.response().body, b"hello")
        self.assert_poison_is_gone()

    def test_behind_a_last_piece(self) -> None:
        """Surplus that comes with the last piece of a body reaches nobody."""
        data = response(b"hello") + response(b"poison")
        self.upstream.send(data[:45], data[45:])
        self.assertEqual(self.client.response().body, b"hello")
        self.assert_poison_is_gone()

    def test_behind_chunks(self) -> None:
        """Surplus behind a last chunk reaches nobody."""
        self.upstream.send(CHUNKED_HEAD + b"1\r\na\r\n0\r\n\r\npoison")
        self.assertEqual(self.client.response().body, b"a")
        self.assert_poison_is_gone()

    def test_body_of_a_bodiless_response(self) -> None:
        """A body where none may be is surplus."""
        self.upstream.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison")
        self.assertEqual(self.client.response().status, 304)
        self.assert_poison_is_gone()

    def test_later(self) -> None:
        """Surplus that comes when the connection is idle ends it."""
        self.upstream.send(response(b"hello"))
        self.client.response()
        self.upstream.send(response(b"poison"))
        self.assert_poison_is_gone()

    def test_never_read(self) -> None:
        """Surplus that waits unread when the next request comes is found before it is sent."""
        self.upstream.send(response(b"hello"))
        self.client.response()
        self.world.wait(1)
        self.upstream.transport.arrive(response(b"poison"))
        self.client.send(request())
        self.world.server.last.send(response(b"pure"))
        self.assertEqual(self.client.response().body, b"pure")
        self.assertTrue(self.upstream.ended)

    def test_after_it_was_dropped(self) -> None:
        """What still comes on a dropped connection reaches nobody."""
        self.client.leave()
        self.upstream.send(response(b"poison"))
        self.assertEqual(self.client.received, b"")
