"""Users and keys over the admin listener, with real processes and stores."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.integration.conftest import WITHOUT_REDIS, Start
from tests.integration.origin import Servers
from tests.integration.processes import Answer, Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer
from twisted_lb.credentials import digest

TOKEN = {"ADMIN_TOKEN": "s3cret"}
FIELDS = {"Authorization": "Bearer s3cret"}


def call(balancer: Balancer, method: str, path: str, body: object = None, **fields: str) -> Answer:
    """An operator's request."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    return ask(balancer.admin_port, method, path, data, fields={**FIELDS, **fields})


def called(balancer: Balancer, method: str, path: str, body: object = None, **fields: str) -> Any:
    """The JSON of an answer that must be a success."""
    answer = call(balancer, method, path, body, **fields)
    assert answer.status in (200, 201, 204), (method, path, answer)
    return json.loads(answer.body) if answer.body else None


def lines(answer: Answer) -> list[dict[str, Any]]:
    """Those of JSON Lines."""
    assert answer.status == 200, answer
    return [json.loads(line) for line in answer.body.splitlines()]


def status(balancer: Balancer, key: str) -> int:
    """What becomes of a request with this key."""
    return ask(balancer.port, "GET", "/", key=key).status


def test_life_of_a_key(servers: Servers, processes: tuple[str, ...], new_balancer: Start, tmp_path: Path) -> None:
    """A change holds for the next request, in every worker; each is a line in the audit log without a secret."""
    log = tmp_path / "audit.log"
    balancer = new_balancer(servers.yaml(), *processes, environment={**TOKEN, "AUDIT_LOG": str(log)}).start()
    first = called(balancer, "POST", "/users", {"name": "a/é", "capacity": 1000})
    path, key = "/users/a%2F%C3%A9", first["api_key"]
    one = f"{path}/keys/{first['keys'][0]['key_id']}"

    def statuses(key: str) -> set[int]:
        return {status(balancer, key) for _ in range(6)}

    assert statuses(key) == {200}
    for order, expected in (("disable", 403), ("enable", 200)):
        called(balancer, "POST", f"{path}/{order}")
        assert statuses(key) == {expected}
        called(balancer, "POST", f"{one}/{order}")
        assert statuses(key) == {expected}
        called(balancer, "POST", f"{one}/enable")
    second = called(balancer, "POST", f"{path}/keys", {"label": "ci", "capacity": 2, "rate_per_sec": 0})
    assert [status(balancer, second["api_key"]) for _ in range(3)] == [200, 200, 429]
    explained = called(balancer, "GET", f"/explain?key_id={second['key_id']}")
    levels = [(limit["name"], limit["capacity"], round(limit["level"])) for limit in explained["limits"][:2]]
    assert levels[1] == ("api-key", 2, 0) and levels[0][:2] == ("default", 1000)
    assert explained["servers"]
    third = called(balancer, "POST", f"{one}/rotate", {"grace": "1h"}, **{"Idempotency-Key": "x"})
    assert called(balancer, "POST", f"{one}/rotate", {"grace": "1h"}, **{"Idempotency-Key": "x"}) == third
    assert (statuses(key), statuses(third["api_key"])) == ({200}, {200})
    called(balancer, "POST", f"{one}/expire")
    assert (statuses(key), statuses(third["api_key"])) == ({403}, {200})
    refused = called(balancer, "GET", f"/explain?key_digest={digest(key.encode())}")
    assert (refused["status"], refused["reason"]) == (403, "key_refused: key_expired")
    called(balancer, "DELETE", one)
    assert statuses(key) == {401}
    assert called(balancer, "PUT", f"{path}/level", {"current_capacity": 0})["current_capacity"] == 0
    called(balancer, "DELETE", path)
    assert statuses(third["api_key"]) == {401}
    assert call(balancer, "GET", path).status == 404
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert {entry["user"] for entry in entries} == {"a/é"}
    assert [entry["action"] for entry in entries[-4:]] == ["expire_key", "revoke_key", "set_level", "delete_user"]
    for secret in (key, second["api_key"], third["api_key"]):
        assert secret not in log.read_text() + balancer.log() and digest(secret.encode()) not in log.read_text()


def test_tokens_with_scopes(servers: Servers, new_balancer: Start) -> None:
    """Tokens in a file have their scopes, and others are in use soon after it has changed."""
    balancer = new_balancer(servers.yaml(), environment={"ADMIN_TOKENS_FILE": "tokens.yaml"})
    file = balancer.directory / "tokens.yaml"

    def write(scopes: str) -> None:
        file.write_text(f"tokens: [{{name: ops, sha256: '{digest(b's3cret')}', scopes: {scopes}}}]")

    write("[read]")
    balancer.start()
    assert call(balancer, "GET", "/users").status == 200
    refused = call(balancer, "POST", "/users", {"name": "ann"})
    assert (refused.status, "the scope keys" in json.loads(refused.body)["detail"]) == (403, True)
    assert ask(balancer.admin_port, "GET", "/users").status == 401
    write("[keys]")
    wait_until(lambda: call(balancer, "POST", "/users", {"name": "ann"}).status == 201, what="other scopes")
    assert call(balancer, "GET", "/users").status == 403


def everybody(balancer: Balancer) -> list[dict[str, Any]]:
    """All users, as they are exported."""
    return lines(call(balancer, "GET", "/export/users"))


@WITHOUT_REDIS
def test_from_one_store_to_the_other_and_back(servers: Servers, redis: RedisServer, new_balancer: Start) -> None:
    """An export of the embedded store is, through Redis and workers, the same in another embedded store."""
    redis.start()
    embedded = new_balancer(servers.yaml(), environment=TOKEN).start()
    shared = new_balancer(servers.yaml(), "--redis-url", redis.url, "--workers", "2", environment=TOKEN).start()
    back = new_balancer(servers.yaml(), environment=TOKEN).start()
    for number in range(120):
        called(embedded, "POST", "/users", {"name": f"user {number:03}", "capacity": 5, "rate_per_sec": 0})
    path = "/users/user%20001"
    key_id = called(embedded, "GET", path)["keys"][0]["key_id"]
    called(embedded, "PATCH", path, {"rate_per_sec": 0.1, "metadata": {"plan": {"é": [1, None]}}})
    called(embedded, "POST", f"{path}/keys", {"label": "é", "expires_at": "2030-01-01T00:00:00.000001Z"})
    limited = called(embedded, "POST", f"{path}/keys", {"capacity": 3, "rate_per_sec": 0})
    assert status(embedded, limited["api_key"]) == 200
    called(embedded, "POST", f"{path}/keys/{key_id}/revoke")
    called(embedded, "POST", "/users/user%20002/disable")
    called(embedded, "PUT", "/users/user%20003/level", {"current_capacity": -7})
    called(embedded, "PATCH", path, {"rate_per_sec": 0})
    exported = everybody(embedded)
    assert len(exported) == 120 and [len(user["keys"]) for user in exported[:3]] == [1, 3, 1]
    for store in (shared, back):
        body = b"".join(json.dumps(user).encode() + b"\n" for user in exported)
        assert {one["result"] for one in lines(call(store, "POST", "/import/users", body))} == {"stored"}
        assert {one["result"] for one in lines(call(store, "POST", "/import/users", body))} == {"unchanged"}
        exported = everybody(store)
    for user, imported in zip(everybody(embedded), exported, strict=True):
        assert imported == user
    # The key has one of its three tokens less, on every side.
    assert [status(back, limited["api_key"]) for _ in range(3)] == [200, 200, 429]
    assert called(shared, "GET", f"/keys/{limited['key_id']}")["user"] == "user 001"


def test_export_under_load(servers: Servers, store_options: tuple[str, ...], new_balancer: Start) -> None:
    """An export and an import of many users do not hold up requests, and an import twice at once stores all once."""
    balancer = new_balancer(servers.yaml(), *store_options, environment=TOKEN).start()
    key = called(balancer, "POST", "/users", {"name": "~", "capacity": 1_000_000})["api_key"]
    users = [
        {"name": f"many {number}", "capacity": 1, "rate_per_sec": 0, "keys": [{"digest": digest(b"%d" % number)}]}
        for number in range(1500)
    ]
    body = b"".join(json.dumps(user).encode() + b"\n" for user in users)
    with ThreadPoolExecutor(4) as clients:
        imports = [clients.submit(call, balancer, "POST", "/import/users", body) for _ in range(2)]
        while not all(one.done() for one in imports):
            assert status(balancer, key) == 200
        answers = [one["result"] for one in imports for one in lines(one.result())]
        assert sorted(answers) == ["stored"] * 1500 + ["unchanged"] * 1500
        export = clients.submit(everybody, balancer)
        while not export.done():
            assert status(balancer, key) == 200
    assert [user["name"] for user in export.result()] == sorted([*(user["name"] for user in users), "~"])
