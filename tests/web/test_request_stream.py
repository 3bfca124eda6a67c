"""Requests of twisted.web that are served by the data path: the contents of their records."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tests.proxy.scripted import OrderedServices, ScriptedServer
from tests.proxy.world import World, request, response
from twisted_lb.backend import Backend
from twisted_lb.hooks.hooks import Hooks
from twisted_lb.interfaces import HookResponse, IHookRequest, IHookResponse
from twisted_lb.limits.pricing import NO_PRICING
from twisted_lb.pool.pool import Pool
from twisted_lb.proxy.route import Mirror, Route
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


class StreamCase(SynchronousTestCase):
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


class RecordTests(StreamCase):
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


class HookTests(StreamCase):
    """Hooks and mirrors work as on a listener of the program."""

    def use(self, hooks: Any) -> None:
        self.world.use(Route(self.world.server_pool, NO_PRICING, hooks=Hooks("mine:Hooks", hooks)))

    def test_response_of_hooks(self) -> None:
        """A response of hooks is that of the resource; and they are told of the end."""

        class Answering:
            records: list[RequestRecord] = []

            def request_received(self, request: IHookRequest) -> HookResponse:
                return HookResponse(403, [(b"X-Why", b"because")], b"no")

            def request_finished(self, record: RequestRecord) -> None:
                self.records.append(record)

        self.use(Answering())
        self.send(request("GET", "/"))
        sent = self.transport.value()
        self.assertTrue(sent.startswith(b"HTTP/1.1 403 "), sent)
        self.assertIn(b"\r\nX-Why: because\r\n", sent)
        self.assertTrue(sent.endswith(b"\r\n\r\nno"))
        self.assertEqual(Answering.records, self.records)

    def test_changes_of_hooks(self) -> None:
        """Header fields are changed in both directions, and an exception is 500."""

        class Changing:
            def request_received(self, request: IHookRequest) -> None:
                request.fields.set(b"X-Tenant", b"acme")

            def response_started(self, request: IHookRequest, backend: Any, response: IHookResponse) -> None:
                if request.target == b"/fails":
                    raise ValueError
                response.fields.set(b"X-Answered-By", b"s1")

        self.use(Changing())
        self.send(request("GET", "/"))
        self.assertIn(b"\r\nX-Tenant: acme\r\n", self.world.server.last.received)
        self.answer(response(b"hello"))
        self.assertIn(b"\r\nX-Answered-By: s1\r\n", self.transport.value())
        self.send(request("GET", "/fails"))
        self.answer(response(b"hello"))
        self.assertIn(b"HTTP/1.1 500 ", self.transport.value())
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_client_that_leaves(self) -> None:
        """A client that leaves cancels what hooks wait for."""
        cancelled: list[object] = []

        class Waiting:
            def request_received(self, request: IHookRequest) -> Deferred[None]:
                return Deferred(cancelled.append)

        self.use(Waiting())
        self.send(request("GET", "/"))
        self.assertEqual(cancelled, [])
        self.channel.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(len(self.world.buckets.refunded), 1)

    def test_copy(self) -> None:
        """A mirror gets the content that twisted.web has received."""
        world = self.world
        backend = Backend("m1", "127.0.0.1", 9101)
        mirror = ScriptedServer(backend, world.clock)
        world.servers.append(mirror)
        pool = world.factory.add_pool(Pool(OrderedServices(), [backend]), name="shadow")
        route = Route(world.server_pool, NO_PRICING)
        route.copy_to(Mirror(Route(pool, NO_PRICING), 100.0, Random()))
        world.use(route)
        content = bytes(range(256)) * 1000
        self.send(request("POST", "/", body=content))
        world.wait(1)
        for server in (world.server, mirror):
            self.assertTrue(server.last.received.endswith(b"\r\n\r\n" + content))
        self.answer(response(b"hello"))
        self.assertTrue(self.transport.value().endswith(b"hello"))
