"""Who serves a request: a server, the door of the user API, or this gateway itself."""

from __future__ import annotations

from typing import Protocol

from twisted_lb.proxy.doorstep import Doorstep
from twisted_lb.proxy.exchange import Exchange
from twisted_lb.proxy.surroundings import Client
from twisted_lb.proxy.visit import LastStop, Visit, Visitor
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.head import RequestHead


class Sender(Client, Visitor, Protocol):
    """The client's connection."""


def dispatch(doorstep: Doorstep, client: Sender, head: RequestHead, framing: int) -> Exchange | Visit:
    """What serves the request, not started yet; `framing` is its length in bytes, or CHUNKED.

    Raises RequestError for what is served by nobody.
    """
    notable = head.notable
    # RFC 9110 section 10.1.1: in HTTP/1.0 it means nothing.
    if b"expect" in notable and head.minor and [one.lower() for one in notable[b"expect"]] != [b"100-continue"]:
        raise RequestError(417, "The only expectation that can be met is 100-continue.")
    limit = doorstep.settings.max_body_bytes
    if limit and framing > limit:
        raise RequestError(413, f"A request body has at most {limit} bytes.")
    if head.method == b"TRACE":
        # It would echo the key to whoever can make a browser send it.
        raise RequestError(501, "TRACE is not served here.")
    shared = doorstep.shared
    door = doorstep.door
    if door.owns(head.target.partition(b"?")[0]):
        if framing > door.max_body_bytes:
            raise RequestError(413, f"A body for this path has at most {door.max_body_bytes} bytes.")
        return Visit(door, client, shared.posted, head)
    if head.method == b"OPTIONS" and notable.get(b"max-forwards") == [b"0"]:
        # RFC 9110 section 7.6.2: it is ours to answer.
        return Visit(LastStop(), client, shared.posted, head)
    return Exchange(shared, client, head, framing)
