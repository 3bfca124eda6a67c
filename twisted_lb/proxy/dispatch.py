"""What serves a request: a server, the user API (`IDoor`), or this gateway itself."""

from __future__ import annotations

from typing import Any, Union

from twisted_lb.cors import is_preflight
from twisted_lb.credentials import PARAMETER
from twisted_lb.proxy.admission import IN_MAINTENANCE, retry_after
from twisted_lb.proxy.answered_request import AnsweredRequest
from twisted_lb.proxy.connection_limits import ConnectionLimits
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.exchange import Exchange
from twisted_lb.proxy.extended_exchange import ExtendedExchange
from twisted_lb.proxy.https_redirect import STATUS
from twisted_lb.proxy.local_request import LocalExchange, MaxForwardsAnswer
from twisted_lb.proxy.preflight import Preflight, PreflightAnswer
from twisted_lb.proxy.refused_request import RefusedRequest
from twisted_lb.proxy.route import AnsweringRoute, Route
from twisted_lb.request_record import FORBIDDEN, MAINTENANCE, NO_ROUTE
from twisted_lb.routing.readings import certain_route
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.head import RequestHead
from twisted_lb.wire.query import take_parameter

# What serves a request on its route: a server, the route itself, or a refusal.
OnRoute = Union[Exchange, AnsweredRequest, RefusedRequest]


def check_request(limits: ConnectionLimits, head: RequestHead) -> None:
    """Move a key from the target to the fields, and apply the rules that hold for every kind of stream.

    Raises RequestError for a request that is not served.
    """
    _take_key_parameter(limits, head)
    if head.method == b"TRACE":
        # The response would contain the key, and scripts that make a browser send the request could read it.
        raise RequestError(501, "TRACE is not served here.")


def is_keyless_preflight(limits: ConnectionLimits, head: RequestHead, framing: int) -> bool:
    """Whether an OPTIONS request is a CORS preflight, which browsers send without a key (Fetch standard)."""
    return limits.context.keys.none_in(head.notable) and is_preflight(head, framing)


def dispatch(
    limits: ConnectionLimits, client: Any, head: RequestHead, framing: int
) -> OnRoute | LocalExchange:
    """What serves the request, not started yet; `framing` is its length in bytes, or CHUNKED.

    `client` is both an IClientStream and a LocalClient.

    Raises RequestError for a request that is not served.
    """
    redirect = limits.https_redirect
    if redirect is not None and client.peer.scheme != b"https":
        target = head.target
        # The key must not get into a log or anywhere else, but the client needs it again.
        _take_key_parameter(limits, head)
        location = b"\r\nLocation: " + redirect.location(head.host, target)
        return RefusedRequest(client, STATUS, "This is served over https.", location)
    notable = head.notable
    # RFC 9110 section 10.1.1: in HTTP/1.0 it is ignored.
    if b"expect" in notable and head.minor and [one.lower() for one in notable[b"expect"]] != [b"100-continue"]:
        raise RequestError(417, "The only expectation that can be met is 100-continue.")
    check_request(limits, head)
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
    return exchange_on_route(context, client, head, framing)


def check_content(exchange: Exchange, size: int) -> None:
    """Raise RequestError if the content of a request has more bytes than it may."""
    limit = exchange.max_body_bytes
    if limit and size > limit:
        raise RequestError(413, f"A request body has at most {limit} bytes.")


def exchange_on_route(context: ProxyContext, client: Any, head: RequestHead, framing: int) -> OnRoute:
    """What serves a request on its route.  Raises RequestError for content that is too long."""
    route = context.routes.only
    refused = None
    # The usual case first: it runs for each request.
    if route is None or not isinstance(route, Route) or route.restricted or route.pool.maintenance:
        route, refused = _route_of(context, client, head)
    if refused is not None:
        return refused
    if isinstance(route, Route):
        if route.extended:
            exchange: Exchange = ExtendedExchange(context, route, client, head, framing)
        else:
            exchange = Exchange(context, route, client, head, framing)
        if framing > 0:
            check_content(exchange, framing)
        return exchange
    assert route is not None
    return AnsweredRequest(context, route, client, head, framing)


def preflight_on_route(limits: ConnectionLimits, client: Any, head: RequestHead) -> OnRoute:
    """What serves a preflight, which has no key, on the route of its path."""
    route, refused = _route_of(limits.context, client, head)
    if refused is not None:
        return refused
    if isinstance(route, Route):
        if route.split is not None:
            # As for other requests without a key.
            route = route.split.route_of(client.peer.network)
            if route.pool.maintenance:
                return _in_maintenance(client, route.pool.maintenance)
        return Preflight(limits.preflights, route, client, head)
    assert route is not None
    return AnsweredRequest(limits.context, route, client, head, 0)


def _route_of(
    context: ProxyContext, client: Any, head: RequestHead
) -> tuple[Route | AnsweringRoute | None, RefusedRequest | None]:
    """The route of a request, or the refusal of one that has none or may not use it."""
    routes = context.routes
    route: Route | AnsweringRoute | None = routes.only
    if route is None:
        route, fault = certain_route(routes, head)
        if fault:
            return None, RefusedRequest(client, 400, fault)
        if route is None:
            return None, RefusedRequest(client, 404, "There is nothing at this address.", b"", NO_ROUTE)
        if client.record is not None:
            client.record.route = route.name
    if route.access is not None and not route.access.permits(client.peer.address):
        return None, RefusedRequest(client, 403, "This is not for clients with your address.", b"", FORBIDDEN)
    seconds = route.maintenance
    # If the route has several pools, others may not be in maintenance.
    if not seconds and isinstance(route, Route) and route.split is None:
        seconds = route.pool.maintenance
    return (None, _in_maintenance(client, seconds)) if seconds else (route, None)


def _in_maintenance(client: Any, seconds: float) -> RefusedRequest:
    return RefusedRequest(client, 503, IN_MAINTENANCE, retry_after(seconds), MAINTENANCE)


def _take_key_parameter(limits: ConnectionLimits, head: RequestHead) -> None:
    """Move the values of the query parameter for the key to the notable fields."""
    if limits.key_parameter and b"?" in head.target:
        head.target, values = take_parameter(head.target, limits.key_parameter)
        if values:
            head.notable[PARAMETER] = values


def _special_options(
    limits: ConnectionLimits, client: Any, head: RequestHead, framing: int, owned: bool
) -> OnRoute | LocalExchange | None:
    """What serves an OPTIONS request that needs no key; None if it is served like other requests.

    `owned`: the path belongs to the door.
    """
    context = limits.context
    if is_keyless_preflight(limits, head, framing):
        cors = context.cors
        if cors is not None:
            answer = PreflightAnswer(cors, head, context.sweeper.date)
            fields = limits.fields_for(client.peer)
            return LocalExchange(answer, client, context.posted, head, context.keys, None, fields)
        if not owned:
            return preflight_on_route(limits, client, head)
    if not owned and head.notable.get(b"max-forwards") == [b"0"]:
        # RFC 9110 section 7.6.2: it must not be forwarded.
        fields = limits.fields_for(client.peer)
        cors = context.cors
        return LocalExchange(MaxForwardsAnswer(), client, context.posted, head, context.keys, cors, fields)
    return None
