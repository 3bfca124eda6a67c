"""The schemas of responses, which `representations`, `status`, `pool_summary` and `user_records` make."""

from __future__ import annotations

from typing import Final

from twisted_lb.api.openapi_parts import Part, array, flag, members, number, or_null, ref, text, whole
from twisted_lb.api.pool_summary import STATES, SUMS
from twisted_lb.api.representations import EXPIRED
from twisted_lb.config.pool import ADMIN_STATES
from twisted_lb.limits.rejection import MEMBER, REASON
from twisted_lb.quotas import PERIODS, REQUESTS, TOKENS, UNITS
from twisted_lb.users import ACTIVE, DISABLED, KEY_ID_DIGITS, KEY_ID_PREFIX, REFUSALS, REVOKED

TIME: Final = text("A time of RFC 3339 in UTC.", format="date-time")
KEY_ID: Final = text("The public name of the key.", pattern=f"^{KEY_ID_PREFIX}[0-9a-f]{{{KEY_ID_DIGITS}}}$")
_TIME_US: Final = or_null(whole("Microseconds since 1970."))
_POLICY: Final = {
    "capacity": whole("The tokens of a full bucket.", minimum=1),
    "rate_per_sec": number("Tokens that are added per second.", minimum=0),
}
_LEVEL: Final = whole("The whole tokens in the bucket; negative for a debt.")
_BUCKET: Final = {**_POLICY, "current_capacity": _LEVEL}
_NAME: Final = text("The name of the user.")
_NEW: Final = {"api_key": text("The key itself, which is shown in this response only.")}
_KEY: Final = {
    "key_id": KEY_ID,
    "label": text("A description in one line."),
    "state": text("Whether the key can be used.", enum=[ACTIVE, DISABLED, EXPIRED, REVOKED]),
    "created_at": or_null(TIME),
    "expires_at": or_null(TIME),
    "last_used": or_null({**TIME, "description": "To the minute."}),
}
_OWNED_KEY: Final = {**_KEY, "user": _NAME}
_OF_QUOTA: Final = {"quota": ref("Quota")}
_USER: Final = {
    "name": _NAME,
    **_BUCKET,
    "disabled": flag("Whether all keys are refused."),
    "metadata": {"type": "object", "description": "Values that operators store with the user."},
    "created_at": or_null(TIME),
    "keys": array(ref("Key")),
}
_SHADOW_COUNTS: Final = {"hour": ref("ShadowCounts"), "day": ref("ShadowCounts")}
_USAGE: Final = {"hour": ref("UsageCounts"), "day": ref("UsageCounts")}

_COUNTS: Final = {
    **{name: whole(minimum=0) for name in SUMS},
    "latency_ms": or_null(number("The mean latency; null before the first response.")),
}
_SERVER: Final = {
    "name": text(),
    "pool": text("The name of its pool."),
    "url": text(),
    "state": text(enum=list(STATES)),
    "reason": text("Why it is in this state."),
    "admin_state": text("What an operator has set.", enum=list(ADMIN_STATES)),
    "weight": whole(minimum=0),
    "effective_weight": number("The weight at present, which is lower during slowstart."),
    "backup": flag(),
    "maxconn": whole("The maximum number of requests in flight; 0: no limit.", minimum=0),
    **_COUNTS,
}
_RETRY_AFTER: Final = or_null(number("The seconds of Retry-After during maintenance, or null."))
_POOL: Final = {
    "name": text(),
    "balancer": text(),
    "state": text(enum=["up", "degraded", "down", "maintenance"]),
    "reason": text(),
    "maintenance": _RETRY_AFTER,
    "live": flag("Whether it has changes that are not in the file."),
    "server_states": {
        "type": "object",
        "description": "How many servers are in each state.",
        "properties": {state: whole(minimum=1) for state in STATES},
        "additionalProperties": False,
    },
    **_COUNTS,
}
_ROUTE: Final = {
    "name": text(),
    "host": or_null(text()),
    "path": or_null(text()),
    "methods": array(text()),
    "headers": array(text(), "The names of fields; their values are not shown."),
    "pools": array(text()),
    "mirror": or_null(text()),
    "hooks": or_null(text()),
    "key": text("Whether requests need an API key."),
    "cost": or_null(whole("The tokens that a request costs; null: the pricing of the pool decides.")),
}
_LIMIT: Final = {
    "name": text(),
    "per": or_null(text("What has its own bucket.")),
    "of": or_null(text("The route or pool that has the limit.")),
    "capacity": or_null(whole()),
    "rate_per_sec": number(),
    "shadow": flag("Whether it is a shadow: it refuses nothing, and what it would refuse is counted."),
    "level": or_null(number("The tokens in the bucket; null if this is not known.")),
}

_OF_USER: Final[dict[str, Part]] = {"shadow": ref("Shadow"), **_OF_QUOTA}

SCHEMAS: Final[dict[str, Part]] = {
    "Problem": members(
        "An error (RFC 9457).",
        {
            "title": text("The phrase of the status."),
            "status": whole("The status of the response.", minimum=400, maximum=599),
            "detail": text("What happened, and what to do."),
        },
        {
            "request_id": text("The X-Request-ID of the request."),
            REASON: text("Why a key is refused.", enum=list(REFUSALS)),
            MEMBER: array(text(), "The limits that have refused the request."),
        },
    ),
    "CreatedUser": members("A new user.", {"name": _NAME, **_POLICY, **_NEW}),
    "Profile": members(
        "A user with the bucket; with the quota if there is one, and, except after a change, with the shadow policy.",
        {"name": _NAME, **_BUCKET},
        {"shadow": members("The shadow policy.", {**_BUCKET, **_SHADOW_COUNTS}), **_OF_QUOTA},
    ),
    "Quota": members(
        "A quota of either requests or tokens, and how much of it was used in its present period.",
        {
            "per": text(enum=list(PERIODS)),
            "time_zone": text("A name of the IANA database."),
            "used": whole("The requests or tokens used since the period began.", minimum=0),
            "left": whole("The requests or tokens that remain in the period.", minimum=0),
            "resets_at": or_null({**TIME, "description": "When the next period begins."}),
        },
        {REQUESTS: whole(minimum=1), TOKENS: whole(minimum=1)},
    ),
    "Shadow": members("The shadow policy of a user.", _BUCKET),
    "UserShadow": members(
        "The shadow policy of a user, with what it would have refused.", {"name": _NAME, **_BUCKET, **_SHADOW_COUNTS}
    ),
    "ShadowCounts": members(
        "The requests that were compared with a shadow, in the hour or day until now.",
        {
            "requests": whole("Requests that were admitted.", minimum=0),
            "would_refuse": whole("Admitted requests that the shadow would have refused.", minimum=0),
        },
    ),
    "Limits": members("The limits of the servers file.", {"limits": array(ref("Limit"))}),
    "Limit": members(
        "A limit of a route, a pool, or all routes; for a shadow, with what it would have refused.",
        {
            "name": text(),
            "of": text("The route or pool that has it, or all."),
            "per": text("What has its own bucket.", enum=["key", "network", "route", "pool", "all"]),
            "capacity": whole(minimum=1),
            "rate_per_sec": number(),
            "shadow": flag("Whether it is a shadow, which refuses nothing."),
            "level": or_null(number("The tokens in the bucket; null if there are several, or this is not known.")),
        },
        {window: or_null(ref("ShadowCounts")) for window in ("hour", "day")},
    ),
    "Key": members("A key; with the members of a bucket if it has its own.", _KEY, _BUCKET),
    "NewOwnKey": members("A new key, with the key itself.", {**_KEY, **_NEW}, _BUCKET),
    "Keys": members("The keys of a user.", {"name": _NAME, "keys": array(ref("Key"))}),
    "User": members(
        "A user with all keys; with the quota and the shadow policy where there are any.", _USER, _OF_USER
    ),
    "NewUserWithKey": members("A new user, with the key.", {**_USER, **_NEW}, _OF_USER),
    "Users": members(
        "A page of users.",
        {"users": array(ref("User")), "next": or_null(text("`after` for the next page; null if this is the last."))},
    ),
    "UserKey": members("A key with the name of its user.", _OWNED_KEY, _BUCKET),
    "UsageCounts": members(
        "The requests of a key, or of all keys of a user, in the hour or day until now.",
        {
            "requests": whole("Admitted requests that have ended.", minimum=0),
            "tokens": whole("Their final cost.", minimum=0),
            "refused": {
                "type": "object",
                "description": "Refused requests, by the name of the limit or the reason why the key is refused.",
                "additionalProperties": whole(minimum=1),
            },
        },
    ),
    "OwnKeyUsage": members("The usage of a key.", {"key_id": KEY_ID, **_USAGE}),
    "KeyUsage": members("The usage of a key, with the name of its user.", {"key_id": KEY_ID, **_USAGE, "user": _NAME}),
    "UserUsage": members(
        "The usage of all keys of a user, in total and for each key.",
        {
            "name": _NAME,
            **_USAGE,
            "keys": array(members("One key.", {"key_id": KEY_ID, "label": _KEY["label"], **_USAGE})),
        },
    ),
    "NewKeyOfUser": members("A new key, with the key itself.", {**_OWNED_KEY, **_NEW}, _BUCKET),
    "RotatedKey": members(
        "The new key in place of another.", {**_OWNED_KEY, "replaces": KEY_ID, **_NEW}, _BUCKET
    ),
    "UserRecord": members(
        "A user as one line of an export: digests in place of keys, levels in microtokens.",
        {"name": _NAME, **_POLICY, "keys": array(ref("KeyRecord"))},
        {
            "level": or_null(whole()),
            "disabled": or_null(flag()),
            "metadata": or_null({"type": "object"}),
            "created_at": _TIME_US,
            "quota": or_null(
                members(
                    "A quota, with what was used in its period.",
                    {"amount": whole(minimum=1), "unit": text(enum=list(UNITS)), "per": text(enum=list(PERIODS))},
                    {
                        "time_zone": or_null(text()),
                        "used": or_null(whole(minimum=0)),
                        "starts_us": _TIME_US,
                        "ends_us": _TIME_US,
                    },
                )
            ),
            "shadow": or_null(members("The shadow policy.", _POLICY, {"level": or_null(whole())})),
        },
    ),
    "KeyRecord": members(
        "A key in an export.",
        {"digest": text("The SHA-256 of the key.", pattern="^[0-9a-f]{64}$")},
        {
            "state": or_null(text(enum=[ACTIVE, DISABLED, REVOKED])),
            "expires_at": _TIME_US,
            "label": or_null(text()),
            "created_at": _TIME_US,
            "last_used": _TIME_US,
            "bucket": or_null(members("The key's own bucket.", _POLICY, {"level": or_null(whole())})),
        },
    ),
    "ImportedLine": members(
        "The result of one line of an import.",
        {
            "line": whole("The number of the line.", minimum=1),
            "name": or_null(_NAME),
            "result": text(enum=["stored", "unchanged", "error"]),
        },
        {"detail": text("What is wrong.")},
    ),
    "Readiness": members(
        "Whether the program is ready for traffic.",
        {
            "ready": flag(),
            "degraded": flag("Whether requests are served with restrictions."),
            "reason": text("Why it is not ready, or degraded; empty if it is neither."),
            "build": text("compiled, or pure Python."),
        },
    ),
    "Server": members("A server: its state, and its counts since it was added.", _SERVER),
    "ServersOfEntry": members(
        "Several servers that come from one entry of the file.",
        {"name": text(), "pool": text(), "servers": array(ref("Server")), **_COUNTS},
    ),
    "Pool": members("A pool, with the sums of its servers.", _POOL),
    "PoolWithServers": members("A pool with its servers.", {**_POOL, "servers": array(ref("Server"))}),
    "Pools": members(
        "All pools.",
        {
            "pools": array(ref("Pool")),
            "writes": text("Where changes go.", enum=["live", "file"]),
            "live_changes": array(ref("LiveChange")),
        },
    ),
    "LiveChange": members(
        "A change that is not in the file.",
        {
            "pool": or_null(text()),
            "server": or_null(text()),
            "before": or_null({"type": "object", "description": "The keys in the file."}),
            "after": or_null({"type": "object", "description": "The keys in use."}),
        },
        {"limit": text("The limit that was changed."), "of": text("The route or pool that has it, or all.")},
    ),
    "Route": members("A route of the file.", _ROUTE),
    "RouteWithState": members(
        "A route, with the state and the sums of its pools.",
        {**_ROUTE, "state": text(enum=["up", "degraded", "down", "maintenance"]), "reason": text(),
         "maintenance": _RETRY_AFTER},
        _COUNTS,
    ),
    "Explanation": members(
        "How a request would be handled.",
        {
            "compared_as": text("The form in which the path is compared with those of routes."),
            "route": or_null(ref("Route")),
            "pool": or_null(text()),
            "status": or_null(whole("The status, if the request is not sent to a server.")),
            "reason": text(),
            "limits": array(ref("MetLimit"), "The limits of this request, in their order."),
            "others": array(members("Another route.", {"name": text(), "why_not": text()})),
            "servers": array(ref("ExplainedServer")),
        },
    ),
    "MetLimit": members("A limit, with its level.", _LIMIT),
    "ExplainedServer": members(
        "A server that may get the request.",
        {
            **_SERVER,
            "choice": or_null(whole("Its place among the choices of the balancer.", minimum=1)),
            "why_not": or_null(text("Why it would not get the request; null for the one that would.")),
        },
    ),
    "Maintenance": {
        **members("How long clients should wait.", {}, {"retry_after": {
            "anyOf": [
                {"type": "number", "minimum": 1, "maximum": 86400},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(ms|s|m|h)?$"},
            ],
            "description": "Seconds, or a duration such as 10m; by default 60 s.",
        }}),
        "additionalProperties": False,
    },
}
