"""The grammar of HTTP/1.1 as compiled patterns, each beside the rule that it implements.

Every quantifier that could backtrack is possessive, or, if it repeats a group, in an atomic group (possessive
quantifiers of groups are incorrect in CPython before 3.11.5).  So a head is matched in one pass, and no input causes
backtracking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# RFC 9110 section 5.6.2
#   token = 1*tchar
TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++"

# RFC 9110 section 5.5, with obs-text; includes OWS around the value, which the reader strips
#   field-value = *( VCHAR / SP / HTAB / obs-text )
FIELD_TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]*+"

# RFC 9112 section 5: no space between name and colon; a line that begins with a space (obs-fold)
# is not a field line, and does not match.
#   field-line = field-name ":" OWS field-value OWS
def _field_lines(name: bytes) -> bytes:
    return rb"(?>(?:\r\n" + name + rb":" + FIELD_TEXT + rb")*)"


FIELD_LINES: Final = _field_lines(TOKEN)

# RFC 9112 section 3.2.  RFC 3986 does not allow " < > \ ^ ` { | } either, but browsers send them in
# queries, and they are not ambiguous.  '#' begins a fragment, which is never sent in a request.
REQUEST_TARGET: Final = rb"[!-\"$-~]++"

# RFC 9110 section 9.1.  The longest registered method has 17 bytes (UPDATEREDIRECTREF).
#   method = token
MAX_METHOD_BYTES: Final = 32
METHOD: Final = TOKEN.removesuffix(b"++") + b"{1,%d}+" % MAX_METHOD_BYTES

# RFC 9112 section 3
#   request-line = method SP request-target SP HTTP-version
REQUEST_LINE: Final = re.compile(rb"(" + METHOD + rb") (" + REQUEST_TARGET + rb") HTTP/([0-9])\.([0-9])")
_BEFORE_FIELDS: Final = rb"(" + METHOD + rb") (" + REQUEST_TARGET + rb") HTTP/1\.([01])"
REQUEST_HEAD: Final = re.compile(_BEFORE_FIELDS + rb"(" + FIELD_LINES + rb")\r\n\r\n")
# The same, of which nearly all are: with names of letters, digits and hyphens only (see `field_names`).
USUAL_REQUEST_HEAD: Final = re.compile(
    _BEFORE_FIELDS + rb"(" + _field_lines(rb"[-0-9A-Za-z]++") + rb")\r\n\r\n"
)

# RFC 9112 section 4.  Without a reason phrase the space before it may be missing too, as with many servers.
#   status-line = HTTP-version SP status-code SP [ reason-phrase ]
RESPONSE_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])( " + FIELD_TEXT + rb"|)(" + FIELD_LINES + rb")\r\n\r\n"
)

# RFC 9112 section 3: a method longer than any implemented one is answered 501; this matches its beginning.
LONG_METHOD: Final = re.compile(TOKEN.removesuffix(b"++") + b"{%d}" % (MAX_METHOD_BYTES + 1))

# RFC 9112 section 2.2: at least one empty line before a request line is ignored.
MAX_EMPTY_LINES: Final = 64
EMPTY_LINES: Final = re.compile(rb"(?>(?:\r\n)+)")

FIELD_LINE = re.compile(TOKEN + rb":" + FIELD_TEXT)
TRAILERS: Final = re.compile(FIELD_LINES)

# Not allowed anywhere in a head: a bare LF, a bare CR, a control byte.  A CR at the very end may be the
# beginning of a CRLF.
BROKEN_LINE: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

# RFC 9110 section 5.6.4
#   quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE
QUOTED: Final = rb'"(?>(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]++|\\[\t \x21-\x7e\x80-\xff])*)"'

# RFC 9112 section 7.1; sizes of up to 15 hex digits stay below 2**60.
#   chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
#   chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
_EXTENSION: Final = rb"[ \t]*+;[ \t]*+" + TOKEN + rb"(?>(?:[ \t]*+=[ \t]*+(?:" + TOKEN + rb"|" + QUOTED + rb"))?)"
CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?>(?:" + _EXTENSION + rb")*)\r\n")

# RFC 9110 section 7.2, RFC 3986 section 3.2: a host may be empty only if there is no port.  Its maximum length is that
# of a name in the DNS (RFC 1035 section 2.3.4, RFC 3986 section 3.2.2).
#   Host = uri-host [ ":" port ]
MAX_HOST_BYTES: Final = 255
MAX_AUTHORITY_BYTES: Final = MAX_HOST_BYTES + len(":65535")
AUTHORITY: Final = re.compile(
    rb"(\[(?:[0-9A-Fa-f:.]++|[vV][0-9A-Fa-f]++\.[-._~!$&'()*+,;=:0-9A-Za-z]++)\]"
    rb"|(?>(?:[-._~!$&'()*+,;=0-9A-Za-z]|%[0-9A-Fa-f]{2})+))(?::[0-9]{0,5})?"
)
ABSOLUTE_FORM: Final = re.compile(rb"(?i:https?)://([^/?]*+)(.*)", re.DOTALL)

# RFC 9110 section 8.6; 18 digits stay below 2**60.
CONTENT_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

# RFC 9110 section 5.6.4: text in which every quoted-string is closed, so that appended text cannot become a part of
# one.
CLOSED_QUOTES: Final = re.compile(rb"(?>(?:[^\"]++|" + QUOTED + rb")*)")

# RFC 9110 section 5.6.1, for the lists of tokens in Connection and Transfer-Encoding
TOKEN_LIST: Final = re.compile(TOKEN + rb"(?>(?:[ \t]*+,[ \t]*+" + TOKEN + rb")*)")


def field_splitter(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """A pattern whose `split` extracts the fields with these names from validated field lines.

    The elements of the result are, in rotation: lines with other names, a name as it was sent, and its value without
    leading white space.  A loop over the lines would take three times as long.
    """
    # Alternatives with the same first letter are grouped, so that for most other names only the first letter is
    # compared.
    by_letter: dict[bytes, list[bytes]] = {}
    for name in sorted(names):
        by_letter.setdefault(name[:1], []).append(re.escape(name[1:]))
    choices = (first + rb"(?:" + rb"|".join(rest) + rb")" for first, rest in by_letter.items())
    return re.compile(rb"\r\n(" + rb"|".join(choices) + rb"):[ \t]*+([^\r]*+)", re.IGNORECASE)
