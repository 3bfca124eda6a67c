"""All keys in Redis: contents, type, and when each is removed.

`tokenlb:{<digest>}`, a hash: a user, with `name`, `capacity`, `rate`, `level`, `stamp` and more, and the user's first
    key; or a further key, with `owner` (bucket.lua, users.lua).  Removed with the user or the key.
`tokenlb:names`, a sorted set, scores 0: `<name> NUL <digest of the first key>` of each user.  Members go with the user.
`tokenlb:keys_of:{<digest of the first key>}`, a set: the digests of the user's further keys.  Members go with the key.
`tokenlb:key_bucket:{<digest>}`, a hash: the bucket of a key's own, with `level` and `stamp`.  Removed with the key.
`tokenlb:shadow_bucket:{<digest of the first key>}`, a hash: the bucket of a user's shadow policy, likewise.
    Removed with the policy, or with the user; it also expires when it is full, and a month after its last use.
`tokenlb:first_keys` and `tokenlb:further_keys`, sorted sets, scores 0: digests, the index of keys by key_id
    (users.lua).  Earlier versions do not enter keys: index_keys.lua does.  Members go with the key.
`tokenlb:global`, a hash: the bucket of all users, with `level` and `stamp`.  Never removed.
`tokenlb:address:<network>`, a hash: the bucket of a client's network, likewise.  Expires when it is full.
`tokenlb:limit:<rule>` and `tokenlb:limit:<rule>|<subject>`, hashes: buckets of routes and pools (interfaces.LimitRule)
    for all requests, or for a digest or a network, likewise.  Expire when they are full; at a rate of 0, never.
`tokenlb:in_flight:{<digest>}`, a hash: id of an instance -> how many requests of the account it has in flight.
    Members of dead instances go with the next change (take_tokens.lua); it expires PLACES_SECONDS after its last use.
`tokenlb:changed_keys`, a sorted set: digest -> when the state of the key was changed last (users.lua).
    Members are removed after eleven minutes, when others come (announce.lua).
`tokenlb:usage:{<subject>}`, a hash: what was counted of a subject in the last day (counts.lua).  Removed with the key
    that it belongs to; expires 25 hours after the last count.
`tokenlb:instances`, a sorted set: id of an instance -> when it was announced last (announce.lua, rejoin.lua).
    A member is removed by its instance when it stops, and by another one when it was silent for the lease.
`tokenlb:returning`, a sorted set: id of an instance that comes back from an outage -> its last call of rejoin.lua.
    A member is removed by its instance when it has charged; the set expires a lease after the last call.
`tokenlb:switch`, a string: the moment at which they charge, or 0; meanwhile no tokens are taken (rejoin.lua).
    Removed by the last one that has charged; it expires a lease after the last call.
`tokenlb:last:<process>`, a string: the last call of a process, and its outcome (take_tokens.lua, resolve.lua).
    Expires a week after the last call.
`tokenlb:webhook`, a string: notices about quotas are wanted (claim_notices.lua).  Expires an hour after the last
    call.
`tokenlb:webhook_gone`, a string: the digest of the URL that has answered 410 (claim_notices.lua).  Removed at a start
    with this URL; expires after a day.
`tokenlb:notices`, a hash: id of a notice -> what it says; and `tokenlb:notices_due`, a sorted set: id -> when it is
    due (take_tokens.lua, claim_notices.lua).  Members are removed when they are delivered or given up
    (finish_notice.lua), and when their user is gone or they are eight hours old; both expire nine hours after the last
    claim.

A digest is the SHA-256 of an API key in hexadecimal.  Times are microseconds of Redis, levels microtokens.  Scripts
that work on many keys have these names in their own text.
"""

from __future__ import annotations

NAMES_KEY = b"tokenlb:names"
INSTANCES_KEY = b"tokenlb:instances"
RETURNING_KEY = b"tokenlb:returning"
SWITCH_KEY = b"tokenlb:switch"
WEBHOOK_KEY = b"tokenlb:webhook"
WEBHOOK_GONE_KEY = b"tokenlb:webhook_gone"
NOTICES_KEY = b"tokenlb:notices"
NOTICES_DUE_KEY = b"tokenlb:notices_due"

PLACES_SECONDS = 86_400  # after which the counts of an unused key are dropped


def account_key(digest: str) -> bytes:
    """The key of an account."""
    return b"tokenlb:{%s}" % digest.encode()


def places_key(digest: str) -> bytes:
    """The key that holds how many requests each instance has in flight for an account."""
    return b"tokenlb:in_flight:{%s}" % digest.encode()


def usage_key(subject: str) -> bytes:
    """The key of the counts of a subject."""
    return b"tokenlb:usage:{%s}" % subject.encode()


def shared_key(name: str) -> bytes:
    """The key of a shared bucket, by the name that SharedBucket has for it."""
    return b"tokenlb:" + name.encode()


def last_call_key(process: bytes) -> bytes:
    """The key of the last call of a process and its outcome."""
    return b"tokenlb:last:" + process
