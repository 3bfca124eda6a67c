"""The header of the PROXY protocol, versions 1 and 2: the address of a proxy's client, before its first byte.

Bytes in, values out, after the specification (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt).  Section
numbers refer to it.

    version 1   "PROXY TCP4 192.0.2.7 198.51.100.1 50000 443" CRLF
    version 2   a signature of 12 bytes, version and command, family, length; addresses; type-length-value fields

Where the specification leaves a choice to the receiver, it is made strictly: anything that is not exactly a header is
an error.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
PREFIX: Final = b"PROXY "

# Section 2.1: with CRLF.
MAX_V1_BYTES: Final = 107
# Of version 2 in total; precedent: nginx 4096.  Addresses take at most 232 bytes, type-length-value fields the rest.
MAX_V2_BYTES: Final = 4096
_FIXED_BYTES: Final = 16  # of version 2, before the addresses

# Section 2.1: addresses in canonical form, and ports without leading zeros, separated by single spaces.
_V1: Final = re.compile(
    rb"PROXY TCP(?P<family>[46]) (?P<source>[0-9A-Fa-f:.]+) (?P<destination>[0-9A-Fa-f:.]+)"
    rb" (?P<source_port>0|[1-9][0-9]{0,4}) (?P<destination_port>0|[1-9][0-9]{0,4})"
)
# What follows UNKNOWN is ignored up to CRLF.
_V1_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?")

# Section 2.2: version 2 in the upper four bits.
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNSPEC: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_UNIX_STREAM: Final = 0x31
# Bytes of both addresses and ports, for each family and transport.  Datagram transports are valid, although they cannot
# be those of a connection; their addresses are not used.
_ADDRESS_BYTES: Final = {_UNSPEC: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, _UNIX_STREAM: 216, 0x32: 216}

_TYPE_CRC32C: Final = 0x03
_TYPE_SSL: Final = 0x20
_CLIENT_SSL: Final = 0x01  # section 2.2.6: the client connected over TLS


class ProxyProtocolError(Exception):
    """These bytes are not the beginning of a header.  The text says why."""


class ProxyHeader(NamedTuple):
    """One header.  Without a source the connection is the proxy's own (LOCAL), or the client's address is unknown: the
    connection's own addresses are used."""

    size: int  # bytes, including everything that was skipped
    source: str = ""  # an IP address; UNIX for a client of a Unix socket; "" for none
    source_port: int = 0
    destination: str = ""  # what the client connected to
    destination_port: int = 0
    tls: bool = False  # the client connected to the proxy over TLS


UNIX: Final = "unix:"


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header at the beginning of `data`; None while it is incomplete.  Raises ProxyProtocolError.

    Data that can no longer become a header is an error at its first wrong byte.
    """
    if data[:1] == b"P":
        return _read_v1(data)
    start = data[: len(SIGNATURE)]
    if not SIGNATURE.startswith(start):
        raise ProxyProtocolError("it does not begin with a header of the PROXY protocol")
    if len(data) < _FIXED_BYTES:
        _check_command(data)
        return None
    return _read_v2(data)


def _read_v1(data: bytes) -> ProxyHeader | None:
    start = data[: len(PREFIX)]
    if not PREFIX.startswith(start):
        raise ProxyProtocolError("it does not begin with a header of the PROXY protocol")
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(data) >= MAX_V1_BYTES:
            raise ProxyProtocolError(f"a header of version 1 has at most {MAX_V1_BYTES} bytes")
        return None
    line = data[:end]
    size = end + 2
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader(size)
    found = _V1.fullmatch(line)
    if found is None:
        raise ProxyProtocolError("its header of version 1 is malformed")
    source_port, destination_port = int(found["source_port"]), int(found["destination_port"])
    if source_port > 65535 or destination_port > 65535:
        raise ProxyProtocolError("its header of version 1 has a port above 65535")
    version = 6 if found["family"] == b"6" else 4
    try:
        source, destination = ip_address(found["source"].decode()), ip_address(found["destination"].decode())
    except ValueError:
        raise ProxyProtocolError("its header of version 1 has an invalid address") from None
    if source.version != version or destination.version != version:
        raise ProxyProtocolError("its header of version 1 has an address of another family than it says")
    return ProxyHeader(size, str(source), source_port, str(destination), destination_port)


def _check_command(data: bytes) -> None:
    """Raise ProxyProtocolError for a version, command or family that does not exist.  Section 2.2: "the receivers
    must drop connections presenting unexpected values here"."""
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise ProxyProtocolError(f"its header has the unknown version and command 0x{data[12]:02x}")
    # Section 2.2: the family of a LOCAL header is ignored.
    if len(data) > 13 and data[12] == _PROXY and data[13] not in _ADDRESS_BYTES:
        raise ProxyProtocolError(f"its header has the unknown address family 0x{data[13]:02x}")


def _read_v2(data: bytes) -> ProxyHeader | None:
    _check_command(data)
    size = _FIXED_BYTES + int.from_bytes(data[14:16], "big")
    if size > MAX_V2_BYTES:
        raise ProxyProtocolError(f"its header of version 2 has more than {MAX_V2_BYTES} bytes")
    family = data[13]
    addresses = _ADDRESS_BYTES.get(family, 0)
    if data[12] == _PROXY and size < _FIXED_BYTES + addresses:
        raise ProxyProtocolError("its header of version 2 is too short for its addresses")
    if len(data) < size:
        return None
    if data[12] == _LOCAL:
        return ProxyHeader(size)
    tls = _read_extensions(data[:size], _FIXED_BYTES + addresses) if family != _UNSPEC else False
    block = data[_FIXED_BYTES : _FIXED_BYTES + addresses]
    if family == _TCP4:
        source, destination = str(IPv4Address(block[:4])), str(IPv4Address(block[4:8]))
    elif family == _TCP6:
        source, destination = str(IPv6Address(block[:16])), str(IPv6Address(block[16:32]))
    elif family == _UNIX_STREAM:
        return ProxyHeader(size, UNIX, tls=tls)
    else:
        return ProxyHeader(size, tls=tls)
    ports = block[-4:]
    return ProxyHeader(
        size, source, int.from_bytes(ports[:2], "big"), destination, int.from_bytes(ports[2:], "big"), tls
    )


def _read_extensions(header: bytes, at: int) -> bool:
    """Check the type-length-value fields from `at` on (section 2.2.1); whether the client connected over TLS."""
    tls = False
    while at < len(header):
        if at + 3 > len(header):
            raise ProxyProtocolError("its header of version 2 ends within a type-length-value field")
        kind = header[at]
        start = at + 3
        at = start + int.from_bytes(header[at + 1 : start], "big")
        if at > len(header):
            raise ProxyProtocolError("its header of version 2 ends within a type-length-value field")
        if kind == _TYPE_CRC32C:
            # Section 2.2.3: of the whole header, with zeros in place of the checksum.
            if at - start != 4 or int.from_bytes(header[start:at], "big") != crc32c(
                header[:start] + bytes(4) + header[at:]
            ):
                raise ProxyProtocolError("its header of version 2 has a wrong checksum")
        elif kind == _TYPE_SSL:
            # Section 2.2.6: one byte of flags, four of the result of the verification, and further fields.
            if at - start < 5:
                raise ProxyProtocolError("its header of version 2 has a malformed field about TLS")
            tls = bool(header[start] & _CLIENT_SSL)
    return tls


def _crc32c_table() -> list[int]:
    # RFC 9260 appendix A: the polynomial 0x1EDC6F41, reflected.
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ 0x82F63B78 if value & 1 else value >> 1
        table.append(value)
    return table


_CRC32C: Final = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The CRC32C of `data`."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _CRC32C[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


# Headers to send

V1: Final = 1
V2: Final = 2


def proxy_header(version: int, source: str, source_port: int, destination: str, destination_port: int) -> bytes:
    """The header for a client at `source` that connected to `destination`, in this version (V1 or V2).

    If one of the two is not an IP address, the header has no addresses.  If they are of two families, both are sent as
    IPv6, the IPv4 address as IPv4-mapped (RFC 4291 section 2.5.5.2), as HAProxy does.
    """
    try:
        one, other = ip_address(source), ip_address(destination)
    except ValueError:
        return b"PROXY UNKNOWN\r\n" if version == V1 else _v2(_PROXY, _UNSPEC, b"")
    if one.version != other.version:
        one, other = _as_ipv6(one), _as_ipv6(other)
    if version == V1:
        return f"PROXY TCP{one.version} {_plain(one)} {_plain(other)} {source_port} {destination_port}\r\n".encode()
    ports = source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")
    return _v2(_PROXY, _TCP4 if one.version == 4 else _TCP6, one.packed + other.packed + ports)


def local_header(version: int) -> bytes:
    """The header for a connection of the proxy itself, such as a health check."""
    return b"PROXY UNKNOWN\r\n" if version == V1 else _v2(_LOCAL, _UNSPEC, b"")


def _v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(block).to_bytes(2, "big") + block


def _as_ipv6(address: IPv4Address | IPv6Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(0xFFFF << 32 | int(address))


def _plain(address: IPv4Address | IPv6Address) -> str:
    """The address without a zone (RFC 4007), which has a meaning on this machine only."""
    return str(address).partition("%")[0]
