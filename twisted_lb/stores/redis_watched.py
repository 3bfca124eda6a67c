"""Endpoints whose place may move while a connection to the old one lasts."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Interface


class IWatched(Interface):
    """What an IStreamClientEndpoint also provides when it can tell that a connection goes to the wrong place."""

    def moved() -> Deferred[str]:
        """Why the connection that was made last goes to the wrong place; "" when it does not, or nobody can tell.

        Fails only when it is cancelled, as it is when the connection is lost.  Asked again and again while the
        connection lasts, one question at a time.
        """
