"""The demo servers."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.demo import DemoSite, demo_address, demo_endpoint


class DemoSiteTests(SynchronousTestCase):
    def answer(self, request: bytes) -> bytes:
        protocol = DemoSite("server1", MemoryReactorClock()).buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(request)
        return transport.value()

    def test_answer(self) -> None:
        """Every path and method is answered with the name of the server, and nothing else."""
        for method in (b"GET", b"POST", b"DELETE", b"PURGE"):
            head, _, body = self.answer(method + b" /a/b?c HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").partition(
                b"\r\n\r\n"
            )
            self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"), head)
            self.assertEqual(body, b"Server server1 answer")

    def test_head(self) -> None:
        """HEAD has the length of the answer and no body."""
        head, _, body = self.answer(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: 21", head)
        self.assertEqual(body, b"")


class AddressTests(SynchronousTestCase):
    def test_loopback_only(self) -> None:
        """A demo server is for loopback addresses and localhost, and for no other host."""
        cases = [
            ("localhost", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.9.9.9", "127.9.9.9"),
            ("::1", "::1"),
            ("10.0.0.1", None),
            ("0.0.0.0", None),
            ("::", None),
            ("example.org", None),
            ("localhost.example.org", None),
        ]
        for host, expected in cases:
            self.assertEqual(demo_address(host), expected, host)

    def test_endpoints(self) -> None:
        """The endpoint of an address listens on that address alone."""
        for address in ("127.0.0.2", "::1"):
            reactor = MemoryReactorClock()
            serverFromString(reactor, demo_endpoint(address, 9001)).listen(DemoSite("a", reactor))
            ((port, _, _, interface),) = reactor.tcpServers
            self.assertEqual((port, interface), (9001, address))
