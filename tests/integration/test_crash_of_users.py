"""kill -9 at any moment while users and keys are changed: what was answered is there, and nothing is there by half.

Clients change users of their own over the admin API, one change after another.  A change that was answered holds after
the restart; one that was not was made completely, or not at all.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from hashlib import sha256
from typing import Any

import hiredis
import pytest

from tests.integration.conftest import WITHOUT_REDIS, Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, ask_on, wait_until
from tests.integration.redis_server import RedisServer

TOKEN = {"Authorization": "Bearer s3cret"}
ENVIRONMENT = {"ADMIN_TOKEN": "s3cret", "REDIS_DEADLINE": "20s"}
CLIENTS = 2
# A user as it is compared: capacity, whether it is disabled, and the keys by their key_id; see `shown`.
Shown = dict[str, Any]
Key = dict[str, Any]


def shown(user: Any) -> Shown:
    """What is compared of a user."""
    keys = {key["key_id"]: shown_key(key) for key in user["keys"]}
    return {"capacity": user["capacity"], "disabled": user["disabled"], "keys": keys}


def shown_key(key: Any) -> Key:
    return {"label": key["label"], "state": key["state"], "expires": key["expires_at"] is not None}


def new_key(label: str) -> Key:
    return {"label": label, "state": "active", "expires": False}


class Unanswered(Exception):
    """There is no answer, or one that says that nobody knows."""


class Client(threading.Thread):
    """Changes users until there is no answer.

    `users` has what was answered.  After that, `before` and `after` have what may be of the users of the last change:
    None for no user; keys whose key_id is not known have one that begins with "?".
    """

    def __init__(self, number: int, port: int, seed: int, users: dict[str, Shown], keys: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.users = users
        self.keys = keys  # API keys by their key_id
        self.before: dict[str, Shown | None] = {}
        self.after: dict[str, Shown | None] = {}
        self.answered = 0
        self.failure: BaseException | None = None
        self._number = number
        self._random = random.Random(seed)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._names = iter(f"user{number}-{seed}-{at}" for at in range(1_000_000))

    def run(self) -> None:
        try:
            while True:
                self._change()
                self.before, self.after = {}, {}
                self.answered += 1
        except Unanswered:
            pass
        except BaseException as error:
            self.failure = error
        finally:
            self._connection.close()

    def _call(self, method: str, path: str, body: object = None, statuses: tuple[int, ...] = (200, 201, 204)) -> Any:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        try:
            answer = ask_on(self._connection, method, path, data, fields=TOKEN)
        except OSError:
            raise Unanswered from None
        if answer.status == 503:
            raise Unanswered
        assert answer.status in statuses, answer
        return answer

    def _may_become(self, name: str, after: Shown | None) -> None:
        self.before[name], self.after[name] = deepcopy(self.users.get(name)), after

    def _change(self) -> None:
        """One change."""
        chance = self._random.random()
        if len(self.users) < 3 or chance < 0.15:
            self._create()
        elif chance < 0.25:
            self._import()
        else:
            self._change_user(self._random.choice(sorted(self.users)))

    def _create(self) -> None:
        name, capacity, label = next(self._names), self._random.randrange(1, 100), f"first {self._random.random()}"
        user = {"capacity": capacity, "disabled": False, "keys": {"?": new_key(label)}}
        self._may_become(name, user)
        answer = json.loads(self._call("POST", "/users", {"name": name, "capacity": capacity, "label": label}).body)
        assert list(shown(answer)["keys"].values()) == [new_key(label)]
        self.users[name] = shown(answer)
        self.keys[answer["keys"][0]["key_id"]] = answer["api_key"]

    def _import(self) -> None:
        records = []
        for _ in range(3):
            name = next(self._names)
            digests = [sha256(f"{name} {at}".encode()).hexdigest() for at in range(2)]
            keys = {f"key_{digest[:16]}": new_key("imported") for digest in digests}
            self._may_become(name, {"capacity": 7, "disabled": False, "keys": keys})
            of_user = [{"digest": digest, "label": "imported"} for digest in digests]
            records.append({"name": name, "capacity": 7, "rate_per_sec": 1, "keys": of_user})
        body = "\n".join(map(json.dumps, records)).encode()
        answer = self._call("POST", "/import/users", body)
        results = [json.loads(line) for line in answer.body.splitlines()]
        if [one["result"] for one in results] != ["stored"] * 3:
            # The store went away in the middle.
            assert all("store" in one.get("detail", "store") for one in results), results
            raise Unanswered
        self.users |= {name: user for name, user in self.after.items() if user is not None}

    def _change_user(self, name: str) -> None:
        user = deepcopy(self.users[name])
        path, keys = f"/users/{name}", user["keys"]
        live = [key_id for key_id in keys if keys[key_id]["state"] != "revoked"]
        of_user, of_keys = ["capacity", "order", "delete"], ["key", "label", "rotate", "order key", "revoke"]
        verb = self._random.choice(of_user + 3 * of_keys)
        if verb == "delete":
            self._may_become(name, None)
            self._call("DELETE", path)
            del self.users[name]
            return
        if verb in ("capacity", "order"):
            if verb == "capacity":
                user["capacity"] += 1
                call: tuple[Any, ...] = ("PATCH", path, {"capacity": user["capacity"]})
            else:
                user["disabled"] = not user["disabled"]
                call = ("POST", f"{path}/{'disable' if user['disabled'] else 'enable'}")
            self._may_become(name, user)
            self.users[name] = shown(json.loads(self._call(*call).body))
            assert self.users[name] == user
            return
        if verb == "key" or not live:
            label = f"further {self._random.random()}"
            keys["?"] = new_key(label)
            self._may_become(name, user)
            self._with_new_key(name, self._call("POST", f"{path}/keys", {"label": label}))
            return
        key_id = self._random.choice(live)
        key, path = keys[key_id], f"{path}/keys/{key_id}"
        if verb == "rotate":
            grace = self._random.choice([0, "1h"])
            keys["?"] = new_key(key["label"])
            key.update({"expires": True} if grace else {"state": "revoked"})
            self._may_become(name, user)
            self._with_new_key(name, self._call("POST", f"{path}/rotate", {"grace": grace}))
            return
        if verb == "label":
            key["label"] = f"other {self._random.random()}"
            call = ("PATCH", path, {"label": key["label"]})
        elif verb == "order key":
            key["state"] = "active" if key["state"] == "disabled" else "disabled"
            call = ("POST", f"{path}/{'disable' if key['state'] == 'disabled' else 'enable'}")
        else:
            key["state"] = "revoked"
            call = ("DELETE", path)
        self._may_become(name, user)
        self._call(*call)
        self.users[name] = user

    def _with_new_key(self, name: str, answer: Any) -> None:
        new, user = json.loads(answer.body), self.after[name]
        assert user is not None
        expected = user["keys"].pop("?")
        assert shown_key(new) == expected
        user["keys"][new["key_id"]] = expected
        self.users[name] = user
        self.keys[new["key_id"]] = new["api_key"]

    def adopt(self, found: dict[str, Shown]) -> None:
        """Compare with what is there after a crash, and go on from that."""
        if self.failure is not None:
            raise self.failure
        for name, user in self.users.items():
            if name not in self.before:
                assert found.get(name) == user, name
        for name, before in self.before.items():
            user_found, after = found.get(name), self.after[name]
            if user_found != before:
                assert like(user_found, after), (name, user_found, before, after)
        mine = {name: user for name, user in found.items() if name.startswith(f"user{self._number}-")}
        assert mine.keys() <= self.users.keys() | self.after.keys()
        self.users.clear()
        self.users.update(mine)


def like(found: Shown | None, expected: Shown | None) -> bool:
    """Whether it is that user; the key_id that begins with "?" is any that is not known."""
    if found is None or expected is None:
        return found is expected
    unknown = found["keys"].keys() - expected["keys"].keys()
    expected = deepcopy(expected)
    if "?" in expected["keys"] and len(unknown) == 1:
        expected["keys"][unknown.pop()] = expected["keys"].pop("?")
    return found == expected


class World:
    """Clients of one balancer, and their users, from one crash to the next."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.seed = random.SystemRandom().randrange(1 << 30)
        self._random = random.Random(self.seed)
        self._users: list[dict[str, Shown]] = [{} for _ in range(CLIENTS)]
        self._keys: dict[str, str] = {}
        print("seed", self.seed)

    def crash(self, kill: Callable[[], None], restart: Callable[[], object]) -> None:
        """Kill something while the clients change users; compare after the restart."""
        clients = [
            Client(number, self.balancer.admin_port, self._random.randrange(1 << 30), users, self._keys)
            for number, users in enumerate(self._users)
        ]
        for client in clients:
            client.start()
        least = self._random.randrange(2, 25)
        wait_until(lambda: any(one.answered >= least or not one.is_alive() for one in clients), what="changes")
        # At any moment of a change.
        time.sleep(self._random.random() * 0.004)
        kill()
        for client in clients:
            client.join(90)
            assert not client.is_alive()
        restart()
        found = self.found()
        for client in clients:
            client.adopt(found)
        self._look_closer([name for client in clients for name in client.before], found)

    def found(self) -> dict[str, Shown]:
        """All users."""
        found: dict[str, Shown] = {}
        after: str | None = ""
        while after is not None:
            page = self._asked("GET", f"/users?limit=200&after={after}", 200)
            found |= {user["name"]: shown(user) for user in page["users"]}
            after = page["next"]
        return found

    def _look_closer(self, names: list[str], found: dict[str, Shown]) -> None:
        """Names are taken or free, and keys lead to their users or nowhere."""
        for name in names:
            body = json.dumps({"name": name, "capacity": 3}).encode()
            answer = ask(self.balancer.admin_port, "POST", "/users", body, fields=TOKEN)
            assert answer.status == (409 if name in found else 201), (name, answer)
            if answer.status == 201:
                self._asked("DELETE", f"/users/{name}", 204)
        owners = {key_id: name for name, user in found.items() for key_id in user["keys"]}
        for key_id in self._random.sample(sorted(self._keys), min(4, len(self._keys))):
            owner = owners.get(key_id)
            asked = self._asked("GET", f"/keys/{key_id}", 200 if owner else 404)
            assert not owner or asked["user"] == owner
            state = found[owner]["keys"][key_id]["state"] if owner else "revoked"
            disabled = state == "disabled" or bool(owner and found[owner]["disabled"])
            expected = 401 if state == "revoked" else 403 if disabled else 200
            profile = ask(self.balancer.port, "GET", "/user/tokens/profile", key=self._keys[key_id])
            assert profile.status == expected, (key_id, profile)

    def _asked(self, method: str, path: str, status: int) -> Any:
        answer = ask(self.balancer.admin_port, method, path, fields=TOKEN)
        assert answer.status == status, answer
        return json.loads(answer.body) if answer.body else None

    def serves(self) -> bool:
        """Whether the store is there."""
        return ask(self.balancer.admin_port, "GET", "/users?limit=1", fields=TOKEN).status == 200


def test_embedded(new_balancer: Start, servers: Servers) -> None:
    """After each kill -9 of the balancer, the embedded store loads, and every answered change is there."""
    world = World(new_balancer(servers.yaml(), environment=ENVIRONMENT).start())
    for _ in range(5):
        world.crash(world.balancer.kill, world.balancer.start)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """With the append-only file, whose every write is on the disk before it is answered."""
    server = RedisServer(appendonly=True)
    try:
        server.start()
        yield server
    finally:
        server.close()


@WITHOUT_REDIS
def test_redis(new_balancer: Start, servers: Servers, redis: RedisServer) -> None:
    """After each kill -9 of Redis or of the balancer, every answered change is there, and all keys in Redis are one."""
    world = World(new_balancer(servers.yaml(), "--redis-url", redis.url, environment=ENVIRONMENT).start())

    def restart_redis() -> None:
        redis.start()
        wait_until(world.serves, what="the store")

    for number in range(12):
        if number % 4 == 3:
            world.crash(world.balancer.kill, world.balancer.start)
        else:
            world.crash(redis.kill, restart_redis)
        check_keys_in_redis(redis.port)


def check_keys_in_redis(port: int) -> None:
    """Every key has its user, every user the name and the keys, and the indexes have these and no others."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        reader = hiredis.Reader()

        def call(*words: bytes) -> Any:
            connection.sendall(hiredis.pack_command(words))
            while (reply := reader.gets()) is False:
                reader.feed(connection.recv(65536))
            assert not isinstance(reply, Exception), (words, reply)
            return reply

        def of(prefix: bytes) -> dict[bytes, bytes]:
            return {key[len(prefix) + 1 : -1]: key for key in call(b"KEYS", prefix + b"{*}")}

        users, further = {}, {}
        for digest, place in of(b"tokenlb:").items():
            name, owner, *policy = call(b"HMGET", place, b"name", b"owner", b"capacity", b"rate", b"level", b"stamp")
            assert (name is None) != (owner is None), (digest, name, owner)
            if owner is None:
                assert None not in policy, digest
                users[digest] = name
            else:
                further[digest] = owner
        names = [member.partition(b"\0")[::2] for member in call(b"ZRANGE", b"tokenlb:names", b"0", b"-1")]
        assert sorted(names) == sorted((name, digest) for digest, name in users.items())
        assert len({name for name, _ in names}) == len(names)
        assert set(call(b"ZRANGE", b"tokenlb:first_keys", b"0", b"-1")) == users.keys()
        assert set(call(b"ZRANGE", b"tokenlb:further_keys", b"0", b"-1")) == further.keys()
        members = {
            (member, owner) for owner, place in of(b"tokenlb:keys_of:").items() for member in call(b"SMEMBERS", place)
        }
        assert members == set(further.items())
        assert set(further.values()) <= users.keys()
        for prefix in (b"tokenlb:key_bucket:", b"tokenlb:in_flight:"):
            assert of(prefix).keys() <= users.keys() | further.keys()
