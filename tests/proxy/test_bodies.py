"""Bodies of each framing, in both directions, however they are cut into pieces."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import Client, World, request, response

CHUNKED = b"Transfer-Encoding: chunked"


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


class RequestBodyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def forwarded_body(self) -> bytes:
        return self.world.server.last.received.partition(b"\r\n\r\n")[2]

    def assert_served(self, client: Client) -> None:
        """The request was whole: its answer leaves both connections in use."""
        self.world.server.last.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")
        self.assertFalse(client.ended or self.world.server.last.ended)

    def test_length_in_pieces(self) -> None:
        """A body of a known length arrives as it was sent, whatever its pieces."""
        for size in (1, 7, 1000):
            client = self.world.client()
            client.send(*pieces(request("POST", "/", body=bytes(range(256))), size))
            self.assertTrue(self.world.server.last.received.endswith(b"\r\n\r\n" + bytes(range(256))))
            self.assert_served(client)

    def test_empty_length(self) -> None:
        """An empty body that is declared as such is declared to the server."""
        client = self.world.client()
        client.send(request("POST", body=b""))
        self.assertIn(b"\r\nContent-Length: 0\r\n", self.world.server.last.received)
        self.assert_served(client)

    def test_chunks_in_pieces(self) -> None:
        """The content of a chunked body arrives whole, chunked anew, without extensions, with its trailers."""
        body = b'5;a="b"\r\nhello\r\n1 ; c\r\n \r\nA\r\nABCDEFGHIJ\r\n0\r\nX-Sum: 7\r\nContent-Length: 3\r\n\r\n'
        for size in (1, 7, 1000):
            client = self.world.client()
            client.send(*pieces(request("PUT", "/", CHUNKED) + body, size))
            upstream = self.world.server.last
            head, _, rest = upstream.read().partition(b"\r\n\r\n")
            self.assertIn(b"\r\nTransfer-Encoding: chunked", head)
            content = b""
            while not rest.startswith(b"0\r\n"):
                line, _, rest = rest.partition(b"\r\n")
                content += rest[: int(line, 16)]
                rest = rest[int(line, 16) + 2 :]
            self.assertEqual((content, rest), (b"hello ABCDEFGHIJ", b"0\r\nX-Sum: 7\r\n\r\n"))
            self.assert_served(client)

    def test_empty_chunked(self) -> None:
        """An empty chunked body ends for the server too, in one piece with its head or after it."""
        for parts in ([request("POST", "/", CHUNKED) + b"0\r\n\r\n"], [request("POST", "/", CHUNKED), b"0\r\n\r\n"]):
            client = self.world.client()
            client.send(*parts)
            self.assertTrue(self.world.server.last.received.endswith(b"\r\n\r\n0\r\n\r\n"))
            self.assert_served(client)

    def test_sent_on_at_once(self) -> None:
        """A server gets each piece when it comes, not when the body is whole."""
        client = self.world.client()
        client.send(request("POST", "/", b"Content-Length: 10"), b"abc")
        self.assertEqual(self.forwarded_body(), b"abc")
        client.send(b"defg")
        self.assertEqual(self.forwarded_body(), b"abcdefg")

    def test_any_method(self) -> None:
        """A body goes with any method."""
        client = self.world.client()
        client.send(request("GET", body=b"why not"))
        self.assertEqual(self.forwarded_body(), b"why not")
        self.assert_served(client)

    def test_malformed_chunk(self) -> None:
        """A malformed chunk is 400, and the server's connection is dropped with its request half sent."""
        client = self.world.client()
        client.send(request("POST", "/", CHUNKED) + b"3\r\nabc\r\n")
        client.send(b"zz\r\n")
        self.assertEqual(client.response().status, 400)
        self.assertTrue(self.world.server.last.ended)
        self.assertNotIn(b"0\r\n\r\n", self.forwarded_body())
        self.assertEqual(self.world.in_flight, [0])

    def test_malformed_first_chunk(self) -> None:
        """A chunk that is malformed as it comes with its head costs no token and reaches no server."""
        client = self.world.client()
        client.send(request("POST", "/", CHUNKED) + b"-1\r\n")
        self.assertEqual(client.response().status, 400)
        self.assertEqual((self.world.buckets.asked, self.world.dialled), ([], []))


class ResponseBodyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_length_in_pieces(self) -> None:
        """A response of a known length arrives as it was sent, whatever its pieces."""
        for size in (1, 7, 1000):
            client, upstream = self.world.asked()
            upstream.send(*pieces(response(bytes(range(256))), size))
            answer = client.response()
            self.assertEqual((answer.body, answer.field("content-length")), (bytes(range(256)), "256"))
        self.assertEqual(len(self.world.server.connections), 1)

    def test_chunks_in_pieces(self) -> None:
        """A chunked response arrives chunked, with its trailers but those that frame or authorize."""
        body = b"5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 7\r\nTransfer-Encoding: gzip\r\nAuthorization: a\r\n\r\n"
        for size in (1, 7, 1000):
            client, upstream = self.world.asked()
            upstream.send(*pieces(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n\r\n" + body, size))
            answer = client.response()
            self.assertEqual((answer.body, answer.trailers), (b"hello!", [b"X-Sum: 7"]))
            self.assertFalse(client.ended or upstream.ended)

    def test_empty_chunked(self) -> None:
        """An empty chunked response is whole at once."""
        client, upstream = self.world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n")
        self.assertEqual(client.response().body, b"")
        self.assertFalse(client.ended or upstream.ended)

    def test_until_close(self) -> None:
        """A response that ends with its connection reaches the client chunked, and its connection goes on."""
        client, upstream = self.world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\n\r\nabc", b"def")
        self.assertTrue(client.received.endswith(b"\r\n3\r\nabc\r\n3\r\ndef\r\n"))
        upstream.finish()
        answer = client.response()
        self.assertEqual((answer.body, answer.field("transfer-encoding")), (b"abcdef", "chunked"))
        self.assertFalse(client.ended or answer.closes)
        self.assertTrue(upstream.ended)

    def test_until_close_of_nothing(self) -> None:
        """A response without a length whose server closes right away has an empty body."""
        client, upstream = self.world.asked()
        upstream.send(b"HTTP/1.0 200 OK\r\n\r\n")
        upstream.finish()
        self.assertEqual(client.response().body, b"")

    def test_sent_on_at_once(self) -> None:
        """A client gets each piece when it comes, not when the response is whole."""
        client, upstream = self.world.asked()
        upstream.send(response(b"abcdef")[:-5])
        self.assertTrue(client.read().endswith(b"\r\n\r\na"))
        upstream.send(b"bc")
        self.assertEqual(client.read(), b"bc")

    def test_head(self) -> None:
        """The answer to HEAD keeps its length and has no body, also when the server names none or chunks."""
        client = self.world.client()
        for fields, length in ((b"Content-Length: 1234\r\n", "1234"), (b"", None), (CHUNKED + b"\r\n", None)):
            client.send(request("HEAD"))
            self.world.server.last.send(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
            answer = client.response("HEAD")
            self.assertEqual((answer.field("content-length"), answer.body), (length, b""))
        self.assertEqual(len(self.world.server.connections), 1)

    def test_bodiless_statuses(self) -> None:
        """204 and 304 end with their heads; 304 may speak of a length, 204 must not."""
        client = self.world.client()
        for status, length in ((b"204 No Content", None), (b"304 Not Modified", "7")):
            client.send(request())
            self.world.server.last.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 7\r\n\r\n")
            self.assertEqual(client.response().field("content-length"), length)
        self.assertEqual(len(self.world.server.connections), 1)

    def test_large(self) -> None:
        """A response of megabytes goes through, to the byte."""
        client, upstream = self.world.asked()
        body = bytes(range(256)) * 8192
        upstream.send(*pieces(response(body), 60_000))
        self.assertEqual(client.response().body, body)
