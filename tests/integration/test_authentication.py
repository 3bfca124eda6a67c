"""AUTHENTICATOR: the class of docs/authentication.md in running balancers."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import ask
from tests.integration.redis_server import RedisServer

PAGE = Path(__file__).parents[2].joinpath("docs", "authentication.md").read_text(encoding="utf-8")
CLASS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
SETTING = {"AUTHENTICATOR": "basic_user:BasicUser"}


def test_workers(new_balancer: Start, servers: Servers, redis: RedisServer) -> None:
    """Each worker has the class; servers see the user and no credentials, and the log has neither."""
    redis.start()
    options = "--workers", "2", "--redis-url", redis.url
    balancer = new_balancer(servers.yaml(), *options, environment=SETTING)
    (balancer.directory / "basic_user.py").write_text(CLASS)
    balancer.start()
    key = balancer.create_user("ann", 100)
    basic = "Basic " + b64encode(f"{key}:".encode()).decode()
    for _ in range(6):
        assert ask(balancer.port, "GET", "/", fields={"Authorization": basic}).status == 200
    for origin in servers.all:
        for seen in origin.seen:
            assert (seen.field("X-Consumer-Username"), seen.field("Authorization")) == ("ann", None)
    for authorization, detail in (
        (f"Bearer {key}", b"The request has no credentials."),
        ("Basic !", b"The Basic credentials are not valid base64."),
        ("Basic " + b64encode(b"someone:").decode(), b"No user has this API key."),
    ):
        refused = ask(balancer.port, "GET", "/", fields={"Authorization": authorization})
        assert refused.status == 401 and detail in refused.body, refused
    assert key not in balancer.log() and basic not in balancer.log()


def test_missing(new_balancer: Start, servers: Servers) -> None:
    """The program does not start without the class, and says why."""
    ended = new_balancer(servers.yaml(), environment=SETTING).run_to_end()
    assert ended.status == 1
    assert "AUTHENTICATOR (environment): basic_user:BasicUser: there is no module basic_user" in ended.output
