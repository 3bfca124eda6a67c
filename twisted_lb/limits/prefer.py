"""How long a client is willing to wait: `wait` in its Prefer field (RFC 7240).

    Prefer     = preference *( OWS "," OWS preference )
    preference = token [ BWS "=" BWS word ] *( OWS ";" [ OWS parameter ] )

1. The field is split at the commas outside quoted-strings, one member at a time.
2. Parsing stops at a quoted-string that is not closed, since the end of its member is unknown.

Each step continues where the previous one ended, without backtracking, so the time is linear in the length.
"""

from __future__ import annotations

import re
from typing import Final

from twisted_lb.wire.grammar import QUOTED

# A member of the list, with the comma after it.  Text that is neither a token nor a word is skipped.
_MEMBER: Final = re.compile(rb"((?>(?:[^\",]++|" + QUOTED + rb")*))(?:,|\Z)")
_PREFERENCE: Final = re.compile(
    rb"[ \t]*+(?P<name>[^ \t;=\"]++)(?>(?:[ \t]*+=[ \t]*+(?P<value>" + QUOTED + rb"|[^ \t;\"]*+))?)"
)
_SECONDS: Final = re.compile(rb'"[0-9]{1,9}"|[0-9]{1,9}')


def preferred_wait(prefer: bytes) -> int:
    """The N of `wait=N`, in seconds (RFC 7240 section 4.3); 0 if it is absent or not a number.

    `prefer` is the value of the field, or those of several fields joined with commas.
    """
    at = 0
    while at < len(prefer):
        member = _MEMBER.match(prefer, at)
        if member is None:
            return 0
        at = member.end()
        preference = _PREFERENCE.match(member[1])
        if preference is not None and preference["name"].lower() == b"wait":
            # A repeated preference is ignored (section 2).
            value = preference["value"] or b""
            return int(value.strip(b'"')) if _SECONDS.fullmatch(value) else 0
    return 0
