"""Who serves a request: a server, the door of the user API, or this gateway itself."""

from __future__ import annotations

from typing import Any

from twisted_lb.cors import is_preflight
from twisted_lb.credentials import PARAMETER
from twisted_lb.proxy.connection_limits import ConnectionLimits
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.exchange import Exchange
from twisted_lb.proxy.https_redirect import RedirectedRequest
from twisted_lb.proxy.local_request import LocalExchange, MaxForwardsAnswer
from twisted_lb.proxy.preflight import Preflight, PreflightAnswer
from twisted_lb.proxy.route import Route
from twisted_lb.routing.path import is_ambiguous
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.head import RequestHead
from twisted_lb.wire.query import take_parameter


def check_request(limits: ConnectionLimits, head: RequestHead, framing: int) -> None:
    """Move a key from the target to the fields, and check what holds for a request from any kind of stream.

    `framing` is the length of the content in bytes, or CHUNKED.  Raises RequestError for a request that is not served.
    """
    _take_key_parameter(limits, head)
    limit = limits.settings.max_body_bytes
    if limit and framing > limit:
        raise RequestError(413, f"A request body has at most {limit} bytes.")
    if head.method == b"TRACE":
        # The response would contain the key, for anyone who can make a browser send the request.
        raise RequestError(501, "TRACE is not served here.")


def is_keyless_preflight(limits: ConnectionLimits, head: RequestHead, framing: int) -> bool:
    """Whether an OPTIONS request is a CORS preflight, which browsers send without a key (Fetch standard)."""
    return limits.context.keys.none_in(head.notable) and is_preflight(head, framing)


def dispatch(
    limits: ConnectionLimits, client: Any, head: RequestHead, framing: int
) -> Exchange | LocalExchange | RedirectedRequest:
    """What serves the request, not started yet; `framing` is its length in bytes, or CHUNKED.

    `client` is the IClientStream and the LocalClient, whichever it needs to be.

    Raises RequestError for what is served by nobody.
    """
    redirect = limits.https_redirect
    if redirect is not None and client.peer.scheme != b"https":
        target = head.target
        # Neither a log nor anything else is to see the key, but the client needs it again.
        _take_key_parameter(limits, head)
        return RedirectedRequest(client, redirect.location(head.host, target))
    notable = head.notable
    # RFC 9110 section 10.1.1: in HTTP/1.0 it means nothing.
    if b"expect" in notable and head.minor and [one.lower() for one in notable[b"expect"]] != [b"100-continue"]:
        raise RequestError(417, "The only expectation that can be met is 100-continue.")
    check_request(limits, head, framing)
    context = limits.context
    door = limits.door
    owned = door.owns(head.target.partition(b"?")[0])
    if head.method == b"OPTIONS" and (special := _special_options(limits, client, head, framing, owned)) is not None:
        return special
    if owned:
        if framing > door.max_body_bytes:
            raise RequestError(413, f"A body for this path has at most {door.max_body_bytes} bytes.")
        return LocalExchange(
            door, client, context.posted, head, context.keys, context.cors, limits.fields_for(client.peer)
        )
    return Exchange(context, route_of(context, head), client, head, framing)


def route_of(context: ProxyContext, head: RequestHead) -> Route:
    """The route of a request.  Raises RequestError where there is none."""
    routes = context.routes
    route: Route | None = routes.only
    if route is None:
        if is_ambiguous(head.target.partition(b"?")[0]):
            raise RequestError(400, "The path has dot segments between encoded slashes.")
        route = routes.find(head)
        if route is None:
            raise RequestError(404, "There is nothing at this address.")
    return route


def _take_key_parameter(limits: ConnectionLimits, head: RequestHead) -> None:
    """Move what the query has for a key to the notable fields."""
    if limits.key_parameter and b"?" in head.target:
        head.target, values = take_parameter(head.target, limits.key_parameter)
        if values:
            head.notable[PARAMETER] = values


def _special_options(
    limits: ConnectionLimits, client: Any, head: RequestHead, framing: int, owned: bool
) -> Exchange | LocalExchange | None:
    """What serves an OPTIONS request that needs no key; None for one like all other requests.

    `owned`: the path is the door's.
    """
    context = limits.context
    if is_keyless_preflight(limits, head, framing):
        cors = context.cors
        if cors is not None:
            answer = PreflightAnswer(cors, head, context.sweeper.date)
            fields = limits.fields_for(client.peer)
            return LocalExchange(answer, client, context.posted, head, context.keys, None, fields)
        if not owned:
            return Preflight(limits.preflights, route_of(context, head), client, head)
    if not owned and head.notable.get(b"max-forwards") == [b"0"]:
        # RFC 9110 section 7.6.2: it is ours to answer.
        fields = limits.fields_for(client.peer)
        cors = context.cors
        return LocalExchange(MaxForwardsAnswer(), client, context.posted, head, context.keys, cors, fields)
    return None
