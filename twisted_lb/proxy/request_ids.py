"""The id and the trace context of a request: those that its client has sent, if they are valid, or new ones.

    X-Request-ID: 1 to 128 letters, digits and  . _ ~ + / = : @ -
    traceparent:  W3C Trace Context section 3.2, of any version; tracestate is used only with a valid one

They are accepted from any client: an id gives no rights, and a client that sends the id of another one confuses only
its own traces.  New ids are 32 random hexadecimal digits: unique across processes and restarts, and unpredictable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from os import urandom
from typing import Final

from twisted_lb.wire.fields import REQUEST_ID, TRACEPARENT, TRACESTATE
from twisted_lb.wire.head import Notable

MAX_ID_BYTES: Final = 128
ID_DIGITS: Final = 32
SPAN_DIGITS: Final = 16
# Random bytes are read in blocks: a system call for each id would cost more than everything else.
BLOCK_BYTES: Final = 2048

_VALID_ID: Final = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,%d}" % MAX_ID_BYTES)
# version - trace-id - parent-id - trace-flags; ff is not a version, and ids of zeros are invalid.  Later versions may
# have more after the flags.
_VALID_PARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,256})?"
)
_OWN_LINE: Final = re.compile(rb"\r\nx-request-id:[^\r]*+", re.IGNORECASE)


class RequestIds:
    """Makes and checks the ids of one process."""

    __slots__ = ("_traces", "_random", "_digits", "_used")

    def __init__(self, traces: bool, random: Callable[[int], bytes] = urandom) -> None:
        """`traces`: a request without a valid trace context gets one; `random(n)` returns n random bytes."""
        self._traces = traces
        self._random = random
        self._digits = b""
        self._used = 0

    def new(self, digits: int = ID_DIGITS) -> bytes:
        """Random hexadecimal digits."""
        start = self._used
        end = start + digits
        if end > len(self._digits):
            self._digits = self._random(BLOCK_BYTES).hex().encode()
            start, end = 0, digits
        self._used = end
        return self._digits[start:end]

    def identify(self, notable: Notable) -> bytes:
        """The id of a request with these fields.

        Afterwards `notable` has the id and the trace context that servers get.
        """
        request_id = b""
        if REQUEST_ID in notable:
            sent = notable[REQUEST_ID]
            if len(sent) == 1 and _VALID_ID.fullmatch(sent[0]):
                request_id = sent[0]
        if not request_id:
            request_id = self.new()
            notable[REQUEST_ID] = [request_id]
        if TRACEPARENT in notable:
            parents = notable[TRACEPARENT]
            if len(parents) == 1 and valid_traceparent(parents[0]):
                return request_id
            del notable[TRACEPARENT]
        if TRACESTATE in notable:
            del notable[TRACESTATE]
        if self._traces:
            # "Sampled", so that servers that follow their caller record it; there is no value for "not decided".
            notable[TRACEPARENT] = [b"00-%b-%b-01" % (self.new(), self.new(SPAN_DIGITS))]
        return request_id


def valid_traceparent(value: bytes) -> bool:
    """Whether this is a trace context."""
    found = _VALID_PARENT.fullmatch(value)
    return found is not None and (found[1] is None or value[:2] != b"00")


def trace_id(notable: Notable) -> bytes:
    """The trace id of a request; b"" if there is none."""
    parents = notable.get(TRACEPARENT)
    return parents[0][3 : 3 + ID_DIGITS] if parents else b""


def without_id(fields: bytes) -> bytes:
    """The field lines of a response without a server's X-Request-ID."""
    if fields.lower().find(b"\r\nx-request-id:") < 0:
        return fields
    return _OWN_LINE.sub(b"", fields)
