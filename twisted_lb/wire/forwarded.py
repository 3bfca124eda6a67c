"""Reads the lists of addresses that proxies append to: X-Forwarded-For, and Forwarded (RFC 7239).

Each proxy appends the address of its client, so the right-most entry is the newest.  Everything is therefore read from
the right, entry by entry: what a client has sent itself is on the left, and cannot change how the entries of proxies on
its right are read, whatever it contains.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

# Entries that are read from one list; no chain of proxies is longer.
MAX_ENTRIES: Final = 64
# A longer element of Forwarded is not read.
MAX_ELEMENT_BYTES: Final = 1024
MAX_NODE_BYTES: Final = 64  # an IPv6 address in brackets with a port has at most 53

# RFC 7239 section 6, without names: obfuscated identifiers ("_x") and "unknown" are not addresses.  An IPv6 address
# without brackets occurs in X-Forwarded-For only, where it has no port.
_NODE: Final = re.compile(rb"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?")
_BARE_IPV6: Final = re.compile(rb"[0-9A-Fa-f]*:[0-9A-Fa-f:.]+")
_MAX_PORT: Final = 65535

# RFC 7239 section 4, with optional white space around ";", which senders write and which is unambiguous:
#   forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )
#   forwarded-pair    = token "=" ( token / quoted-string )
_PAIR: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++=(?:[-!#$%&'*+.^_`|~0-9A-Za-z]++|\"(?:[^\"\\]|\\.)*\")"
_OWS: Final = rb"[ \t]*+"
# The last element of a list.  A quote that was opened before it and not closed does not match, and cannot hide a valid
# element, whose quotes are in pairs.
_LAST_ELEMENT: Final = re.compile(
    rb"(?:\A|,)(?P<element>%b(?:%b%b)?(?:;%b(?:%b%b)?)*)\Z" % (_OWS, _PAIR, _OWS, _OWS, _PAIR, _OWS)
)
# The first pair of a valid element, or of the rest of one.
_FIRST_PAIR: Final = re.compile(
    rb"[ \t;]*+(?P<name>[-!#$%&'*+.^_`|~0-9A-Za-z]++)="
    rb"(?P<value>[-!#$%&'*+.^_`|~0-9A-Za-z]++|\"(?:[^\"\\]|\\.)*\")"
)
_ESCAPED: Final = re.compile(rb"\\(.)")


class Node(NamedTuple):
    """The address of one hop."""

    address: str  # an IP address, which may still be IPv4-mapped; "" for none
    port: int  # 0 if it is not given


NO_NODE: Final = Node("", 0)


@lru_cache(maxsize=4096)
def read_node(text: bytes) -> Node:
    """The address in an entry; NO_NODE if the entry is anything but one address."""
    if len(text) > MAX_NODE_BYTES:
        return NO_NODE
    found = _NODE.fullmatch(text)
    try:
        if found is None:
            return Node(str(IPv6Address(text.decode())), 0) if _BARE_IPV6.fullmatch(text) else NO_NODE
        port = int(found["port"] or 0)
        if port > _MAX_PORT:
            return NO_NODE
        if found["six"] is not None:
            return Node(str(IPv6Address(found["six"].decode())), port)
        return Node(str(IPv4Address(found["four"].decode())), port)
    except AddressValueError:
        return NO_NODE


def entries(values: list[bytes]) -> list[bytes]:
    """The entries of X-Forwarded-For, or of a similar field; empty ones are skipped.

    RFC 9110 sections 5.3 and 5.6.1: several field lines are one list.
    """
    stripped = [entry.strip(b" \t") for entry in b",".join(values).split(b",")]
    return [entry for entry in stripped if entry]


class Elements:
    """The elements of Forwarded, from the last to the first."""

    __slots__ = ("_text", "_end")

    def __init__(self, values: list[bytes]) -> None:
        self._text = b", ".join(values)
        self._end = len(self._text)

    def previous(self) -> dict[bytes, bytes] | None:
        """The pairs of the next element to the left, by lower-case name; None if there is no element.

        {} stands for an element that is not valid.  Empty elements are skipped.
        """
        while self._end > 0:
            start = max(self._end - MAX_ELEMENT_BYTES, 0)
            found = _LAST_ELEMENT.search(self._text, start, self._end)
            if found is None:
                self._end = 0
                return {}
            self._end = found.start()
            element = found["element"]
            if element.strip(b" \t"):
                return _pairs(element)
        return None


def _pairs(element: bytes) -> dict[bytes, bytes]:
    pairs: dict[bytes, bytes] = {}
    end = 0
    while (found := _FIRST_PAIR.match(element, end)) is not None:
        end = found.end()
        name = found["name"].lower()
        if name in pairs:
            # RFC 7239 section 4: each parameter occurs at most once.
            return {}
        value = found["value"]
        pairs[name] = _ESCAPED.sub(rb"\1", value[1:-1]) if value[:1] == b'"' else value
    return pairs
