"""The connections of operators and probes, in memory: what is refused at the head, and what each may hold."""

from __future__ import annotations

import json
import tempfile
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.api.caller import read_answer
from tests.api.operator import Client, head_of
from twisted_lb.api import operators
from twisted_lb.api.admin import admin_factory
from twisted_lb.api.operators import (
    HEAD_SECONDS,
    IDLE_SECONDS,
    LINGERING_PAUSE_SECONDS,
    MAX_EMPTY_LINES,
    SEND_SECONDS,
    SERVE_SECONDS,
)
from twisted_lb.api.status import Report

LIVEZ = head_of("GET", "/livez")
READYZ = head_of("GET", "/readyz")


class OperatorCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.waiting: list[Deferred[Report]] = []
        self.new_factory(3)

    def new_factory(self, max_connections: int) -> None:
        self.factory = admin_factory(self.clock, self, (), max_connections)

    def report(self) -> Any:
        """Known when the test says so."""
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def client(self) -> Client:
        return Client(self.factory)

    def answered(self) -> None:
        """The oldest report that is waited for is known."""
        self.waiting.pop(0).callback(Report(True, False, "serving", [], {}))


class BodyTests(OperatorCase):
    def test_a_body_is_refused_at_its_head(self) -> None:
        """A request that announces a body is 413 before any of it is read, and the connection ends."""
        self.patch(tempfile, "TemporaryFile", lambda *_, **__: self.fail("spooled"))
        framings = (b"Content-Length: 1", b"Content-Length: 1000000000", b"Transfer-Encoding: chunked")
        for framing in framings:
            for method, target in [("POST", "/servers"), ("GET", "/livez"), ("PUT", "/x"), ("HEAD", "/readyz")]:
                client = self.client()
                client.send(head_of(method, target, framing, b"Expect: 100-continue"))
                answer = read_answer(client.received, method)
                self.assertEqual((answer.status, answer.field("connection")), (413, "close"), framing)
                self.assertEqual(answer.field("content-type"), "application/problem+json")
                self.assertTrue(client.ended)
                client.send(b"x" * 100_000)
                self.assertEqual(client.statuses, [413])
                client.leave()

    def test_no_body(self) -> None:
        """A request of another method without a body is 405, and the connection goes on."""
        client = self.client()
        client.send(head_of("POST", "/servers", b"Content-Length: 0"))
        client.send(head_of("DELETE", "/servers"))
        self.assertEqual((client.statuses, client.ended), ([405, 405], False))

    def test_endless_bodies(self) -> None:
        """A client that goes on sending after a refusal is cut off after 30 seconds, or a pause of 5 seconds."""
        client = self.client()
        client.send(head_of("POST", "/servers", b"Transfer-Encoding: chunked"))
        for _ in range(29):
            client.send(b"x" * 655_360)
            self.clock.advance(1)
        self.assertFalse(client.wire.reset)
        client.send(b"x")
        self.clock.advance(1)
        self.assertTrue(client.wire.reset)
        client = self.client()
        client.send(head_of("POST", "/servers", b"Transfer-Encoding: chunked"))
        self.clock.advance(LINGERING_PAUSE_SECONDS - 1)
        self.assertFalse(client.wire.reset)
        self.clock.advance(1)
        self.assertTrue(client.wire.reset)


class HeadTests(OperatorCase):
    def test_strict(self) -> None:
        """What has two readings is refused here as on the public listener, with a problem, and ends the connection."""
        for data, status in [
            (b"GET /livez HTTP/1.1\nHost: localhost\n\n", 400),
            (b"GET /livez HTTP/1.1\r\n\r\n", 400),
            (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (head_of("GET", "/livez", b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400),
            (head_of("GET", "/livez", b"X : y"), 400),
            (head_of("GET", "/livez", b"Transfer-Encoding: gzip"), 501),
            (head_of("GET", "/livez", version="2.0"), 505),
            (head_of("GET", "/livez", b"X: " + b"y" * 16384), 431),
            (head_of("GET", "/livez", *[b"X: y"] * 101), 431),
            (head_of("GET", "/" + "x" * 9000), 414),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, 400),
        ]:
            client = self.client()
            client.send(data)
            self.assertEqual((client.statuses, client.ended), ([status], True), data[:60])
            self.assertIn(b"Content-Type: application/problem+json", client.received)
            client.leave()

    def test_endless_head(self) -> None:
        """A head that does not end is refused at 16 KiB, in whatever pieces it comes."""
        client = self.client()
        client.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        for number in range(3000):
            if client.ended:
                break
            client.send(b"X: yyyy\r\n")
        self.assertEqual(client.statuses, [431])
        self.assertTrue(number < 16384 // 9)

    def test_old_clients(self) -> None:
        """A request of HTTP/1.0 without a host is answered, and the connection ends."""
        client = self.client()
        client.send(head_of("GET", "/livez", host=b"", version="1.0"))
        self.assertEqual((client.statuses, client.wire.disconnecting), ([200], True))

    def test_bytewise(self) -> None:
        """A head may come byte by byte, after empty lines too."""
        client = self.client()
        for byte in b"\r\n\r\n" + LIVEZ:
            client.send(bytes((byte,)))
        self.assertEqual(read_answer(client.received).body, b"ok\n")


class TurnTests(OperatorCase):
    def test_one_request_a_turn(self) -> None:
        """Requests that are pipelined are answered in order, one in each turn of the reactor."""
        client = self.client()
        client.send(LIVEZ + head_of("POST", "/livez") + LIVEZ)
        self.assertEqual(client.statuses, [200])
        self.turn()
        self.assertEqual(client.statuses, [200, 405])
        self.turn()
        self.assertEqual(client.statuses, [200, 405, 200])

    def turn(self) -> None:
        """What is due now runs, and what becomes due by that waits for the next turn; a Clock has no turns."""
        for call in [call for call in self.clock.calls if call.getTime() <= self.clock.seconds()]:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args)

    def test_read_ahead(self) -> None:
        """Behind a request that is not answered yet no more than a bound is read, and all of it is answered then."""
        client = self.client()
        client.send(READYZ)
        client.send(LIVEZ * 1000)
        self.assertEqual((client.statuses, client.wire.producerState), ([], "paused"))
        self.answered()
        for _ in range(1000):
            self.clock.advance(0)
        self.assertEqual((client.statuses, client.wire.producerState), ([200] * 1001, "producing"))

    def test_a_client_that_does_not_read(self) -> None:
        """While a client does not take its answers it gets no more of them, and after a while it is cut off."""
        client = self.client()
        client.protocol.pauseProducing()
        client.send(LIVEZ)
        self.clock.advance(1)
        self.assertEqual(client.statuses, [])
        client.protocol.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(client.statuses, [200])
        client.protocol.pauseProducing()
        self.clock.advance(SEND_SECONDS - 1)
        self.assertFalse(client.wire.reset)
        self.clock.advance(1)
        self.assertTrue(client.wire.reset)

    def test_half_closed(self) -> None:
        """A client that has ended its sending side gets all its answers, and then the connection ends."""
        client = self.client()
        client.send(READYZ + LIVEZ)
        client.end_sending()
        self.assertFalse(client.ended)
        self.answered()
        self.clock.advance(0)
        self.assertEqual((client.statuses, client.wire.disconnecting), ([200, 200], True))

    def test_a_client_that_leaves(self) -> None:
        """Nothing is written for a client that left while its answer was being made, and no timer is left."""
        client = self.client()
        client.send(READYZ)
        client.leave()
        self.answered()
        self.assertEqual((client.received, self.clock.getDelayedCalls()), (b"", []))


class DeadlineTests(OperatorCase):
    def test_idle(self) -> None:
        """A connection that asks nothing is closed after a minute; one that has asked has a minute again."""
        client = self.client()
        self.clock.advance(IDLE_SECONDS - 1)
        client.send(LIVEZ)
        self.clock.advance(IDLE_SECONDS - 1)
        self.assertFalse(client.ended)
        self.clock.advance(1)
        self.assertTrue(client.wire.disconnecting)
        # And at once, when what is written to it is not taken.
        self.clock.advance(SEND_SECONDS)
        self.assertTrue(client.wire.reset)

    def test_dripping_head(self) -> None:
        """A head that is not whole after ten seconds is 408, however its bytes drip."""
        client = self.client()
        self.clock.advance(5)
        for byte in LIVEZ[: int(HEAD_SECONDS) - 1]:
            client.send(bytes((byte,)))
            self.clock.advance(1)
        self.assertEqual(client.statuses, [])
        self.clock.advance(1)
        self.assertEqual((client.statuses, client.ended), ([408], True))

    def test_empty_lines_prolong_nothing(self) -> None:
        """Whoever sends empty lines only is idle, and is refused after a few of them."""
        client = self.client()
        for _ in range(MAX_EMPTY_LINES):
            client.send(b"\r\n")
            self.clock.advance(3)
        client.send(LIVEZ[:5])
        self.assertFalse(client.ended)
        self.clock.advance(HEAD_SECONDS)
        self.assertEqual(client.statuses, [408])
        client = self.client()
        self.clock.advance(IDLE_SECONDS - 1)
        client.send(b"\r\n")
        self.clock.advance(1)
        self.assertTrue(client.wire.disconnecting)
        for lines in (b"\r\n", b"\r\n" * 10_000):
            client = self.client()
            while not client.ended:
                client.send(lines)
            self.assertEqual(client.statuses, [400])

    def test_no_answer(self) -> None:
        """A request whose answer is never known does not hold its connection for ever."""
        client = self.client()
        client.send(READYZ)
        self.clock.advance(SERVE_SECONDS)
        self.assertTrue(client.wire.reset)


class NumberTests(OperatorCase):
    def test_the_longest_waiting_makes_room(self) -> None:
        """For one connection more, the one that has waited longest for a request, or for the rest of one, is ended."""
        first, second, third = (self.client() for _ in range(3))
        first.send(LIVEZ)
        second.send(LIVEZ[:10])
        fourth = self.client()
        self.assertEqual([one.wire.reset for one in (first, second, third)], [False, True, False])
        self.client()
        self.assertEqual([one.wire.reset for one in (first, third, fourth)], [False, True, False])

    def test_no_room(self) -> None:
        """Those that are being served are not ended for others, who are turned away with a 503."""
        busy = [self.client() for _ in range(3)]
        for client in busy:
            client.send(READYZ)
        turned_away = self.client()
        self.assertEqual((turned_away.statuses, turned_away.ended), ([503], True))
        turned_away.send(b"x" * 65536)
        self.assertFalse(turned_away.wire.reset)
        self.clock.advance(LINGERING_PAUSE_SECONDS)
        self.assertTrue(turned_away.wire.reset)
        self.assertIn("too many", json.loads(turned_away.received.partition(b"\r\n\r\n")[2])["detail"])
        self.answered()
        self.assertEqual(busy[0].statuses, [200])
        self.assertFalse(self.client().ended)

    def test_never_more(self) -> None:
        """However connections come, ask and go, there are never more than the bound."""
        self.new_factory(5)
        clients: list[Client] = []
        for number in range(200):
            client = self.client()
            clients.append(client)
            if number % 3:
                client.send(LIVEZ if number % 2 else LIVEZ[:5])
            if number % 7 == 0:
                client.leave()
            live = [one for one in clients if not one.ended]
            self.assertTrue(len(self.factory._connections) <= 5)
            self.assertTrue(set(self.factory._idle) <= self.factory._connections)
            self.assertTrue(len(live) <= 5 + len(clients) // 7 + 1)
        self.patch(operators, "IDLE_SECONDS", 1.0)
        for client in clients:
            client.leave()
        self.assertEqual((self.factory._connections, self.clock.getDelayedCalls()), (set(), []))
