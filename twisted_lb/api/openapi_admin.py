"""The admin listener in OpenAPI, without users and keys: the state of the program, servers, pools and routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twisted_lb.api.metrics import CONTENT_TYPE as METRICS_TYPE
from twisted_lb.api.openapi_parts import (
    LOCATION,
    Part,
    answer,
    array,
    body,
    field,
    operation,
    or_null,
    parameter,
    ref,
    text,
)
from twisted_lb.config.admin_tokens import READ, SERVERS
from twisted_lb.config.sections import NAME
from twisted_lb.config.servers_schema import ServerModel

STATE: Final = "state of the program"
POOLS: Final = "servers and pools"

# If no tokens are configured, everybody who connects to the listener by a local name may read.
_READER: Final[list[Mapping[str, list[str]]]] = [{"AdminToken": [READ]}, {}]
_CHANGER: Final[list[Mapping[str, list[str]]]] = [{"AdminToken": [SERVERS]}]
_READ: Final = (401, 403, 503)
_ONE: Final = (*_READ, 404)
_CHANGED: Final = (400, 401, 403, 404, 409, 413, 503)

_POOL: Final = (parameter("pool", "path", "The name of the pool.", text(pattern=NAME)),)
_ROUTE: Final = (parameter("route", "path", "The name of the route, percent-encoded.", text(minLength=1)),)
_SERVER: Final = (*_POOL, parameter("server", "path", "The name of the server.", text(minLength=1)))
_ID: Final = field("The id of the change in the audit log.")
_ANY_SERVER: Final = {"anyOf": [ref("Server"), ref("ServersOfEntry")]}
_GONE: Final = {204: answer("It is done.", X_Request_ID=_ID)}
_ADDRESS: Final[Part] = {"anyOf": [text(format="ipv4"), text(format="ipv6"), text(maxLength=0)]}
_EXPLAINED: Final = (
    ("method", "The method of the request.", text(default="GET", pattern="^[!-~]+$")),
    ("host", "Its Host.", text(default="localhost", pattern="^[!-~]+$")),
    ("path", "Its path, with the query.", text(default="/", pattern="^/[!-~]*$")),
    ("client", "The address of the client.", _ADDRESS),
    ("user", "The name of the user.", text()),
    ("key_id", "The key_id of the API key, in place of key_digest.", text(pattern="^(key_[0-9a-f]{16})?$")),
    ("key_digest", "The SHA-256 of the API key.", text(pattern="^([0-9a-f]{64})?$")),
    ("header", "A field of the request, as NAME:VALUE.", array(text(pattern="^[A-Za-z-]+:[ -~]*$"))),
)


def server_patch(server: Mapping[str, Any]) -> Part:
    """The schema for changing a server, from that of a server: all but name and url; null stands for the default."""
    keys = {name: or_null(one) for name, one in server["properties"].items() if name not in ("name", "url")}
    return {
        "type": "object",
        "description": "New values for keys of a server; null stands for the default.",
        "properties": keys,
        "minProperties": 1,
        "additionalProperties": False,
    }


def _shown(name: str, tag: str, summary: str, schema: Part, parameters: tuple[Part, ...] = ()) -> Part:
    answers = {200: answer("The present state.", schema)}
    return operation(name, tag, summary, answers, _ONE if parameters else _READ, _READER, parameters)


def _order(name: str, summary: str) -> Part:
    answers = {200: answer("The server after the change.", _ANY_SERVER, X_Request_ID=_ID)}
    return operation(name, POOLS, summary, answers, _CHANGED, _CHANGER, _SERVER)


def _promotion(name: str, whose: str, parameters: tuple[Part, ...]) -> Part:
    answers = {200: answer("The limit after the change.", ref("Limit"), X_Request_ID=_ID)}
    parameters += (parameter("limit", "path", "The name of the limit.", text(pattern=NAME)),)
    return operation(name, POOLS, f"Enforce a shadow limit of {whose}.", answers, _CHANGED, _CHANGER, parameters)


PATHS: Final[Mapping[str, Part]] = {
    "/livez": {
        "get": operation(
            "isAlive",
            STATE,
            "Check that the program runs.",
            {200: answer("It runs.", text(), "text/plain; charset=utf-8")},
            (),
            [{}],
        )
    },
    "/readyz": {
        "get": operation(
            "isReady",
            STATE,
            "Check whether the program is ready for traffic.",
            {200: answer("It is ready.", ref("Readiness")), 503: answer("It is not ready.", ref("Readiness"))},
            (),
            [{}],
        )
    },
    "/metrics": {
        "get": operation(
            "showMetrics",
            STATE,
            "Show the metrics in the Prometheus format.",
            {200: answer("The metrics.", text(), METRICS_TYPE)},
            _READ,
            _READER,
        )
    },
    "/openapi.json": {
        "get": operation(
            "describeApi",
            STATE,
            "Show this document.",
            {200: answer("An OpenAPI document.", {"type": "object"})},
            _READ,
            _READER,
        )
    },
    "/explain": {
        "get": operation(
            "explainRequest",
            STATE,
            "Explain how a request would be handled; this takes no tokens.",
            {200: answer("The explanation.", ref("Explanation"))},
            (400, *_ONE),
            _READER,
            [parameter(name, "query", description, schema) for name, description, schema in _EXPLAINED],
        )
    },
    "/servers": {"get": _shown("listAllServers", POOLS, "List the servers of all pools.", array(ref("Server")))},
    "/limits": {"get": _shown("listLimits", POOLS, "List the limits of the servers file.", ref("Limits"))},
    "/limits/{limit}/promote": {"post": _promotion("promoteLimit", "all routes", ())},
    "/routes/{route}/limits/{limit}/promote": {"post": _promotion("promoteLimitOfRoute", "a route", _ROUTE)},
    "/pools/{pool}/limits/{limit}/promote": {"post": _promotion("promoteLimitOfPool", "a pool", _POOL)},
    "/routes": {"get": _shown("listRoutes", POOLS, "List the routes in their order.", array(ref("RouteWithState")))},
    "/pools": {"get": _shown("listPools", POOLS, "List the pools.", ref("Pools"))},
    "/pools/{pool}": {"get": _shown("showPool", POOLS, "Show a pool.", ref("PoolWithServers"), _POOL)},
    "/pools/{pool}/servers": {
        "get": _shown("listServers", POOLS, "List the servers of a pool.", array(ref("Server")), _POOL),
        "post": operation(
            "addServer",
            POOLS,
            "Add a server to a pool.",
            {201: answer("The new server.", _ANY_SERVER, X_Request_ID=_ID, Location=LOCATION)},
            _CHANGED,
            _CHANGER,
            _POOL,
            body(ref(ServerModel.__name__)),
        ),
    },
    "/pools/{pool}/servers/{server}": {
        "get": _shown("showServer", POOLS, "Show a server.", _ANY_SERVER, _SERVER),
        "patch": operation(
            "changeServer",
            POOLS,
            "Change keys of a server.",
            {200: answer("The server after the change.", _ANY_SERVER, X_Request_ID=_ID)},
            _CHANGED,
            _CHANGER,
            _SERVER,
            body(ref("ServerPatch")),
        ),
        "delete": operation("removeServer", POOLS, "Remove a server.", _GONE, _CHANGED, _CHANGER, _SERVER),
    },
    "/pools/{pool}/servers/{server}/drain": {"post": _order("drainServer", "Send no new requests to a server.")},
    "/pools/{pool}/servers/{server}/undrain": {"post": _order("undrainServer", "End the draining of a server.")},
    "/pools/{pool}/servers/{server}/disable": {
        "post": _order("disableServer", "Send neither requests nor health checks to a server.")
    },
    "/pools/{pool}/servers/{server}/enable": {"post": _order("enableServer", "Take a server into service again.")},
    "/pools/{pool}/maintenance": {
        "put": operation(
            "beginMaintenance",
            POOLS,
            "Answer all requests of a pool with 503.",
            {200: answer("The pool.", ref("PoolWithServers"), X_Request_ID=_ID)},
            _CHANGED,
            _CHANGER,
            _POOL,
            body(ref("Maintenance"), required=False),
        ),
        "delete": operation(
            "endMaintenance", POOLS, "Serve the requests of a pool again.", _GONE, _CHANGED, _CHANGER, _POOL
        ),
    },
}
