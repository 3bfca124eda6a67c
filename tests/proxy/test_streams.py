"""The streams between an exchange and its two sides."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyClass, verifyObject

from tests.proxy.world import World, request, response
from twisted_lb.proxy.client_connection import ClientConnection
from twisted_lb.proxy.exchange import Exchange
from twisted_lb.proxy.server_connection import ServerConnection
from twisted_lb.proxy.streams import IClientStream, IResponseReceiver, IServerStream


class InterfaceTests(SynchronousTestCase):
    def test_http_1(self) -> None:
        """The connections and the exchange have all that the streams promise."""
        world = World()
        client, upstream = world.asked()
        verifyObject(IClientStream, client.transport.protocol)
        verifyObject(IServerStream, upstream.transport.protocol)
        verifyClass(IClientStream, ClientConnection, tentative=True)
        verifyClass(IServerStream, ServerConnection, tentative=True)
        verifyClass(IResponseReceiver, Exchange, tentative=True)


class FramingTests(SynchronousTestCase):
    def test_head_of_its_own_side(self) -> None:
        """Each side frames content in its own way, whatever the other does."""
        world = World()
        client = world.client()
        head = request("POST", "/", b"Transfer-Encoding: chunked")
        client.send(head, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
        received = world.server.last.received
        self.assertEqual(received.partition(b"\r\n\r\n")[2], b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        world.server.last.send(response(b"done"))
        self.assertEqual(client.read().partition(b"\r\n\r\n")[2], b"done")

    def test_until_close(self) -> None:
        """Content that ends with the server's connection goes in chunks to HTTP/1.1, and to the close to HTTP/1.0."""
        for version, body in (("1.1", b"4\r\ndone\r\n0\r\n\r\n"), ("1.0", b"done")):
            world = World()
            client = world.client()
            client.send(request(version=version))
            world.server.last.send(b"HTTP/1.1 200 OK\r\n\r\n", b"done")
            world.server.last.finish()
            self.assertEqual(client.read().partition(b"\r\n\r\n")[2], body)
            self.assertEqual(client.ended, version == "1.0")
