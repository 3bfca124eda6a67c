"""Where a key may be, on the running program."""

from __future__ import annotations

import json
from uuid import uuid4

from tests.integration.conftest import Start
from tests.integration.origin import Seen, Servers
from tests.integration.processes import Balancer, ask

JWT = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.c2ln"


def only_seen(servers: Servers) -> Seen:
    """The one request that a server has seen since the last call."""
    [seen] = [one for origin in servers.all for one in origin.seen]
    servers.forget()
    return seen


def test_the_applications_token_goes_on(balancer: Balancer, servers: Servers) -> None:
    """A key in a field of its own opens, and Authorization reaches the server; two keys, in any two fields, are 400."""
    key, other = (balancer.create_user(f"user-{uuid4()}", 100) for _ in range(2))
    for field in ("X-API-Key", "apikey"):
        for authorization in (JWT, "Basic dXNlcjpwYXNz"):
            assert ask(balancer.port, "GET", "/", fields={field: key, "Authorization": authorization}).status == 200
            seen = only_seen(servers)
            assert seen.field("Authorization") == authorization
            assert key not in str(seen)
        profile = ask(balancer.port, "GET", "/user/tokens/profile", fields={field: key, "Authorization": JWT})
        assert json.loads(profile.body)["capacity"] == 100
        for authorization in (other, f"Bearer {other}", f"Bearer {uuid4()}"):
            fields = {field: key, "Authorization": authorization}
            for path in ("/", "/user/tokens/profile"):
                refused = ask(balancer.port, "GET", path, fields=fields)
                assert refused.status == 400 and b"two different API keys" in refused.body
    assert not any(origin.seen for origin in servers.all)
    assert balancer.tokens(key) >= 96


def test_the_operators_choice(new_balancer: Start, servers: Servers) -> None:
    """KEY_FIELDS and KEY_QUERY_PARAMETER say where keys are, to the proxy and to the user API, and no log has one."""
    environment = {"KEY_FIELDS": "x-my-key", "KEY_QUERY_PARAMETER": "access_token"}
    balancer = new_balancer(servers.yaml(), environment=environment).start()
    key = balancer.create_user("ann", 100)
    for path in ("/", "/user/tokens/profile"):
        assert ask(balancer.port, "GET", path, fields={"X-My-Key": key}).status == 200
        assert ask(balancer.port, "GET", f"{path}?access_token={key}").status == 200
        assert ask(balancer.port, "GET", f"{path}?access_token={key}", fields={"X-My-Key": key}).status == 200
        for fields in ({"Authorization": key}, {"X-API-Key": key}, {}):
            refused = ask(balancer.port, "GET", path, fields=fields)
            assert refused.status == 401 and b"X-My-Key: <key>" in refused.body, refused
        refused = ask(balancer.port, "GET", f"{path}?access_token={key}", fields={"X-My-Key": str(uuid4())})
        assert refused.status == 400
    servers.forget()
    fields = {"X-API-Key": "the server's", "Authorization": "Bearer x"}
    assert ask(balancer.port, "GET", f"/e?a=%41&access%5ftoken={key}&b", fields=fields).status == 200
    seen = only_seen(servers)
    assert seen.path == "/e?a=%41&b"
    assert (seen.field("X-API-Key"), seen.field("Authorization")) == ("the server's", "Bearer x")
    assert key not in str(seen)
    assert key not in balancer.log()


def test_what_cannot_carry_a_key(new_balancer: Start, servers: Servers) -> None:
    """The program does not start with a field that means something else, and says what is expected."""
    environment = {"KEY_FIELDS": "authorization cookie", "KEY_QUERY_PARAMETER": "a&b"}
    ended = new_balancer(servers.yaml(), environment=environment).run_to_end()
    assert ended.status == 1
    assert "KEY_FIELDS (environment): 'authorization cookie' is not a list of field names" in ended.output
    assert "KEY_QUERY_PARAMETER (environment): 'a&b' is not the name of a query parameter" in ended.output
