"""Requests of twisted.web that are served by the data path: what their records say."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.proxy.world import World, request, response
from twisted_lb.request_record import BAD_REQUEST, COMPLETE, RequestRecord
from twisted_lb.web.request_stream import RequestStream

PEER = IPv4Address("TCP", "192.0.2.7", 40000)


class Proxied(Resource):
    """Sends each request to the servers of a World."""

    isLeaf = True

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def render(self, request: Request) -> int:
        factory = self.world.factory
        stream = RequestStream(request, factory.limits, factory.data_path, lambda stream: None)
        stream.start(request.uri)
        return NOT_DONE_YET


class RecordTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(request_id="id")
        self.records: list[RequestRecord] = []
        self.world.factory.subscribe(self.records.append)
        site = Site(Proxied(self.world), reactor=self.world.clock)
        site.timeOut = None
        self.transport = StringTransport(peerAddress=PEER)
        self.channel: Any = site.buildProtocol(PEER)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)
        self.world.settle()

    def answer(self, data: bytes) -> None:
        self.world.server.last.send(data)
        self.world.settle()

    def record(self) -> RequestRecord:
        (one,) = self.records
        return one

    def assert_bytes_out(self, content: bytes) -> None:
        sent = self.transport.value()
        one = self.record()
        self.assertEqual((one.bytes_out, one.content_out), (len(sent), len(content)), sent)

    def test_head_that_is_not_valid(self) -> None:
        """A request whose head twisted.web accepts and the data path does not is recorded with what was asked."""
        data = request("GET", "/a?b", b"Host: another")
        self.send(data)
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 400 "), self.transport.value())
        one = self.record()
        self.assertEqual((one.method, one.target, one.status, one.reason), (b"GET", b"/a?b", 400, BAD_REQUEST))
        self.assertEqual(len(one.request_id), 32)
        self.assertIn(one.request_id, self.transport.value())
        self.assertEqual(one.bytes_in, len(data))

    def test_length(self) -> None:
        """The bytes of a response are those that were written, with its head."""
        data = request("GET", "/")
        self.send(data)
        self.answer(response(b"hello", b"X-A: b"))
        self.assertEqual((self.record().reason, self.record().bytes_in), (COMPLETE, len(data)))
        self.assert_bytes_out(b"hello")

    def test_chunks(self) -> None:
        """The same with the framing of chunks."""
        self.send(request("GET", "/"))
        self.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        self.answer(b"10\r\n0123456789abcdef\r\n0\r\n\r\n")
        self.assertTrue(self.transport.value().endswith(b"\r\n0\r\n\r\n"))
        self.assert_bytes_out(b"hello0123456789abcdef")

    def test_without_content(self) -> None:
        """A response to HEAD has no content, also if it is an error."""
        self.send(request("HEAD", "/", b"apikey: another"))
        self.assertEqual(self.record().status, 400)
        self.assert_bytes_out(b"")
