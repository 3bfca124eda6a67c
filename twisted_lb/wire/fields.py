"""The fields that a gateway must decide about, by what it does with them; names are in lower case."""

from __future__ import annotations

# RFC 9110 section 7.6.1: what speaks of the connection and stays on it, named in Connection or not.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"http2-settings",
    )
)
NOTABLE_IN_REQUEST = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-type",
    b"expect",
    b"authorization",
    b"x-api-key",
    b"apikey",
    b"max-forwards",
    b"x-consumer-username",
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"forwarded",
    b"via",
    # Nobody's field; but in CGI it becomes HTTP_PROXY, which libraries take for the proxy that they are to use.
    b"proxy",
}
NOTABLE_IN_RESPONSE = HOP_BY_HOP | {
    b"content-length",
    b"date",
    b"x-ratelimit-limit",
    b"x-ratelimit-remaining",
    b"x-ratelimit-reset",
    b"ratelimit",
    b"ratelimit-policy",
    b"trailer",
    b"x-token-cost",
}
# Said twice, these have two readings.
SINGLETONS = frozenset(
    (b"host", b"content-length", b"content-type", b"authorization", b"x-api-key", b"apikey", b"max-forwards")
)

# Named in Connection, these go too.  The others are spent here, or frame the message whatever Connection says:
# a field that may carry a key is read here, so that it counts whether or not it goes on.
NOMINABLE = (
    (NOTABLE_IN_REQUEST | NOTABLE_IN_RESPONSE)
    - HOP_BY_HOP
    - {b"host", b"content-length", b"authorization", b"x-api-key", b"apikey"}
)

# RFC 9110 section 6.5.1: fields for framing, routing, authentication and content format are no trailers.
# What a response has cost is often known at its end only.
FORBIDDEN_TRAILERS = (
    NOTABLE_IN_REQUEST
    | (NOTABLE_IN_RESPONSE - {b"x-token-cost"})
    | {
        b"trailer",
        b"content-encoding",
        b"content-range",
        b"cache-control",
        b"cookie",
        b"set-cookie",
        b"www-authenticate",
        b"location",
        b"range",
        b"age",
        b"expires",
        b"retry-after",
        b"vary",
    }
)
