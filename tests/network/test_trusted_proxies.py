"""The client of a request from a trusted proxy: tables of field values and the client that they give."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from twisted_lb.network.address_ranges import AddressRanges
from twisted_lb.network.peer import UNIX_ADDRESS, PeerInfo, TlsInfo
from twisted_lb.network.trusted_proxies import TrustedProxy
from twisted_lb.wire.head import Notable

TRUSTED = AddressRanges(("10.0.0.0/8", "192.0.2.1/32", "2001:db8:f::/48", "unix:"))
PEER = PeerInfo("10.0.0.1", "10.0.0.1", b"http", None, 50000)
CLIENT = "198.51.100.7"


def client(notable: Notable, peer: PeerInfo = PEER) -> PeerInfo:
    """The client of a request with these fields."""
    return TrustedProxy(peer, TRUSTED).client_of(notable)[0]


def by_x(*values: bytes) -> str:
    return client({b"x-forwarded-for": list(values)}).address


def by_forwarded(*values: bytes) -> str:
    return client({b"forwarded": list(values)}).address


class AddressTests(SynchronousTestCase):
    def test_x_forwarded_for(self) -> None:
        """The client is the right-most address that is not trusted; if all are, the left-most."""
        for values, expected in (
            ((b"198.51.100.7",), CLIENT),
            ((b"198.51.100.7, 10.9.9.9",), CLIENT),
            ((b"203.0.113.1, 198.51.100.7, 10.9.9.9, 192.0.2.1",), CLIENT),
            ((b"10.9.9.9, 198.51.100.7",), CLIENT),
            ((b"198.51.100.7:1234",), CLIENT),
            ((b"::ffff:198.51.100.7",), CLIENT),
            ((b"[::ffff:c633:6407]:80, ::ffff:10.1.1.1",), CLIENT),
            ((b"2001:db8::7, 2001:db8:f::1",), "2001:db8::7"),
            ((b"[2001:DB8::7]:443",), "2001:db8::7"),
            ((b"203.0.113.1", b"198.51.100.7", b"10.9.9.9"), CLIENT),
            ((b"203.0.113.1", b"", b" , 198.51.100.7\t,,"), CLIENT),
            ((b"10.9.9.9, 10.8.8.8",), "10.9.9.9"),
            ((b"unix:",), UNIX_ADDRESS),
            ((b"198.51.100.7, unix:",), CLIENT),
        ):
            self.assertEqual(by_x(*values), expected, values)

    def test_no_address(self) -> None:
        """What is not an address ends the list: the client is the trusted proxy that has added it."""
        for wrong in (b"unknown", b"_x", b"a.test", b"10.0.0.256", b"198.51.100.7:", b"fe80::1%eth0", b"-"):
            self.assertEqual(by_x(wrong), "10.0.0.1", wrong)
            self.assertEqual(by_x(b"203.0.113.1, " + wrong), "10.0.0.1", wrong)
            self.assertEqual(by_x(b"203.0.113.1, " + wrong + b", 10.9.9.9, 10.8.8.8"), "10.9.9.9", wrong)
            self.assertEqual(by_x(wrong + b", 198.51.100.7"), CLIENT, wrong)
            self.assertEqual(by_forwarded(b"for=203.0.113.1, for=" + wrong + b", for=10.9.9.9"), "10.9.9.9", wrong)
        for values in ((), (b"",), (b", ,",)):
            self.assertEqual(by_x(*values), "10.0.0.1")
            self.assertEqual(by_forwarded(*values), "10.0.0.1")

    def test_forwarded(self) -> None:
        """The same of Forwarded (RFC 7239)."""
        for values, expected in (
            ((b"for=198.51.100.7",), CLIENT),
            ((b"For=198.51.100.7;proto=https;by=10.0.0.1",), CLIENT),
            ((b'for="198.51.100.7:80", for=10.9.9.9',), CLIENT),
            ((b'for="[2001:db8::7]:80"',), "2001:db8::7"),
            ((b"for=203.0.113.1", b"for=198.51.100.7, for=10.9.9.9"), CLIENT),
            ((b"for=203.0.113.1, proto=https",), "10.0.0.1"),
            ((b"for=203.0.113.1, for=198.51.100.7:80",), "10.0.0.1"),
            ((b"for=203.0.113.1, for=[2001:db8::7]",), "10.0.0.1"),
            ((b'for="unix:"',), UNIX_ADDRESS),
            ((b'for="203.0.113.1, for=198.51.100.7',), CLIENT),
            ((b'a="', b'for="198.51.100.7"'), CLIENT),
        ):
            self.assertEqual(by_forwarded(*values), expected, values)

    def test_both(self) -> None:
        """Two lists must lead to one client; where they do not, neither is believed."""
        for x, forwarded, expected in (
            (b"198.51.100.7", b"for=198.51.100.7", CLIENT),
            (b"203.0.113.1, 198.51.100.7, 10.9.9.9", b'for="198.51.100.7:80"', CLIENT),
            (b"::ffff:198.51.100.7", b"for=198.51.100.7", CLIENT),
            (b"198.51.100.7", b"", CLIENT),
            (b"", b"for=198.51.100.7", CLIENT),
            (b"198.51.100.7", b"for=203.0.113.1", "10.0.0.1"),
            (b"198.51.100.7", b"for=unknown", "10.0.0.1"),
            (b"198.51.100.7", b"for", "10.0.0.1"),
            (b"x", b"for=198.51.100.7", "10.0.0.1"),
        ):
            forwarded += b";proto=https" if forwarded else b""
            found = client({b"x-forwarded-for": [x], b"forwarded": [forwarded], b"x-forwarded-proto": [b"https"]})
            self.assertEqual(found.address, expected, (x, forwarded))
            self.assertEqual(found.scheme, b"https" if expected == CLIENT else b"http")

    def test_x_real_ip(self) -> None:
        """X-Real-IP is never believed."""
        self.assertEqual(client({b"x-real-ip": [b"198.51.100.7"]}), PEER)

    def test_network_and_port(self) -> None:
        """The client has its own network and port, and the TLS of its proxy's connection."""
        peer = PEER._replace(tls=TlsInfo(), scheme=b"https", destination="192.0.2.9", destination_port=443)
        found = client({b"x-forwarded-for": [b"[2001:db8::7]:80"]}, peer)
        expected = PeerInfo("2001:db8::7", "2001:db8::/64", b"https", TlsInfo(), 80, "192.0.2.9", 443)
        self.assertEqual(found, expected)

    def test_longest_chain(self) -> None:
        """Of a list without an end 64 entries are read."""
        for count in (63, 64, 65, 1000):
            expected = CLIENT if count < 64 else "10.9.9.9"
            self.assertEqual(by_x(b"198.51.100.7" + b",10.9.9.9" * count), expected)
            self.assertEqual(by_forwarded(b"for=198.51.100.7" + b",for=10.9.9.9" * count), expected)


_garbage = st.lists(
    st.sampled_from(
        [b'"', b"\\", b",", b";", b"=", b" ", b"\t", b"for=", b'for="', b"203.0.113.1", b"10.0.0.1", b"unknown"]
        + [b"_x", b"[", b"]", b"::1", b":", b"proto=https", b"\xff", b"unix:"]
    ),
    max_size=12,
).map(b"".join)


class GarbageTests(SynchronousTestCase):
    @settings(derandomize=True, database=None, max_examples=150)
    @given(st.lists(_garbage, max_size=3), st.booleans())
    def test_on_the_left(self, garbage: list[bytes], same_line: bool) -> None:
        """Whatever a client sends itself stands on the left, and does not change who it is."""
        for right, name in (
            (b"198.51.100.7", b"x-forwarded-for"),
            (b"198.51.100.7, 10.9.9.9", b"x-forwarded-for"),
            (b"for=198.51.100.7", b"forwarded"),
            (b'for="198.51.100.7:80";proto=http, for=10.9.9.9', b"forwarded"),
        ):
            values = [b", ".join([*garbage, right])] if same_line else [*garbage, right]
            found = client({name: values, b"x-forwarded-proto": [b"http"]})
            self.assertEqual((found.address, found.scheme), (CLIENT, b"http"), values)


class OtherFieldTests(SynchronousTestCase):
    def scheme(self, *values: bytes, x: bytes = b"198.51.100.7", forwarded: bytes | None = None) -> bytes:
        notable = {b"x-forwarded-for": [x], b"x-forwarded-proto": list(values)}
        if not x:
            del notable[b"x-forwarded-for"]
        if forwarded is not None:
            notable[b"forwarded"] = [forwarded]
        return client(notable).scheme

    def test_scheme(self) -> None:
        """One scheme counts; of several, the one in the place of the client; anything else is ignored."""
        two = b"198.51.100.7, 10.9.9.9"
        for expected, found in (
            (b"https", self.scheme(b"https")),
            (b"https", self.scheme(b"HTTPS")),
            (b"https", self.scheme(b"wss")),
            (b"http", self.scheme(b"ws")),
            (b"https", self.scheme(b"https", x=two)),
            (b"https", self.scheme(b"https, http", x=two)),
            (b"http", self.scheme(b"http, https", x=two)),
            (b"https", self.scheme(b"https", b"http", x=two)),
            (b"https", self.scheme(b"http, https, http", x=b"203.0.113.1, 198.51.100.7, 10.9.9.9")),
            (b"http", self.scheme(b"https, https, https", x=two)),
            (b"http", self.scheme(b"https, https")),
            (b"http", self.scheme(b"ftp")),
            (b"http", self.scheme(b"")),
            (b"https", self.scheme(b"https", x=b"")),
            (b"http", self.scheme(b"https, https", x=b"")),
        ):
            self.assertEqual(found, expected)

    def test_scheme_in_forwarded(self) -> None:
        """The element that tells of the client tells its scheme; beside another list, both have to say the same."""
        for expected, found in (
            (b"https", client({b"forwarded": [b"for=198.51.100.7;proto=https, for=10.9.9.9;proto=http"]}).scheme),
            (b"http", client({b"forwarded": [b"for=203.0.113.1;proto=https, for=198.51.100.7"]}).scheme),
            (b"https", client({b"forwarded": [b"proto=https"]}).scheme),
            (b"https", client({b"forwarded": [b"for=unknown;proto=https"]}).scheme),
            # What only one of both says may be what the client has sent.
            (b"http", self.scheme(b"https", forwarded=b"for=198.51.100.7")),
            (b"http", self.scheme(forwarded=b"for=198.51.100.7;proto=https")),
            (b"http", client({b"forwarded": [b"for=198.51.100.7"], b"x-forwarded-proto": [b"https"]}).scheme),
            (b"https", client({b"forwarded": [b"proto=https"], b"x-forwarded-proto": [b"http"]}).scheme),
            (b"https", self.scheme(b"https", forwarded=b"for=198.51.100.7;proto=https")),
            (b"http", self.scheme(b"https", forwarded=b"for=198.51.100.7;proto=http")),
        ):
            self.assertEqual(found, expected)
        # Over TLS to us, but not to the proxy.
        peer = PEER._replace(tls=TlsInfo(), scheme=b"https")
        self.assertEqual(client({b"x-forwarded-proto": [b"http"]}, peer).scheme, b"http")
        self.assertEqual(client({}, peer).scheme, b"https")


class RangeTests(SynchronousTestCase):
    def test_ranges(self) -> None:
        """An address is in its range, in whatever form, and in no other."""
        ranges = AddressRanges(("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/33", "::1/128"))
        inside = "10.255.255.255", "192.0.2.7", "2001:db8:7fff::1", "::1", "::ffff:10.0.0.1", "::10.0.0.1"
        outside = "11.0.0.0", "192.0.2.6", "2001:db8:8000::", "::2", "::", "unix:", "", "x", "::ffff:11.0.0.1"
        for address in inside:
            self.assertTrue(ranges.contain(address), address)
        for address in outside:
            self.assertFalse(ranges.contain(address), address)

    def test_everything(self) -> None:
        """A range of no bits is all addresses of its version; a zone does not count; Unix sockets are apart."""
        self.assertTrue(AddressRanges(("0.0.0.0/0",)).contain("203.0.113.1"))
        self.assertFalse(AddressRanges(("0.0.0.0/0",)).contain("2001:db8::1"))
        self.assertTrue(AddressRanges(("fe80::/10",)).contain("fe80::1%eth0"))
        self.assertFalse(AddressRanges(("0.0.0.0/0", "::/0")).contain("unix:"))
        self.assertTrue(AddressRanges(("unix:",)).contain("unix:"))

    def test_many(self) -> None:
        """It answers as well after more addresses than it keeps answers for."""
        ranges = AddressRanges(("10.0.0.0/16",))
        answers = [ranges.contain(f"10.{n % 7}.{n // 250 % 250}.{n % 250}") for n in range(10_000)]
        self.assertEqual(answers, [n % 7 == 0 for n in range(10_000)])
