"""When a server has sent no response, or only a part of one: whether that is its failure, and whether to retry.

Blame:

1. NOBODY, when no byte of a response came on a kept connection: the server had closed it while it was idle.
2. NOBODY, when the server closed the connection before it had the whole request: it may have timed out a client that
   sends slowly, and clients must not be able to have a server ejected.
3. NOBODY, when the server closed the connection while the client did not read the response, for the same reason: its
   write has timed out.
4. REFUSED, when nothing listened at the server's address.
5. DIED, when the server closed the connection, or no connection to it could be made, which includes a failed TLS
   handshake.
6. FAILED, when the response did not come in time, or was malformed.

Retry (RFC 9110 section 9.2.2):

1. On the same server with a new connection, after 1 above, if no byte of the request was sent, or the method is
   idempotent.  It costs nothing of the retry budget, since the server has not failed.
2. On the next server, if the method is idempotent and the retry budget allows it.
3. None.

Both require that everything received of the request can be sent again.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Blame(Enum):
    """What a failed attempt means for the health of the server."""

    NOBODY = "nobody"
    REFUSED = "refused"
    DIED = "died"
    FAILED = "failed"


class Step(Enum):
    """What is done with the request next."""

    SAME_SERVER = "the same server, on a new connection"
    NEXT_SERVER = "the next server, within the budget"
    GIVE_UP = "nobody"


class Attempt(NamedTuple):
    """A request that was sent, and how the attempt ended."""

    kept_connection: bool  # the connection had carried an exchange before
    closed: bool  # the server has ended the connection
    silent: bool  # no byte of a response came
    unsent: bool  # the kernel had taken no byte of the request
    whole: bool  # the request was received and passed on to its end
    sendable: bool  # what was received of it can be sent again
    idempotent: bool  # whether its method is
    client_slow: bool = False  # reading of the response was paused, because the client did not read it


def blame(attempt: Attempt) -> Blame:
    """What the attempt means for the health of the server."""
    if attempt.kept_connection and attempt.silent:
        return Blame.NOBODY
    if not attempt.closed:
        return Blame.FAILED
    return Blame.DIED if attempt.whole and not attempt.client_slow else Blame.NOBODY


def next_step(attempt: Attempt) -> Step:
    """What is done with the request next."""
    again = attempt.unsent or (attempt.silent and attempt.idempotent)
    if attempt.kept_connection and attempt.sendable and again:
        return Step.SAME_SERVER
    return Step.NEXT_SERVER if attempt.sendable and attempt.idempotent else Step.GIVE_UP
