"""Endpoints whose address may change while a connection to the old address lasts."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Interface


class IWatched(Interface):
    """Also provided by an IStreamClientEndpoint that can detect that a connection goes to the wrong address."""

    def moved() -> Deferred[str]:
        """Why the last connection goes to the wrong address; "" if it does not, or if that is not known.

        Fails only when it is cancelled, as it is when the connection is lost.  Called repeatedly while the
        connection lasts, one call at a time.
        """
