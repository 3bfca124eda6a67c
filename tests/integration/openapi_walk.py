"""Requests to every operation of the APIs, and their real answers: for tests, and for the examples of the description.

`python -m tests.integration.openapi_walk` records the examples anew; `python tools/write_openapi.py` is to follow.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tests.integration.origin import Origin, Servers
from tests.integration.processes import Answer, Balancer, ask
from tests.integration.test_reload import yaml_of
from twisted_lb.api.openapi import EXAMPLES, document, operations
from twisted_lb.api.openapi_parts import JSON
from twisted_lb.wire.problem import CONTENT_TYPE as PROBLEM_TYPE

TOKEN = "s3cret"
# After the servers of the pool.
LIMITS = """\
    limits: [{name: site, per: network, capacity: 1000, rate_per_sec: 100, shadow: true}]
routes:
  - {path: /v1/, pool: default, limits: [{name: burst, per: key, capacity: 20, rate_per_sec: 5, shadow: true}]}
  - {path: /, pool: default}
global_limits:
  - {name: everything, per: all, capacity: 5000, rate_per_sec: 500, shadow: true}
"""


class Step(NamedTuple):
    """A request, and its answer."""

    method: str
    path: str
    body: object
    operation: Mapping[str, Any]
    answer: Answer

    @property
    def response(self) -> Mapping[str, Any]:
        """What the document has for this status."""
        responses: Mapping[str, Any] = self.operation["responses"]
        found: Mapping[str, Any] = responses.get(str(self.answer.status), responses["default"])
        return found

    @property
    def media_type(self) -> str:
        """That of the answer, or an empty text."""
        return self.answer.fields.get("Content-Type", "")

    def json(self) -> Any:
        """The answer."""
        return json.loads(self.answer.body)


class Walk:
    """Sends requests; `steps` are those that were answered so far."""

    def __init__(self, balancer: Balancer, document: Mapping[str, Any]) -> None:
        self._balancer = balancer
        self._operations = {
            (method, path, re.compile(re.sub(r"\{[a-z_]+\}", "[^/]+", path))): operation
            for (method, path), operation in operations(document["paths"]).items()
        }
        self.steps: list[Step] = []

    def operation(self, method: str, path: str) -> Mapping[str, Any]:
        """The operation that the document has for a request; the longest path without parameters has precedence."""
        path = path.partition("?")[0]
        found = [
            (template.count("{"), template)
            for one, template, pattern in self._operations
            if one == method and pattern.fullmatch(path)
        ]
        _, template = min(found)
        return next(one for (name, other, _), one in self._operations.items() if (name, other) == (method, template))

    def send(self, method: str, path: str, body: object = None, key: str = "", **fields: str) -> Any:
        """The JSON of the answer, or None where it has none."""
        data = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
        public = path.startswith("/user/")
        sent = {} if public else {"Authorization": f"Bearer {TOKEN}"}
        port = self._balancer.port if public else self._balancer.admin_port
        answer = ask(port, method, path, data, key or None, {**sent, **fields})
        step = Step(method, path, body, self.operation(method, path), answer)
        self.steps.append(step)
        return step.json() if answer.body and step.media_type in (JSON, PROBLEM_TYPE) else None

    def everything(self) -> None:
        """Each operation at least once with success, and refusals of each kind that can be had."""
        self._own_user()
        self._users()
        self._pools()
        for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
            self.send("GET", path)

    def _own_user(self) -> None:
        send = self.send
        key = send("POST", "/user/create", {"name": "ann"})["api_key"]
        send("POST", "/user/create", {"name": "ann"})
        send("POST", "/user/create", {"name": "bob", "capacity": 0})
        send("POST", "/user/create", {"name": "b" * 70_000})
        send("POST", "/user/create", {"name": "bob"}, **{"Content-Type": "text/plain"})
        send("GET", "/user/tokens/profile", key=key)
        send("GET", "/user/tokens/profile")
        send("POST", "/user/tokens/change", {"capacity": 10, "rate_per_sec": 2}, key)
        new = send("POST", "/user/keys", {"label": "web shop", "expires_at": "2099-01-01T00:00:00Z"}, key)
        one = f"/user/keys/{new['key_id']}"
        send("PATCH", one, {"label": "shop"}, key)
        send("PATCH", "/user/keys/key_0000000000000000", {"label": "shop"}, key)
        send("POST", f"{one}/rotate", {"grace": "1h"}, key)
        send("POST", "/user/keys", {"capacity": 3, "rate_per_sec": 0.5}, key)
        ask(self._balancer.port, "GET", "/", None, new["api_key"])
        send("GET", f"{one}/usage", key=key)
        send("GET", "/user/keys/key_0000000000000000/usage", key=key)
        send("DELETE", one, key=key)
        send("POST", f"{one}/rotate", {"grace": 0}, key)
        send("GET", "/user/keys", key=key)

    def _users(self) -> None:
        send = self.send
        body = {"name": "carl", "metadata": {"plan": "gold"}, "label": "laptop"}
        created = send("POST", "/users", body)
        send("POST", "/users", body)
        send("POST", "/users", {"name": "dora", "expires_at": None})
        send("GET", "/users?limit=2")
        send("GET", "/users?limit=0")
        send("GET", "/users/carl")
        send("GET", "/users/nobody")
        send("PATCH", "/users/carl", {"capacity": 20, "rate_per_sec": 0.5})
        send("PATCH", "/users/carl", {"shadow": {"capacity": 1, "rate_per_sec": 0.5}})
        for _ in range(2):
            ask(self._balancer.port, "GET", "/", None, created["api_key"])
        send("GET", "/user/tokens/profile", key=created["api_key"])
        send("GET", "/users/carl/shadow")
        send("GET", "/users/nobody/shadow")
        send("POST", "/users/carl/shadow/promote")
        send("POST", "/users/carl/shadow/promote")
        send("PATCH", "/users/carl", {"capacity": 20, "rate_per_sec": 0.5})
        for order in ("disable", "enable"):
            send("POST", f"/users/carl/{order}")
            if order == "disable":
                send("GET", "/user/tokens/profile", key=created["api_key"])
        send("PUT", "/users/carl/level")
        send("PUT", "/users/carl/level", {"current_capacity": 3})
        send("PUT", "/users/carl/quota")
        send("PATCH", "/users/carl", {"quota": {"requests": 1000, "per": "day", "time_zone": "Europe/Berlin"}})
        send("PUT", "/users/carl/quota", {"used": 10})
        more = {"label": "ci", "capacity": 2, "rate_per_sec": 0}
        new = send("POST", "/users/carl/keys", more, **{"Idempotency-Key": "one"})
        send("GET", "/users/carl/keys")
        one = f"/users/carl/keys/{new['key_id']}"
        send("GET", one)
        send("GET", f"/keys/{new['key_id']}")
        send("GET", "/keys/key_0000000000000000")
        for _ in range(3):
            ask(self._balancer.port, "GET", "/", None, new["api_key"])
        send("GET", "/users/carl/usage")
        send("GET", f"{one}/usage")
        send("GET", f"/keys/{new['key_id']}/usage")
        send("GET", "/keys/key_0000000000000000/usage")
        send("PATCH", one, {"expires_at": "2099-01-01T00:00:00Z"})
        send("PATCH", one, {"capacity": None, "rate_per_sec": None})
        send("POST", f"{one}/rotate", {"grace": "1h"})
        for order in ("disable", "enable", "expire", "revoke"):
            send("POST", f"{one}/{order}")
        send("POST", f"{one}/enable")
        send("DELETE", one)
        send("GET", "/export/users")
        exported = self.steps[-1]
        send("POST", "/import/users", exported.answer.body.decode() + '{"name":1}\n')
        send("DELETE", "/users/carl")
        send("DELETE", "/users/carl")
        send("GET", "/users", Authorization="Bearer wrong")
        send("POST", "/users", {"name": "eve"}, Authorization="Bearer wrong")

    def _pools(self) -> None:
        send = self.send
        send("GET", "/servers")
        send("GET", "/pools/default")
        send("GET", "/pools/nothing")
        send("GET", "/pools/default/servers")
        send("GET", "/pools/default/servers/server1")
        send("POST", "/pools/default/servers", {"name": "server9", "url": "http://127.0.0.1:9", "weight": 2})
        send("POST", "/pools/default/servers", {"name": "server9", "url": "http://127.0.0.1:9"})
        send("PATCH", "/pools/default/servers/server9", {"weight": 5, "slowstart": "10s"})
        send("PATCH", "/pools/default/servers/server9", {"slowstart": None, "health_check": False})
        for order in ("drain", "undrain", "disable", "enable"):
            send("POST", f"/pools/default/servers/server9/{order}")
        send("GET", "/pools")
        send("GET", "/routes")
        send("GET", "/limits")
        send("POST", "/limits/everything/promote")
        send("POST", "/limits/everything/promote")
        send("POST", "/limits/nothing/promote")
        send("POST", "/pools/default/limits/site/promote")
        send("POST", "/routes/%2Fv1%2F/limits/burst/promote")
        send("GET", "/explain?path=/v1/&method=POST&client=192.0.2.7&header=Accept:text/plain")
        send("GET", "/explain?paht=/")
        send("DELETE", "/pools/default/servers/server9")
        send("PUT", "/pools/default/maintenance", {"retry_after": "10m"})
        send("GET", "/pools")
        send("DELETE", "/pools/default/maintenance")


def examples_of(steps: list[Step]) -> dict[str, Any]:
    """The first JSON answer of each status by the ids of operations; problems by their status."""
    found: dict[str, Any] = {"problems": {}}
    for step in steps:
        status = str(step.answer.status)
        if step.media_type == PROBLEM_TYPE:
            found["problems"].setdefault(status, step.json())
        elif step.media_type == JSON and step.path != "/openapi.json":
            found.setdefault(step.operation["operationId"], {}).setdefault(status, step.json())
    return found


def with_limits(origins: Iterable[Origin]) -> str:
    """A servers.yaml with these in the pool `default`, and with LIMITS."""
    return f"pools:\n  default:\n{textwrap.indent(yaml_of(origins), '    ')}{LIMITS}"


def started(servers: Servers) -> Balancer:
    """A balancer for a walk."""
    return Balancer(with_limits(servers.all[:2]), environment={"ADMIN_TOKEN": TOKEN}).start()


def record() -> None:
    """Write the examples."""
    servers = Servers(2).start()
    balancer = started(servers)
    try:
        walk = Walk(balancer, document())
        walk.everything()
    finally:
        balancer.close()
        servers.stop()
    EXAMPLES.write_text(json.dumps(examples_of(walk.steps), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
