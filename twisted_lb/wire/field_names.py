"""Names of fields that servers take for one another.

CGI (RFC 3875 section 4.1.18), and what has it from there (WSGI, Rack, PHP, FastCGI), turns the name of a field
into the name of a variable: in upper case, and `_` for `-`.  Several put `_` for any other character as well.
There `X.Consumer.Username` and `X_Consumer_Username` are X-Consumer-Username, and whoever sends one is
whoever he likes to be.

Two rules follow, for the heads and the trailers of requests:

1. A name of other characters than letters, digits and `-` is dropped, as nginx does.  A setting has it passed on.
2. A name that becomes the same variable as one which this gateway reads, sets or drops never goes on, whatever
   the setting.
"""

from __future__ import annotations

import re
import string
from collections.abc import Set

_PLAIN = string.ascii_letters + string.digits + "-"

# In field lines that were checked: one whose name has another character.
UNUSUAL_NAME = re.compile(rb"\r\n[-0-9A-Za-z]*+[^-0-9A-Za-z:]")

# What a name becomes, written as the names of this package are: in lower case, with `-` for what is no letter or digit.
_FOLDING = bytes(ord(chr(byte).lower() if chr(byte) in _PLAIN else "-") for byte in range(256))


def folded(name: bytes) -> bytes:
    """The lower-case name, with hyphens only, that a server may take this one for."""
    return name.translate(_FOLDING)


def is_usual(name: bytes) -> bool:
    """Whether there are only letters, digits and hyphens in a name."""
    return name.replace(b"-", b"a").isalnum()


def may_go_on(name: bytes, taken: Set[bytes], any_name: bool) -> bool:
    """Whether a field of this name, which is not one of `taken`, may be passed on.

    `any_name`: so may a name of unusual characters, unless a server could take it for one of `taken`.
    """
    return folded(name) not in taken if any_name else is_usual(name)
