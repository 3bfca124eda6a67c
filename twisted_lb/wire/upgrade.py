"""The Upgrade field: which protocols a client asks for, and which one a server has switched to (RFC 9110 section 7.8).

    Upgrade = 1#protocol
    protocol = protocol-name [ "/" protocol-version ]
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Final

from twisted_lb.wire.grammar import TOKEN

_PROTOCOL: Final = TOKEN + rb"(?>(?:/" + TOKEN + rb")?)"
_PROTOCOLS: Final = re.compile(_PROTOCOL + rb"(?>(?:[ \t]*+,[ \t]*+" + _PROTOCOL + rb")*)")

# "h2c-14" was a draft of h2c.
_NAME_END: Final = re.compile(rb"[-/]")

# Names of protocols that carry HTTP requests, or hide them.  After a switch to one of them a client could send any
# number of requests that this gateway does not see: without a key, without limits, and for any path ("h2c smuggling").
NOT_FORWARDED: Final = frozenset((b"h2c", b"h2", b"h3", b"http", b"tls"))


def requested_protocols(upgrade: list[bytes], options: Set[bytes]) -> bytes:
    """The protocols of a request's Upgrade fields that may be forwarded, as one list; b"" if there is none.

    `options` are those of Connection, in lower case; without `upgrade` among them, the field is not for this hop.  A
    field that is not a list of protocols is ignored, which RFC 9110 allows for any Upgrade.
    """
    if b"upgrade" not in options:
        return b""
    text = b", ".join(upgrade)
    if _PROTOCOLS.fullmatch(text) is None:
        return b""
    protocols = _members(text)
    return b", ".join([one for one in protocols if _NAME_END.split(one.lower(), 1)[0] not in NOT_FORWARDED])


def switched_to(upgrade: list[bytes], options: Set[bytes], requested: bytes) -> bytes:
    """The protocols that a server has switched to, as it names them; b"" if they are not among those requested.

    `upgrade` and `options` are those of its response with the status 101; `requested` is a result of
    `requested_protocols`.
    """
    text = b", ".join(upgrade)
    if not requested or b"upgrade" not in options or _PROTOCOLS.fullmatch(text) is None:
        return b""
    # Names are case-insensitive, but servers are consistent: what they repeat is what was requested.
    allowed = _members(requested.lower())
    return text if all([one in allowed for one in _members(text.lower())]) else b""


def _members(text: bytes) -> list[bytes]:
    return [one.strip(b" \t") for one in text.split(b",")]
