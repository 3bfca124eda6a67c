"""The grammar of HTTP/1.1 as compiled patterns, each beside the rule it is made from.

Every quantifier that could give back what it took is possessive, or an atomic group where it repeats
a group (the possessive form of that is wrong in CPython before 3.11.5): a head is decided in one
pass, and a hostile one cannot make the pattern try twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# RFC 9110 section 5.6.2
#   token = 1*tchar
TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++"

# RFC 9110 section 5.5, with obs-text; OWS around the value is inside and trimmed by the reader
#   field-value = *( VCHAR / SP / HTAB / obs-text )
FIELD_TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"

# RFC 9112 section 5: no space between name and colon; a line that begins with a space (obs-fold)
# is no field line, so it fails here.
#   field-line = field-name ":" OWS field-value OWS
FIELD_LINES = rb"(?>(?:\r\n" + TOKEN + rb":" + FIELD_TEXT + rb")*)"

# RFC 9112 section 3.2.  RFC 3986 would also refuse " < > \ ^ ` { | }, which browsers do send in
# queries; they have one reading only.  '#' begins a fragment, which never belongs on the wire.
REQUEST_TARGET = rb"[!-\"$-~]++"

# RFC 9110 section 9.1.  The longest registered method has 17 bytes (UPDATEREDIRECTREF).
#   method = token
MAX_METHOD_BYTES = 32
METHOD = TOKEN.removesuffix(b"++") + b"{1,%d}+" % MAX_METHOD_BYTES

# RFC 9112 section 3
#   request-line = method SP request-target SP HTTP-version
REQUEST_LINE = re.compile(rb"(" + METHOD + rb") (" + REQUEST_TARGET + rb") HTTP/([0-9])\.([0-9])")
REQUEST_HEAD = re.compile(
    rb"(" + METHOD + rb") (" + REQUEST_TARGET + rb") HTTP/1\.([01])(" + FIELD_LINES + rb")\r\n\r\n"
)

# RFC 9112 section 4.  A missing reason phrase may take its space with it, as many servers do.
#   status-line = HTTP-version SP status-code SP [ reason-phrase ]
RESPONSE_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])( " + FIELD_TEXT + rb"|)(" + FIELD_LINES + rb")\r\n\r\n"
)

# RFC 9112 section 3: a method longer than any that is implemented is 501; this is the beginning of one.
LONG_METHOD = re.compile(TOKEN.removesuffix(b"++") + b"{%d}" % (MAX_METHOD_BYTES + 1))

# RFC 9112 section 2.2: at least one empty line before a request line is ignored.
MAX_EMPTY_LINES = 64
EMPTY_LINES = re.compile(rb"(?>(?:\r\n)+)")

FIELD_LINE = re.compile(TOKEN + rb":" + FIELD_TEXT)
TRAILERS = re.compile(FIELD_LINES)

# What no head may hold anywhere: a bare LF, a bare CR, a control byte.  A CR at the very end may
# still become CRLF.
BROKEN_LINE = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

# RFC 9110 section 5.6.4
#   quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE
QUOTED = rb'"(?>(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]++|\\[\t \x21-\x7e\x80-\xff])*)"'

# RFC 9112 section 7.1; sizes of up to 15 hex digits stay below 2**60.
#   chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
#   chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
_EXTENSION = rb"[ \t]*+;[ \t]*+" + TOKEN + rb"(?>(?:[ \t]*+=[ \t]*+(?:" + TOKEN + rb"|" + QUOTED + rb"))?)"
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?>(?:" + _EXTENSION + rb")*)\r\n")

# RFC 9110 section 7.2, RFC 3986 section 3.2: the host part may be empty only as a whole.  Its length is that of the
# longest name in the DNS (RFC 1035 section 2.3.4, RFC 3986 section 3.2.2).
#   Host = uri-host [ ":" port ]
MAX_HOST_BYTES = 255
MAX_AUTHORITY_BYTES = MAX_HOST_BYTES + len(":65535")
AUTHORITY = re.compile(
    rb"(\[(?:[0-9A-Fa-f:.]++|[vV][0-9A-Fa-f]++\.[-._~!$&'()*+,;=:0-9A-Za-z]++)\]"
    rb"|(?>(?:[-._~!$&'()*+,;=0-9A-Za-z]|%[0-9A-Fa-f]{2})+))(?::[0-9]{0,5})?"
)
ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?]*+)(.*)", re.DOTALL)

# RFC 9110 section 8.6; 18 digits stay below 2**60.
CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")

# RFC 9110 section 5.6.4: text in which each quoted-string is closed, so that what is put behind it cannot
# become a part of one.
CLOSED_QUOTES = re.compile(rb"(?>(?:[^\"]++|" + QUOTED + rb")*)")

# RFC 9110 section 5.6.1, for the lists of tokens in Connection and Transfer-Encoding
TOKEN_LIST = re.compile(TOKEN + rb"(?>(?:[ \t]*+,[ \t]*+" + TOKEN + rb")*)")


def field_splitter(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """A pattern whose `split` takes the fields of these names out of checked field lines.

    The result is in turn: lines of other names, a name as it was sent, its value without leading
    white space, lines of other names, and so on.  One call does what a loop over the lines would
    do in three times the time.
    """
    # Alternatives that begin alike are tried together, so a field of another name costs one look
    # at its first letter.
    by_letter: dict[bytes, list[bytes]] = {}
    for name in sorted(names):
        by_letter.setdefault(name[:1], []).append(re.escape(name[1:]))
    choices = (first + rb"(?:" + rb"|".join(rest) + rb")" for first, rest in by_letter.items())
    return re.compile(rb"\r\n(" + rb"|".join(choices) + rb"):[ \t]*+([^\r]*+)", re.IGNORECASE)
