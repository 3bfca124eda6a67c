"""The user API of the running program, by curl and on the connection of proxied traffic, with each kind of store."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.integration import curl as curl_module
from tests.integration.conftest import STORES, Start
from tests.integration.curl import Curled, curl
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, ask_on

pytestmark = pytest.mark.skipif(bool(curl_module.MISSING), reason=curl_module.MISSING)

JSON = ("--header", "Content-Type: application/json")


@pytest.fixture(params=STORES)
def fresh_options(request: Any) -> tuple[str, ...]:
    """Options of the balancer for each kind of store, which nobody has used before."""
    if request.param == "embedded":
        return ()
    redis = request.getfixturevalue("redis")
    redis.start()
    return ("--redis-url", redis.url)


def create(balancer: Balancer, body: str) -> Curled:
    """POST /user/create."""
    return curl(f"{balancer.url}/user/create", *JSON, "--data-binary", body)


def profile(balancer: Balancer, *key: str) -> Curled:
    """GET /user/tokens/profile."""
    return curl(f"{balancer.url}/user/tokens/profile", *key)


def change(balancer: Balancer, key: str, body: str) -> Curled:
    """POST /user/tokens/change."""
    return curl(f"{balancer.url}/user/tokens/change", "-H", f"Authorization: {key}", *JSON, "--data-binary", body)


def assert_problem(answer: Curled, status: int) -> str:
    """The detail of a problem, which is what RFC 9457 says it is."""
    assert answer.status == status, answer
    assert answer.fields["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status and problem["title"] and problem["detail"]
    return str(problem["detail"])


def test_a_new_user_gets_the_default_bucket_and_a_uuid4_as_key(balancer: Balancer) -> None:
    """Creation answers name, capacity 5, rate 1 and a version 4 UUID, in this order and as JSON."""
    name = f"user-{uuid4()}"
    answer = create(balancer, json.dumps({"name": name}))
    assert (answer.status, answer.fields["Content-Type"]) == (200, "application/json")
    text = answer.body.decode().strip()
    expected = f'{{"name":"{name}","capacity":5,"rate_per_sec":1,"api_key":"(.*)"}}'
    match = re.fullmatch(expected, text)
    assert match, text
    assert UUID(match[1]).version == 4 and str(UUID(match[1])) == match[1]


def test_a_user_may_ask_for_a_bucket(balancer: Balancer) -> None:
    """Capacity and rate of a new user are those that were asked for, and the bucket is full."""
    wanted = {"name": f"user-{uuid4()}", "capacity": 7, "rate_per_sec": 0.5}
    created = create(balancer, json.dumps(wanted)).json()
    key = created.pop("api_key")
    assert created == wanted
    assert profile(balancer, "-H", f"Authorization: {key}").json() == {**wanted, "current_capacity": 7}


@pytest.mark.parametrize("field", ["Authorization: {}", "Authorization: Bearer {}", "X-API-Key: {}", "apikey: {}"])
def test_the_key_is_taken_from_each_of_its_fields(balancer: Balancer, field: str) -> None:
    """A key is as good in Authorization, bare or as Bearer, as in X-API-Key and apikey."""
    key = balancer.create_user(f"user-{uuid4()}")
    assert profile(balancer, "-H", field.format(key)).json()["current_capacity"] == 5
    assert curl(f"{balancer.url}/", "-H", field.format(key)).status == 200


def test_a_look_at_the_tokens_spends_none(balancer: Balancer) -> None:
    """The profile shows a request's token as spent, and its own reading as free."""
    key = balancer.create_user(f"user-{uuid4()}", 5, 0)
    assert [balancer.tokens(key) for _ in range(3)] == [5, 5, 5]
    assert curl(f"{balancer.url}/", "-H", f"Authorization: {key}").status == 200
    assert [balancer.tokens(key) for _ in range(3)] == [4, 4, 4]


def test_a_change_keeps_the_level_and_cuts_it_to_a_smaller_capacity(balancer: Balancer) -> None:
    """A larger capacity leaves the level as it was; a smaller one cuts it; what is not given stays."""
    name = f"user-{uuid4()}"
    key = balancer.create_user(name, 5, 0)
    larger = change(balancer, key, '{"capacity": 10}')
    assert larger.json() == {"name": name, "capacity": 10, "rate_per_sec": 0, "current_capacity": 5}
    smaller = change(balancer, key, '{"capacity": 2, "rate_per_sec": 0.001}')
    assert smaller.json() == {"name": name, "capacity": 2, "rate_per_sec": 0.001, "current_capacity": 2}
    rate = change(balancer, key, '{"rate_per_sec": 0}')
    assert rate.json() == {"name": name, "capacity": 2, "rate_per_sec": 0, "current_capacity": 2}


def test_a_name_is_given_once(balancer: Balancer) -> None:
    """A second user of the same name is 409, and the first one's key still works."""
    name = f"user-{uuid4()}"
    key = balancer.create_user(name)
    assert name in assert_problem(create(balancer, json.dumps({"name": name, "capacity": 9})), 409)
    assert profile(balancer, "-H", f"Authorization: {key}").json()["capacity"] == 5


def test_without_a_known_key_there_is_nothing(balancer: Balancer, servers: Servers) -> None:
    """No key and an unknown key are 401 with a challenge, in the API and on the way to a server, which sees nothing."""
    for target in ("/user/tokens/profile", "/", "/some/path"):
        for key in ([], ["-H", f"Authorization: {uuid4()}"], ["-H", "Authorization: nonsense"]):
            answer = curl(balancer.url + target, *key)
            assert_problem(answer, 401)
            assert answer.fields["WWW-Authenticate"].startswith("Bearer")
    assert not any(origin.seen for origin in servers.all)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"name": 5}',
        '{"name": ""}',
        '{"name": "u", "capacity": 0}',
        '{"name": "u", "capacity": "5"}',
        '{"name": "u", "capacity": 1.5}',
        '{"name": "u", "capacity": 1e300}',
        '{"name": "u", "rate_per_sec": -1}',
        '{"name": "u", "rate_per_sec": NaN}',
        '{"name": "u", "rate_per_sec": 1e999}',
        '{"name": "u", "colour": "red"}',
        '{"name": "%s"}' % ("u" * 1000),
    ],
)
def test_a_bad_body_is_400_and_stores_nothing(balancer: Balancer, body: str) -> None:
    """What is wrong with a new user is told, and the name stays free."""
    assert_problem(create(balancer, body), 400)


def test_names_of_bad_requests_stay_free(balancer: Balancer) -> None:
    """A name that came with a bad capacity can be taken afterwards."""
    name = f"user-{uuid4()}"
    assert_problem(create(balancer, json.dumps({"name": name, "capacity": -3})), 400)
    assert create(balancer, json.dumps({"name": name})).status == 200


def test_a_bad_change_changes_nothing(balancer: Balancer) -> None:
    """A change with one bad member is 400, and its good member is not applied."""
    key = balancer.create_user(f"user-{uuid4()}", 5, 0)
    before = profile(balancer, "-H", f"Authorization: {key}").json()
    for body in ('{"capacity": 10, "rate_per_sec": -1}', "{}", '{"capacity": null}', "nonsense"):
        assert_problem(change(balancer, key, body), 400)
    assert profile(balancer, "-H", f"Authorization: {key}").json() == before


def test_each_path_has_its_methods_types_and_sizes(balancer: Balancer) -> None:
    """A wrong method is 405 with Allow, a wrong type 415, a body too large 413."""
    wrong_method = curl(f"{balancer.url}/user/create")
    assert_problem(wrong_method, 405)
    assert wrong_method.fields["Allow"] == "POST"
    assert_problem(curl(f"{balancer.url}/user/create", "--data", '{"name": "u"}'), 415)
    assert_problem(curl(f"{balancer.url}/user/create", *JSON, "--data-binary", "@-", sent=b" " * 100_000), 413)


def test_a_connection_carries_api_and_proxied_requests_in_any_order(balancer: Balancer, servers: Servers) -> None:
    """One keep-alive connection takes a creation, proxied requests, profiles, a problem and a change in turn."""
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
    try:
        body = json.dumps({"name": f"user-{uuid4()}", "capacity": 10, "rate_per_sec": 0}).encode()
        key = json.loads(ask_on(connection, "POST", "/user/create", body).body)["api_key"]
        one_socket = connection.sock
        for spent in range(1, 5):
            assert b"answer" in ask_on(connection, "GET", f"/{spent}", key=key).body
            assert b'"bytes": 4' in ask_on(connection, "POST", f"/{spent}", b"body", key=key).body
            assert ask_on(connection, "GET", "/user/tokens/profile").status == 401
            profiled = json.loads(ask_on(connection, "GET", "/user/tokens/profile", key=key).body)
            assert profiled["current_capacity"] == 10 - 2 * spent
        changed = ask_on(connection, "POST", "/user/tokens/change", b'{"capacity": 1}', key)
        assert json.loads(changed.body)["current_capacity"] == 1
        assert ask_on(connection, "GET", "/last", key=key).status == 200
        assert ask_on(connection, "GET", "/none", key=key).status == 429
        assert connection.sock is one_socket
    finally:
        connection.close()
    assert sum(len(origin.seen) for origin in servers.all) == 9


def test_the_key_stays_here_and_the_servers_get_the_name(balancer: Balancer, servers: Servers) -> None:
    """A server sees X-Consumer-Username and nothing of the key, nor a client's own field of that name."""
    name = f"user-{uuid4()}"
    key = balancer.create_user(name)
    for field in ("Authorization: {}", "Authorization: Bearer {}", "X-API-Key: {}", "apikey: {}"):
        assert curl(f"{balancer.url}/a", "-H", field.format(key), "-H", "X-Consumer-Username: root").status == 200
    seen = [one for origin in servers.all for one in origin.seen]
    assert len(seen) == 4
    for one in seen:
        assert [value for field, value in one.fields if field.lower() == "x-consumer-username"] == [name]
        assert key not in repr(one.fields)
        assert one.field("Host") == f"127.0.0.1:{balancer.port}"
        assert one.field("X-Forwarded-For") == "127.0.0.1" and one.field("Via")
    assert key not in balancer.log()


def test_an_address_makes_and_guesses_no_more_than_its_bucket_holds(
    new_balancer: Start, servers: Servers, fresh_options: tuple[str, ...]
) -> None:
    """New users and unknown keys share the bucket of the address; when it is empty, keys seen before still work."""
    environment = {"ADDRESS_CAPACITY": "8", "ADDRESS_RATE_PER_SEC": "0.001"}
    balancer = new_balancer(servers.yaml(), *fresh_options, environment=environment).start()
    seen, unseen = (balancer.create_user(f"user-{uuid4()}", 100, 0) for _ in range(2))
    assert ask(balancer.port, "GET", "/", key=seen).status == 200
    statuses = []
    for number in range(10):
        path = ("/", "/user/tokens/profile")[number % 2]
        statuses.append(ask(balancer.port, "GET", path, key=str(uuid4())).status)
    spent = statuses.count(401)
    assert statuses == [401] * spent + [429] * (10 - spent) and 1 <= spent <= 6
    refused = create(balancer, json.dumps({"name": f"user-{uuid4()}"}))
    assert "your network" in assert_problem(refused, 429)
    assert refused.json()["violated-policies"] == ["address"]
    assert refused.fields["RateLimit-Policy"] == '"address";q=8;w=8000'
    assert int(refused.fields["Retry-After"]) > 900
    for path in ("/", "/user/tokens/profile"):
        assert ask(balancer.port, "GET", path, key=unseen).status == 429
        assert ask(balancer.port, "GET", path, key=seen).status == 200
    assert ask(balancer.port, "GET", "/user/tokens/profile").status == 429


def test_valid_keys_do_not_use_up_the_address(
    new_balancer: Start, servers: Servers, fresh_options: tuple[str, ...]
) -> None:
    """Any number of users may come from one address, also for the first time, when their keys are valid."""
    environment = {"ADDRESS_CAPACITY": "8", "ADDRESS_RATE_PER_SEC": "0.001"}
    balancer = new_balancer(servers.yaml(), *fresh_options, environment=environment).start()
    keys = [balancer.create_user(f"user-{uuid4()}", 100, 0) for _ in range(4)]
    balancer.terminate()
    balancer.wait()
    # Nothing is familiar to it after a restart.
    balancer.start()
    for _ in range(2):
        for key in keys:
            assert balancer.tokens(key) == 100
