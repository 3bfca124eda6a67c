"""Headers of the PROXY protocol: whole, byte by byte, and followed by other data."""

from __future__ import annotations

import random
from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.wire.proxy_protocol import (
    MAX_V2_BYTES,
    SIGNATURE,
    V1,
    V2,
    ProxyHeader,
    ProxyProtocolError,
    crc32c,
    local_header,
    proxy_header,
    read_proxy_header,
)

SEED = 20261127
TCP4 = bytes((192, 0, 2, 7, 198, 51, 100, 1)) + b"\xc3\x50\x01\xbb"
TCP6 = bytes.fromhex("20010db8000000000000000000000007" "20010db8000000000000000000000001") + b"\xc3\x50\x01\xbb"


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    """A header of version 2."""
    size = len(block) if length is None else length
    return SIGNATURE + bytes((command, family)) + size.to_bytes(2, "big") + block


def tlv(kind: int, value: bytes) -> bytes:
    """A type-length-value field."""
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def with_checksum(block: bytes) -> bytes:
    """A header with a CRC32C after this block."""
    blank = v2(0x21, 0x11, block + tlv(3, bytes(4)))
    return blank[:-4] + crc32c(blank).to_bytes(4, "big")


def told(header: ProxyHeader) -> tuple[str, int, str, int, bool]:
    """What it says, without its size."""
    return header.source, header.source_port, header.destination, header.destination_port, header.tls


NOTHING = ("", 0, "", 0, False)
V4 = ("192.0.2.7", 50000, "198.51.100.1", 443, False)
V6 = ("2001:db8::7", 50000, "2001:db8::1", 443, False)
VALID = {
    b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n": V4,
    b"PROXY TCP6 2001:db8::7 2001:DB8:0::1 50000 443\r\n": V6,
    b"PROXY TCP6 ::ffff:192.0.2.7 ::1 0 65535\r\n": ("::ffff:c000:207", 0, "::1", 65535, False),
    b"PROXY UNKNOWN\r\n": NOTHING,
    b"PROXY UNKNOWN ffff::1 whatever \xff 3\r\n": NOTHING,
    v2(0x21, 0x11, TCP4): V4,
    v2(0x21, 0x21, TCP6): V6,
    # With further fields: nothing (NOOP), an ALPN, an unknown one.
    v2(0x21, 0x11, TCP4 + tlv(4, b"xy") + tlv(1, b"http/1.1") + tlv(0xEE, b"")): V4,
    with_checksum(TCP4 + tlv(0x05, b"id")): V4,
    # The client came over TLS to the proxy, or did not.
    v2(0x21, 0x11, TCP4 + tlv(0x20, b"\x01\0\0\0\0" + tlv(0x21, b"TLSv1.3"))): (*V4[:4], True),
    v2(0x21, 0x11, TCP4 + tlv(0x20, b"\x02\0\0\0\0")): V4,
    v2(0x21, 0x31, b"/a".ljust(108, b"\0") * 2): ("unix:", 0, "", 0, False),
    # Of these nothing is used: LOCAL, an unknown protocol, datagrams.
    v2(0x20, 0x00, b""): NOTHING,
    v2(0x20, 0x11, TCP4): NOTHING,
    v2(0x20, 0x99, b"anything"): NOTHING,
    v2(0x21, 0x00, b""): NOTHING,
    v2(0x21, 0x00, b"\x03\0\xff?"): NOTHING,
    v2(0x21, 0x12, TCP4): NOTHING,
    v2(0x21, 0x22, TCP6): NOTHING,
}
INVALID = (
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\0",
    b"PRIVMSG",
    b"proxy TCP4 192.0.2.7 198.51.100.1 50000 443\r\n",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 192.0.2.7 198.51.100.1 50000 443\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 50000\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443 1\r\n",
    b"PROXY TCP4  192.0.2.7 198.51.100.1 50000 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443 \r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 050000 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
    b"PROXY TCP4 192.0.2.07 198.51.100.1 50000 443\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 50000 443\r\n",
    b"PROXY TCP6 192.0.2.7 198.51.100.1 50000 443\r\n",
    b"PROXY TCP6 [2001:db8::7] 2001:db8::1 50000 443\r\n",
    b"PROXY TCP6 fe80::7%eth0 2001:db8::1 50000 443\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\n\r\n",
    b"PROXY UNKNOWN\rx\r\n",
    b"PROXY UNKNOWN " + b"x" * 107,
    b"\r\n\r\nGET / HTTP/1.1\r\n",
    v2(0x11, 0x11, TCP4),
    v2(0x22, 0x11, TCP4),
    v2(0x21, 0x13, TCP4),
    v2(0x21, 0x41, TCP4),
    v2(0x21, 0x11, TCP4[:-1]),
    v2(0x21, 0x21, TCP4),
    v2(0x21, 0x31, TCP6),
    v2(0x21, 0x11, TCP4 + b"\x01\0"),
    v2(0x21, 0x11, TCP4 + b"\x01\0\x05abcd"),
    v2(0x21, 0x11, TCP4 + tlv(3, b"\0\0\0\0")),
    v2(0x21, 0x11, TCP4 + tlv(3, b"\0\0\0")),
    v2(0x21, 0x11, TCP4 + tlv(0x20, b"\x01")),
    v2(0x21, 0x11, TCP4, MAX_V2_BYTES),
)


def byte_by_byte(data: bytes) -> Iterable[bytes]:
    """What has arrived after each byte."""
    return (data[:size] for size in range(len(data) + 1))


class ReadingTests(SynchronousTestCase):
    def test_valid(self) -> None:
        """A valid header is read when its last byte is there, and what follows is not its."""
        for data, expected in VALID.items():
            for part in byte_by_byte(data[:-1]):
                self.assertIsNone(read_proxy_header(part), part)
            for tail in (b"", b"GET / HTTP/1.1\r\n", data):
                header = read_proxy_header(data + tail)
                assert header is not None, data
                self.assertEqual((header.size, told(header)), (len(data), expected))

    def test_invalid(self) -> None:
        """What is no header is refused at the latest when it is complete."""
        for data in INVALID:
            self.assertRaises(ProxyProtocolError, read_proxy_header, data)
            with self.assertRaises(ProxyProtocolError):
                for part in byte_by_byte(data):
                    self.assertIsNone(read_proxy_header(part), data)

    def test_early(self) -> None:
        """A first byte that begins no header, and a length that is not accepted, are refused without the rest."""
        for data in (b"G", b"\x16", b"PUT", b"\r\n\r\n\0\r\nQUIX", SIGNATURE + b"\x31", SIGNATURE + b"\x21\x51"):
            self.assertRaises(ProxyProtocolError, read_proxy_header, data)
        self.assertRaises(ProxyProtocolError, read_proxy_header, v2(0x21, 0x11, b"", 0xFFFF))
        self.assertRaises(ProxyProtocolError, read_proxy_header, v2(0x20, 0x00, b"", 0xFFFF))

    def test_longest(self) -> None:
        """The longest headers of both versions are read."""
        address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        line = f"PROXY UNKNOWN {address} {address} 65535 65535\r\n".encode()
        self.assertEqual(len(line), 107)
        self.assertEqual(read_proxy_header(line), ProxyHeader(107))
        full = with_checksum(TCP4 + tlv(4, bytes(MAX_V2_BYTES - 16 - 12 - 3 - 7)))
        self.assertEqual(len(full), MAX_V2_BYTES)
        header = read_proxy_header(full)
        assert header is not None
        self.assertEqual(told(header), V4)

    def test_checksum(self) -> None:
        """Each changed byte of a header with a checksum is found, as far as it is still a header."""
        data = with_checksum(TCP4)
        for at in range(16, len(data)):
            if data[at - 3 : at] and at not in (28, 29, 30):
                wrong = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
                self.assertRaises(ProxyProtocolError, read_proxy_header, wrong)

    def test_crc32c(self) -> None:
        """The check value of CRC32C, and those of RFC 3720 appendix B.4."""
        self.assertEqual(crc32c(b"123456789"), 0xE3069283)
        self.assertEqual(crc32c(bytes(32)), 0x8A9136AA)
        self.assertEqual(crc32c(b"\xff" * 32), 0x62A8AB43)

    def test_random(self) -> None:
        """Random bytes raise our error or nothing."""
        chance = random.Random(SEED)
        seeds = [*VALID, *INVALID]
        for _ in range(3000):
            data = bytearray(chance.choice(seeds))
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            try:
                header = read_proxy_header(bytes(data))
            except ProxyProtocolError:
                continue
            self.assertTrue(header is None or header.size <= len(data))


class WritingTests(SynchronousTestCase):
    def test_round_trip(self) -> None:
        """What is sent is read as it was meant."""
        for version in (V1, V2):
            for source, destination, family in (
                ("192.0.2.7", "198.51.100.1", ""),
                ("2001:db8::7", "2001:db8::1", ""),
                ("fe80::7%eth0", "fe80::1", "fe80::7"),
            ):
                data = proxy_header(version, source, 50000, destination, 443)
                header = read_proxy_header(data)
                assert header is not None
                self.assertEqual(told(header), (family or source, 50000, destination, 443, False))
                self.assertEqual(header.size, len(data))

    def test_exact(self) -> None:
        """Version 1 is a line, version 2 the bytes of the specification."""
        self.assertEqual(
            proxy_header(V1, "192.0.2.7", 50000, "198.51.100.1", 443),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n",
        )
        self.assertEqual(proxy_header(V2, "192.0.2.7", 50000, "198.51.100.1", 443), v2(0x21, 0x11, TCP4))
        self.assertEqual(proxy_header(V2, "2001:db8::7", 50000, "2001:db8::1", 443), v2(0x21, 0x21, TCP6))

    def test_two_families(self) -> None:
        """Addresses of two families are sent as IPv6."""
        for version in (V1, V2):
            header = read_proxy_header(proxy_header(version, "192.0.2.7", 0, "2001:db8::1", 443))
            assert header is not None
            self.assertEqual(header.source, "::ffff:c000:207")

    def test_unknown(self) -> None:
        """A client without an address is unknown, and a health check is no client's."""
        for destination in ("192.0.2.1", "unix:"):
            self.assertEqual(proxy_header(V1, "unix:", 0, destination, 0), b"PROXY UNKNOWN\r\n")
            self.assertEqual(proxy_header(V2, "unix:", 0, destination, 0), v2(0x21, 0, b""))
        self.assertEqual(local_header(V1), b"PROXY UNKNOWN\r\n")
        self.assertEqual(local_header(V2), v2(0x20, 0, b""))
