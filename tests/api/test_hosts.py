"""Which names count as this machine's own."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api.hosts import counts_as_local

OURS = (
    *("localhost", "localhost:9090", "LocalHost.", "127.0.0.1", "127.0.0.1:1", "127.9.9.9:9090", "[::1]", "[::1]:9090"),
    *("[::ffff:127.0.0.1]:9090", "[0:0:0:0:0:0:0:1]"),
)
OTHERS = (
    *("attacker.example", "attacker.example:9090", "localhost.attacker.example", "127.0.0.1.attacker.example"),
    *("127.0.0.1.nip.io", "notlocalhost", "x.localhost", "127.1", "2130706433", "0x7f.0.0.1", "0.0.0.0", "[::]"),
    *("10.0.0.2", "[2001:db8::2]", "[::ffff:10.0.0.2]", "[v1.x]", "%6cocalhost", "127.0.0.1%2e", "localhost%00"),
)


class HostTests(SynchronousTestCase):
    def test_loopback(self) -> None:
        """Localhost and loopback addresses count, with any port, wherever the connection has come to."""
        for here in ("127.0.0.1", "::1", "10.0.0.1"):
            for host in OURS:
                self.assertTrue(counts_as_local(host.encode(), here), host)

    def test_others(self) -> None:
        """No other name counts, however much it looks like one, and no other address."""
        for here in ("127.0.0.1", "::1", "10.0.0.1"):
            for host in OTHERS:
                self.assertFalse(counts_as_local(host.encode(), here), host)

    def test_the_address_that_was_reached(self) -> None:
        """The address that the connection has come to counts, as IPv4 or IPv6 and however it is written."""
        for here, host in [
            ("10.0.0.1", "10.0.0.1:9090"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "[::ffff:10.0.0.1]"),
            ("2001:db8::1", "[2001:db8:0::1]:9090"),
            ("fe80::1%eth0", "[fe80::1]"),
        ]:
            self.assertTrue(counts_as_local(host.encode(), here), host)

    def test_no_browser(self) -> None:
        """A request without a host, and one that has come over a Unix socket, are no browser's."""
        self.assertTrue(counts_as_local(b"", "127.0.0.1"))
        self.assertTrue(counts_as_local(b"attacker.example", ""))
