"""The buckets of the running program, on the wall clock, with each kind of store."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from tests.integration.origin import Servers
from tests.integration.processes import Answer, Balancer, ask


def limits(answer: Answer) -> dict[str, str]:
    """The fields that speak of the bucket."""
    old = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
    new = ("RateLimit-Policy", "RateLimit", "Retry-After")
    return {name: answer.fields[name] for name in old + new if name in answer.fields}


def test_an_empty_bucket_is_429_until_the_time_it_says(balancer: Balancer, servers: Servers) -> None:
    """The fields count down exactly; the refused request reaches no server; after Retry-After one is admitted."""
    policy = {"X-RateLimit-Limit": "2", "RateLimit-Policy": '"default";q=2;w=4'}
    for _ in range(5):
        servers.forget()
        key = balancer.create_user(f"user-{uuid4()}", 2, 0.5)
        began = time.monotonic()
        first, second, third = (ask(balancer.port, "GET", "/", key=key) for _ in range(3))
        # On a busy machine half a token may be back by then.
        if time.monotonic() - began < 0.9:
            break
    assert (first.status, second.status, third.status) == (200, 200, 429)
    one_left = {"X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "2", "RateLimit": '"default";r=1;t=2'}
    none_left = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4", "RateLimit": '"default";r=0;t=2'}
    assert limits(first) == {**policy, **one_left}
    assert limits(second) == {**policy, **none_left}
    assert limits(third) == {**policy, **none_left, "Retry-After": "2"}
    assert third.fields["Content-Type"] == "application/problem+json"
    assert json.loads(third.body)["status"] == 429
    assert sum(len(origin.seen) for origin in servers.all) == 2
    time.sleep(int(third.fields["Retry-After"]))
    assert [ask(balancer.port, "GET", "/", key=key).status for _ in range(2)] == [200, 429]


def test_at_rate_0_a_bucket_is_not_refilled(balancer: Balancer) -> None:
    """Where no token will come, a refusal names no time."""
    key = balancer.create_user(f"user-{uuid4()}", 1, 0)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    refused = ask(balancer.port, "GET", "/", key=key)
    assert refused.status == 429
    assert limits(refused) == {
        "X-RateLimit-Limit": "1",
        "X-RateLimit-Remaining": "0",
        "RateLimit-Policy": '"default";q=1',
        "RateLimit": '"default";r=0',
    }


def test_many_at_once_get_what_the_bucket_holds(balancer: Balancer) -> None:
    """Of 60 requests at once for a bucket of 25, 25 are admitted."""
    key = balancer.create_user(f"user-{uuid4()}", 25, 0)
    with ThreadPoolExecutor(12) as clients:
        statuses = list(clients.map(lambda _: ask(balancer.port, "GET", "/", key=key).status, range(60)))
    assert (statuses.count(200), statuses.count(429)) == (25, 35)
