"""Names of fields that servers cannot tell apart.

CGI (RFC 3875 section 4.1.18), and the interfaces derived from it (WSGI, Rack, PHP, FastCGI), convert the name of a
field to the name of a variable: in upper case, with `_` for `-`.  Some also replace every other character with `_`.
For them `X.Forwarded.For` and `X_Forwarded_For` are X-Forwarded-For, so a client that sends one of these could claim
any address, and with the lookalike of a field that names the user, impersonate any user.

Therefore, in the heads and trailers of requests:

1. A field whose name contains characters other than letters, digits and `-` is dropped, as in nginx, unless a setting
   allows it.
2. A field whose name becomes the same variable as that of a field which this gateway reads, sets or drops is always
   dropped.
"""

from __future__ import annotations

import re
import string
from collections.abc import Set
from typing import Final

_PLAIN: Final = string.ascii_letters + string.digits + "-"

# In validated field lines: one whose name has another character.
UNUSUAL_NAME: Final = re.compile(rb"\r\n[-0-9A-Za-z]*+[^-0-9A-Za-z:]")

# The variable's name in the notation of this package: in lower case, with `-` for all but letters and digits.
_FOLDING: Final = bytes(ord(chr(byte).lower() if chr(byte) in _PLAIN else "-") for byte in range(256))


def folded(name: bytes) -> bytes:
    """The lower-case name, of letters, digits and hyphens, for which a server may mistake this one."""
    return name.translate(_FOLDING)


def is_usual(name: bytes) -> bool:
    """Whether a name contains only letters, digits and hyphens."""
    return name.replace(b"-", b"a").isalnum()


def may_go_on(name: bytes, taken: Set[bytes], any_name: bool) -> bool:
    """Whether a field with this name, which is not in `taken`, may be forwarded.

    With `any_name`, unusual names may be forwarded too, unless a server could mistake them for a name in `taken`.
    """
    return folded(name) not in taken if any_name else is_usual(name)
