"""Requests that are refused before they cost anything, and clients that take their time."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import KEY
from tests.proxy.world import Client, World, request, response


class RefusedTests(SynchronousTestCase):
    def assert_refused(self, world: World, status: int, *pieces: bytes) -> Client:
        """Refused with this status and the end of the connection; no bucket and no server hears of it."""
        client = world.client()
        client.send(*pieces)
        answer = client.response()
        self.assertEqual((answer.status, answer.closes), (status, True), pieces[0][:80])
        self.assertTrue(answer.detail.endswith("."))
        self.assertTrue(client.transport.half_closed)
        self.assertEqual((world.buckets.asked, world.dialled), ([], []))
        client.finish()
        self.assertTrue(client.ended)
        return client

    def test_two_readings(self) -> None:
        """What has two readings, or none, is 400."""
        for data in (
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            request("POST", "/", b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
            request("POST", "/", b"Content-Length: 3", b"Content-Length: 3") + b"abc",
            request("POST", "/", b"Content-Length: +3") + b"abc",
            request("POST", "/", b"Transfer-Encoding: chunked", version="1.0") + b"0\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ):
            self.assert_refused(World(), 400, data)

    def test_refused_before_the_end(self) -> None:
        """A head that can no longer become right is refused without waiting for its end."""
        self.assert_refused(World(), 400, b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\nX-")

    def test_unserved(self) -> None:
        """What is not served here has a status of its own."""
        self.assert_refused(World(), 501, request("TRACE"))
        self.assert_refused(World(), 501, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")
        self.assert_refused(World(), 501, request("POST", "/", b"Transfer-Encoding: gzip"))
        self.assert_refused(World(), 505, request(version="2.0"))

    def test_too_large(self) -> None:
        """A head, a target and a number of fields have limits, which the settings name."""
        self.assert_refused(World(max_head_bytes=500), 431, request("GET", "/", b"X: " + b"x" * 500))
        self.assert_refused(World(max_target_bytes=50), 414, request("GET", "/" + "x" * 50))
        self.assert_refused(World(max_header_fields=5), 431, request("GET", "/", *[b"X: 1"] * 4))

    def test_body_too_large(self) -> None:
        """A body that is declared too large is 413 before it is read."""
        world = World(max_body_bytes=10)
        self.assert_refused(world, 413, request("POST", body=b"x" * 11))
        client = world.client()
        client.send(request("POST", body=b"x" * 10))
        self.assertEqual(len(world.dialled), 1)

    def test_chunked_body_too_large(self) -> None:
        """A body that turns out too large is 413, and its server is dropped with the request not whole."""
        world = World(max_body_bytes=10)
        client = world.client()
        client.send(request("POST", "/", b"Transfer-Encoding: chunked") + b"a\r\n0123456789\r\n", b"1\r\n0\r\n")
        self.assertEqual(client.response().status, 413)
        self.assertTrue(world.server.last.ended)
        self.assertEqual(world.in_flight, [0])

    def test_nothing_behind_it(self) -> None:
        """A request behind a refused one is not served, in one piece with it or not."""
        for pieces in ([b"GET / HTTP/1.1\n\n" + request()], [b"GET / HTTP/1.1\n\n", request()]):
            world = World()
            client = world.client()
            client.send(*pieces)
            world.wait(0)
            self.assertEqual((client.response().status, world.buckets.asked), (400, []))


class HeadTimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(head_timeout=10.0, keepalive_timeout=20.0)

    def test_slow_head(self) -> None:
        """A head that is not whole in its time is 408, not before, however it is dripped."""
        client = self.world.client()
        for byte in b"GET / HTT":
            client.send(bytes([byte]))
            self.world.wait(1)
        self.assertEqual(client.received, b"")
        client.send(b"P")
        self.world.wait(2)
        answer = client.response()
        self.assertEqual((answer.status, answer.closes), (408, True))
        self.assertEqual(self.world.buckets.asked, [])

    def test_silent_from_the_beginning(self) -> None:
        """A client that connects and says nothing is let go, and nothing is said to it."""
        client = self.world.client()
        self.world.wait(10)
        self.assertFalse(client.ended)
        self.world.wait(0.5)
        self.assertEqual((client.received, client.ended), (b"", True))

    def test_idle(self) -> None:
        """A client that is idle for its time after a response is let go, not before, and nothing is said to it."""
        client, upstream = self.world.asked()
        self.world.wait(15)
        upstream.send(response())
        client.response()
        self.world.wait(20)
        self.assertFalse(client.ended)
        self.world.wait(0.5)
        self.assertEqual((client.read(), client.ended), (b"", True))

    def test_slow_second_head(self) -> None:
        """The time of a later head begins with its first byte."""
        client, upstream = self.world.asked(request("HEAD"))
        upstream.send(response())
        client.response("HEAD")
        self.world.wait(15)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        self.world.wait(9)
        self.assertFalse(client.ended)
        self.world.wait(2)
        self.assertEqual((client.response().status, client.transport.half_closed), (408, True))

    def test_empty_lines_win_no_time(self) -> None:
        """Empty lines, and what may become one, do not prolong a client's time."""
        for drip in (b"\r\n", b"\r", b"\r\n\r"):
            client = self.world.client()
            for _ in range(4):
                client.send(drip)
                if drip.endswith(b"\r"):
                    client.send(b"\n")
                self.world.wait(3)
            self.assertTrue(client.ended or client.transport.half_closed, drip)

    def test_slow_head_that_comes_in_time(self) -> None:
        """A slow head that is whole in its time is served, and its server has all its own time."""
        client = self.world.client()
        data = request()
        client.send(data[:20])
        self.world.wait(9)
        client.send(data[20:])
        self.world.wait(29)
        self.world.server.last.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")


class BodyTimeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(body_timeout=10.0, min_body_rate=2)
        self.client, self.upstream = self.world.asked(request("POST", "/", b"Content-Length: 1000"))

    def test_silence(self) -> None:
        """A client that stops amid its body is 408, not before its time, and its server is dropped."""
        self.world.wait(10)
        self.assertEqual(self.client.received, b"")
        self.world.wait(0.5)
        answer = self.client.response()
        self.assertEqual((answer.status, answer.closes), (408, True))
        self.assertTrue(self.upstream.ended)
        self.assertEqual(self.world.in_flight, [0])

    def test_dripping(self) -> None:
        """A client that sends less than the least rate is 408, though it never stops."""
        for _ in range(11):
            self.client.send(b"x")
            self.world.wait(1)
        self.assertEqual(self.client.response().status, 408)

    def test_progress(self) -> None:
        """A client that sends at the least rate may take any time."""
        for _ in range(8):
            self.client.send(b"x" * 20)
            self.world.wait(9.5)
        self.assertEqual(self.client.received, b"")
        self.client.send(b"x" * 840)
        self.upstream.send(response(b"hello"))
        self.assertEqual(self.client.response().body, b"hello")

    def test_amid_a_response(self) -> None:
        """A client that stops amid its body when its response has begun is cut off: there is no room for a 408."""
        self.upstream.send(response(b"hello")[:-1])
        self.world.wait(11)
        self.assertTrue(self.client.ended and self.upstream.ended)
        self.assertNotIn(b" 408 ", self.client.received)

    def test_no_rate(self) -> None:
        """Without a least rate, a byte is progress and silence is not."""
        world = World(body_timeout=10.0, min_body_rate=0)
        client, _ = world.asked(request("POST", "/", b"Content-Length: 1000", b"X-API-Key: " + KEY))
        for _ in range(5):
            client.send(b"x")
            world.wait(9)
        self.assertEqual(client.received, b"")
        world.wait(20)
        self.assertEqual(client.response().status, 408)
