"""X-Request-ID and traceparent: passed on if they are valid, otherwise generated."""

from __future__ import annotations

import json
import re

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import World, request, response
from twisted_lb.proxy.request_ids import RequestIds, valid_traceparent, without_id
from twisted_lb.request_record import RequestRecord

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lines(data: bytes, name: bytes) -> list[bytes]:
    """The values of a field in a head."""
    head = data.partition(b"\r\n\r\n")[0]
    return re.findall(rb"(?im)^%b: (.*?)\r?$" % name, head)


class IdTests(SynchronousTestCase):
    def test_new(self) -> None:
        """Ids differ, and are 32 hexadecimal digits, also where a block of random bytes is used up."""
        ids = RequestIds(False)
        made = [ids.new() for _ in range(1000)]
        self.assertEqual(len(set(made)), 1000)
        self.assertTrue(all(re.fullmatch(rb"[0-9a-f]{32}", one) for one in made))

    def test_valid_ids(self) -> None:
        """A client's id is 1 to 128 characters of a safe set; any other is replaced, and so is a repeated one."""
        ids = RequestIds(False)
        for value in (b"a", b"b" * 128, b"0b8a1d3e-5c6f-4a7b-8c9d-0e1f2a3b4c5d", b"Root=1-6789:x"):
            self.assertEqual(ids.identify({b"x-request-id": [value]}), value)
        for values in ([b""], [b"a" * 129], [b"a b"], [b'a"b'], [b"a\x00"], [b"\xc3\xa4"], [b"a;b"], [b"a", b"b"]):
            notable = {b"x-request-id": values}
            made = ids.identify(notable)
            self.assertEqual((len(made), notable[b"x-request-id"]), (32, [made]))

    def test_valid_traceparents(self) -> None:
        """W3C Trace Context section 3.2: the lengths, lower case, no zeros, not version ff."""
        later = b"01" + PARENT[2:]
        for good in (PARENT, later, later + b"-more"):
            self.assertTrue(valid_traceparent(good), good)
        zeros = PARENT.replace(b"0af7651916cd43dd8448eb211c80319c", b"0" * 32)
        wrong = [b"", PARENT[:-1], PARENT + b"-x", later + b"x", PARENT.upper(), b"ff" + PARENT[2:], zeros]
        wrong += [PARENT.replace(b"b7ad6b7169203331", b"0" * 16), PARENT + b" ", PARENT.replace(b"-", b"_")]
        for bad in wrong:
            self.assertFalse(valid_traceparent(bad), bad)

    def test_without_id(self) -> None:
        """A server's own id is taken out of a response, whatever its case, and nothing else is."""
        fields = b"\r\nA: 1\r\nX-REQUEST-Id: x\r\nX-Request-ID-2: 3\r\nB: x-request-id:"
        self.assertEqual(without_id(fields), b"\r\nA: 1\r\nX-Request-ID-2: 3\r\nB: x-request-id:")


class OffTests(SynchronousTestCase):
    def test_off(self) -> None:
        """Without the setting these fields are like any others, in both directions."""
        fields = (b"X-Request-ID: not valid", b"traceparent: x", b"tracestate: y")
        client, upstream = World().asked(request("GET", "/", *fields))
        for line in fields:
            self.assertIn(b"\r\n" + line + b"\r\n", upstream.received)
        upstream.send(response(b"", b"X-Request-ID: the server's"))
        self.assertEqual(lines(client.received, b"X-Request-ID"), [b"the server's"])
        client = World().client()
        client.send(b"malformed\r\n\r\n")
        self.assertNotIn(b"equest-ID", client.received)

    def test_default(self) -> None:
        """With an access log requests get ids; a trace context is made only where it was asked for."""
        for settings, expected in (
            ({}, "off"),
            ({"access_log": "-"}, "id"),
            ({"access_log": "-", "request_id": "off"}, "off"),
            ({"request_id": "on"}, "on"),
        ):
            self.assertEqual(World(**settings).settings.request_ids, expected)


class OnTests(SynchronousTestCase):
    def world(self, mode: str = "id", **settings: str) -> tuple[World, list[RequestRecord]]:
        world = World(request_id=mode, **settings)  # type: ignore[arg-type]
        records: list[RequestRecord] = []
        world.factory.subscribe(records.append)
        return world, records

    def test_passed_on(self) -> None:
        """A valid id goes to the server, back to the client in place of the server's, and into the record."""
        world, records = self.world()
        fields = b"x-request-id: mine", b"Traceparent: " + PARENT, b"tracestate: a=b"
        client, upstream = world.asked(request("GET", "/", *fields))
        self.assertEqual(lines(upstream.received, b"X-Request-ID"), [b"mine"])
        self.assertEqual(lines(upstream.received, b"traceparent"), [PARENT])
        self.assertEqual(lines(upstream.received, b"tracestate"), [b"a=b"])
        upstream.send(response(b"", b"X-Request-ID: other"))
        self.assertEqual(lines(client.received, b"X-Request-ID"), [b"mine"])
        self.assertEqual((records[0].request_id, records[0].trace_id), (b"mine", PARENT[3:35]))

    def test_other_responses(self) -> None:
        """A server's id, and its HSTS policy, are replaced in interim responses and in a switch of protocols too."""
        world, _ = self.world(hsts="max-age=60")
        client = world.client(tls=True)
        upgrade = b"Upgrade: websocket", b"Connection: Upgrade", b"x-request-id: mine"
        client.send(request("GET", "/", *upgrade))
        own = b"X-Request-ID: other\r\nStrict-Transport-Security: max-age=1\r\n"
        world.server.last.send(b"HTTP/1.1 103 Early Hints\r\n" + own + b"Link: a\r\n\r\n")
        switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        world.server.last.send(switched + own + b"\r\n")
        interim, _, final = client.received.partition(b"\r\n\r\n")
        self.assertEqual(interim, b"HTTP/1.1 103 Early Hints\r\nLink: a")
        self.assertEqual(lines(final, b"X-Request-ID"), [b"mine"])
        self.assertEqual(lines(final, b"Strict-Transport-Security"), [b"max-age=60"])

    def test_made(self) -> None:
        """Without a valid id there is a new one for each request of a connection; wrong traces go no further."""
        world, records = self.world()
        client, upstream = world.asked(request("GET", "/", b"traceparent: x", b"tracestate: a=b"))
        upstream.send(response())
        client.send(request())
        upstream.send(response())
        self.assertEqual((lines(upstream.received, b"traceparent"), lines(upstream.received, b"tracestate")), ([], []))
        first, second = (one.request_id for one in records)
        self.assertNotEqual(first, second)
        self.assertEqual(client.received.count(b"\r\nX-Request-ID: " + first), 1)
        self.assertEqual(client.received.count(b"\r\nX-Request-ID: " + second), 1)

    def test_trace_made(self) -> None:
        """With "on" a request without a valid trace context gets one, which is sampled."""
        world, records = self.world("on")
        _, upstream = world.asked(request("GET", "/", b"tracestate: a=b"))
        [made] = lines(upstream.received, b"traceparent")
        self.assertTrue(valid_traceparent(made) and made.endswith(b"-01"), made)
        self.assertEqual(lines(upstream.received, b"tracestate"), [])
        upstream.send(response())
        self.assertEqual(records[0].trace_id, made[3:35])

    def test_problems(self) -> None:
        """Every problem document has the id, and so has its head: refusals, malformed requests, no room."""
        cases = [
            request("GET", "/", b"apikey: another"),
            b"malformed\r\n\r\n",
            request("TRACE"),
            request("GET", "/", b"X-Request-ID: \x80"),
            request("POST", "/door", b"Content-Length: 5000"),
        ]
        for data in cases:
            world, records = self.world()
            world.backends[0].maxconn = world.backends[0].in_flight = 1
            world.pool.balancer.backends_changed([])
            client = world.client()
            client.send(data)
            answer = client.response()
            document = json.loads(answer.body)
            self.assertEqual(lines(client.received, b"X-Request-ID"), [document["request_id"].encode()], data)
            self.assertEqual(records[0].request_id.decode(), document["request_id"])
        world = World(request_id="id", max_connections=1)
        world.asked()
        self.assertEqual(len(json.loads(world.client().response().body)["request_id"]), 32)

    def test_door(self) -> None:
        """What the door answers has it in the head; its content is its own."""
        world, records = self.world()
        client = world.client()
        client.send(request("GET", "/door", b"X-Request-ID: mine"))
        self.assertEqual(client.response().body, b"door")
        self.assertEqual(lines(client.received, b"X-Request-ID"), [b"mine"])
        self.assertEqual(world.door.calls[0].reply.request_id, b"mine")
        self.assertEqual(records[0].request_id, b"mine")

    def test_folded_names(self) -> None:
        """A name that servers may take for X-Request-ID goes no further, and Connection can take it away."""
        for field in (b"X_Request_ID: mine", b"X.Request.ID: mine", b"X-Request-ID: mine\r\nConnection: x-request-id"):
            world = World(request_id="id", unusual_field_names="pass")
            _, upstream = world.asked(request("GET", "/", field))
            self.assertNotIn(b"ID: mine", upstream.received)
