"""Server endpoints: which are supported, which are rejected and why, and which conflict."""

from __future__ import annotations

import socket
from itertools import permutations
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase, TestCase

from twisted_lb.network.listener import Endpoint, conflict, ipv6_only, listen, read_endpoint, trial


class ReadingTests(SynchronousTestCase):
    def test_served(self) -> None:
        """TCP over both families, and Unix sockets, are read as Twisted reads them."""
        for text, expected in [
            ("tcp:80", Endpoint("tcp:80", 80, "")),
            ("tcp:0:interface=127.0.0.1", Endpoint("tcp:0:interface=127.0.0.1", 0, "127.0.0.1")),
            ("TCP6:65535", None),
            ("tcp6:8080", Endpoint("tcp6:8080", 8080, "::")),
            ("tcp6:80:interface=\\:\\:1", Endpoint("tcp6:80:interface=\\:\\:1", 80, "::1")),
            ("unix:/run/x", Endpoint("unix:/run/x", path="/run/x", lock=True)),
            ("unix:/run/x:mode=660:lockfile=0", Endpoint("unix:/run/x:mode=660:lockfile=0", path="/run/x")),
        ]:
            if expected is not None:
                self.assertEqual(read_endpoint(text), expected)

    def test_refused(self) -> None:
        """All else is refused with the reason, and with what is served."""
        for text, reason in [
            ("ssl:443:privateKey=a", "for TLS, put the endpoint into TLS_LISTEN"),
            ("tls:443", "for TLS, put the endpoint into TLS_LISTEN"),
            ("haproxy:tcp:80", "for the PROXY protocol, set PROXY_PROTOCOL_FROM"),
            ("stdio:", "standard input is one connection"),
            ("onion:80", "'onion' is not a kind of endpoint"),
            ("80", "'80' is not a kind of endpoint"),
            ("", "'' is not a kind of endpoint"),
            ("tcp:99999", "a port is a number from 0 to 65535, not 99999"),
            ("tcp:-1", "a port is a number from 0 to 65535, not -1"),
            ("tcp6:65536", "a port is a number from 0 to 65535, not 65536"),
            ("tcp:http", "it cannot be read"),
            ("tcp:", "it cannot be read"),
            ("tcp:80:x=y", "it cannot be read"),
            ("tcp6:80:interface=::1", "a colon within a value is written \\:"),
            ("unix", "it cannot be read"),
            ("unix:", "it names no path"),
            ("unix:/" + "x" * 108, "the path of a Unix socket has at most 107 bytes"),
            ("unix:/x:mode=rwx", "it cannot be read"),
            ("systemd:domain=INET:index=0", "systemd has passed no such socket"),
            ("systemd:domain=INET:name=x", "systemd has passed no such socket"),
            ("systemd:domain=INET", "it cannot be read"),
        ]:
            error = self.assertRaises(ValueError, read_endpoint, text)
            self.assertIn(reason, str(error), text)
        self.assertIn("expected tcp, tcp6, unix or systemd", str(self.assertRaises(ValueError, read_endpoint, "ssl:1")))


class ConflictTests(SynchronousTestCase):
    def test_same_place(self) -> None:
        """Two endpoints that only one socket could have are at odds, in either order."""
        for one, other in [
            ("tcp:80", "tcp:80"),
            ("tcp:80", "tcp:80:interface=127.0.0.1"),
            ("tcp:80:interface=0.0.0.0", "tcp:80:interface=127.0.0.1"),
            ("tcp6:80", "tcp6:80:interface=\\:\\:1"),
            ("tcp6:80:interface=\\:\\:1", "tcp6:80:interface=0\\:0\\:0\\:0\\:0\\:0\\:0\\:1"),
            ("tcp:80:interface=127.0.0.1", "tcp6:80:interface=\\:\\:ffff\\:127.0.0.1"),
            ("tcp:80", "tcp6:80:interface=\\:\\:ffff\\:127.0.0.1"),
            ("tcp:80:interface=127.0.0.1", "tcp6:80:interface=\\:\\:ffff\\:0.0.0.0"),
            ("unix:/x", "unix:/x:mode=600"),
            ("unix:/x", "unix:/./x"),
            ("unix:/x", "unix:/x.lock"),
        ]:
            for pair in permutations([read_endpoint(one), read_endpoint(other)]):
                self.assertTrue(conflict(*pair), pair)

    def test_different_places(self) -> None:
        """Other ports, other addresses, and the two families are no conflict, and neither are two free ports."""
        for one, other in [
            ("tcp:80", "tcp:81"),
            ("tcp:80:interface=127.0.0.1", "tcp:80:interface=127.0.0.2"),
            ("tcp:80", "tcp6:80"),
            ("tcp:80", "tcp6:80:interface=\\:\\:1"),
            ("tcp:0", "tcp:0"),
            ("tcp6:80:interface=\\:\\:1", "tcp6:80:interface=\\:\\:ffff\\:127.0.0.1"),
            ("unix:/x", "unix:/y"),
            ("unix:/x:lockfile=0", "unix:/x.lock"),
            ("unix:/x", "tcp:80"),
        ]:
            for pair in permutations([read_endpoint(one), read_endpoint(other)]):
                self.assertFalse(conflict(*pair), pair)

    def test_ipv6_only(self) -> None:
        """An IPv6 wildcard leaves IPv4 to another endpoint with its port, and takes it itself when there is none."""
        wildcard = read_endpoint("tcp6:80")
        for other, expected in [
            ("tcp:80", True),
            ("tcp:80:interface=127.0.0.1", True),
            ("tcp6:80:interface=\\:\\:ffff\\:127.0.0.1", True),
            ("tcp:81", False),
            ("tcp6:80:interface=\\:\\:1", False),
            ("unix:/x", False),
        ]:
            self.assertEqual(ipv6_only(wildcard, [read_endpoint("tcp:9"), read_endpoint(other)]), expected, other)
        self.assertFalse(ipv6_only(read_endpoint("tcp:80"), [wildcard]))
        self.assertFalse(ipv6_only(read_endpoint("tcp6:80:interface=\\:\\:1"), [read_endpoint("tcp:80")]))


class TrialTests(TestCase):
    def found(self, text: str) -> str:
        """What a trial finds that is in the way."""
        obstacle = trial(read_endpoint(text))
        return f"{obstacle.detail}{' (running)' if obstacle.in_use else ''}" if obstacle else ""

    def test_address(self) -> None:
        """An address that this machine does not have is found without listening."""
        self.assertIn("cannot listen: ", self.found("tcp:8080:interface=192.0.2.1"))
        self.assertIn("cannot listen: ", self.found("tcp:8080:interface=127.0.0.300"))
        self.assertIn("cannot listen: ", self.found("tcp:8080:interface=a..b"))
        self.assertEqual(self.found("tcp:0:interface=127.0.0.1"), "")

    def test_port_in_use(self) -> None:
        """Of a port that a process has, the trial says that one runs, and not that it could never be opened."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            expected = "it is in use by another process (running)"
            self.assertEqual(self.found(f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"), expected)

    def test_mapped_address(self) -> None:
        """An IPv4-mapped address can be listened on, as a start finds as well."""
        text = "tcp6:0:interface=\\:\\:ffff\\:127.0.0.1"
        self.assertEqual(self.found(text), "")
        port: Any = self.successResultOf(Deferred.fromCoroutine(listen(reactor, text, (), Factory())))
        self.assertEqual(port.getHost().host, "::ffff:127.0.0.1")
        return port.stopListening()  # type: ignore[no-any-return]
