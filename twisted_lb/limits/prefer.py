"""How long a client is ready to wait: `wait` in its Prefer field (RFC 7240).

    Prefer     = preference *( OWS "," OWS preference )
    preference = token [ BWS "=" BWS word ] *( OWS ";" [ OWS parameter ] )

1. The field is taken apart at the commas that are in no quoted-string, one member at a time.
2. A quoted-string that is not closed ends the reading: where its member would end, nobody can tell.

Each step takes up where the one before ended and none is tried twice, so the time is linear in the length.
"""

from __future__ import annotations

import re

from twisted_lb.wire.grammar import QUOTED

# A member of the list, with the comma behind it.  What is no token and no word is passed over.
_MEMBER = re.compile(rb"((?>(?:[^\",]++|" + QUOTED + rb")*))(?:,|\Z)")
_PREFERENCE = re.compile(
    rb"[ \t]*+(?P<name>[^ \t;=\"]++)(?>(?:[ \t]*+=[ \t]*+(?P<value>" + QUOTED + rb"|[^ \t;\"]*+))?)"
)
_SECONDS = re.compile(rb'"[0-9]{1,9}"|[0-9]{1,9}')


def preferred_wait(prefer: bytes) -> int:
    """The N of `wait=N`, in seconds (RFC 7240 section 4.3); 0 where there is none, or no number.

    `prefer` is the value of the field; those of several fields are joined with commas.
    """
    at = 0
    while at < len(prefer):
        member = _MEMBER.match(prefer, at)
        if member is None:
            return 0
        at = member.end()
        preference = _PREFERENCE.match(member[1])
        if preference is not None and preference["name"].lower() == b"wait":
            # Said again, it does not count (section 2).
            value = preference["value"] or b""
            return int(value.strip(b'"')) if _SECONDS.fullmatch(value) else 0
    return 0
