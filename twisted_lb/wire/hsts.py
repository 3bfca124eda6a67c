"""Strict-Transport-Security (RFC 6797): the setting's text, and the one field of a response.

A response has the field once (section 6.1), and a client uses the first of several (section 8.1).  The policy is that
of the host as its clients see it, so where this gateway has one, a server's own field is removed.
"""

from __future__ import annotations

import re
from typing import Final

_OWN_LINE: Final = re.compile(rb"\r\nstrict-transport-security:[^\r\n]*+", re.IGNORECASE)
_SECONDS: Final = re.compile(r"[0-9]{1,10}")
# Section 6.1.2; `preload` is not in the RFC, but required by the lists of browsers (hstspreload.org).
_FLAGS: Final = {"includesubdomains": "includeSubDomains", "preload": "preload"}


def read_policy(text: str) -> str:
    """The value of the field for "31536000", the seconds alone, or "max-age=31536000; includeSubDomains; preload".

    Raises ValueError.  `max-age=0` tells clients to forget an earlier policy.
    """
    if _SECONDS.fullmatch(text):
        return f"max-age={int(text)}"
    seconds: int | None = None
    flags: list[str] = []
    for directive in text.split(";"):
        name, equals, value = (part.strip() for part in directive.partition("="))
        name = name.lower()
        if name == "max-age" and seconds is None and _SECONDS.fullmatch(value):
            seconds = int(value)
        elif name in _FLAGS and not equals and _FLAGS[name] not in flags:
            flags.append(_FLAGS[name])
        else:
            raise ValueError
    if seconds is None:
        raise ValueError
    return "; ".join([f"max-age={seconds}", *flags])


def policy_line(value: str) -> bytes:
    """The field as a line, with a CRLF before it; b"" for no policy."""
    return b"\r\nStrict-Transport-Security: " + value.encode() if value else b""


def without_own(lines: bytes) -> bytes:
    """A response's field lines, each with a CRLF before it, without any policy of the server's."""
    return _OWN_LINE.sub(b"", lines)
