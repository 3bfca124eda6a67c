"""The user that a server sees: servers that convert fields to variables, behind the running program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from uuid import uuid4

import pytest

from tests.integration.apps.variables import VariablesServer
from tests.integration.conftest import STORES, Start
from tests.integration.processes import PROJECT, Balancer, ask, wait_until
from tests.integration.raw_client import exchange
from tests.integration.redis_server import free_port

NAME = b"X-Consumer-Username"
SPECIALS = b"!#$%&'*+.^_`|~"
CONSUMER = "HTTP_X_CONSUMER_USERNAME"


@pytest.fixture(scope="module")
def wsgiref() -> Iterator[int]:
    """The port of a server that takes every character for `_`, reads Latin-1 and strips."""
    server = VariablesServer().start()
    yield server.port
    server.stop()


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a gunicorn that lets through what it can."""
    if not find_spec("gunicorn"):
        pytest.skip("no gunicorn; `pip install gunicorn` enables this")
    port = free_port()
    options = ["--bind", f"127.0.0.1:{port}", "--log-level", "error", "--header-map", "dangerous"]
    command = [sys.executable, "-m", "gunicorn", *options, "tests.integration.apps.variables:application"]
    directory: Path = tmp_path_factory.mktemp("gunicorn")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, cwd=directory, env=environment)
    try:
        wait_until(lambda: _answers(port), what="gunicorn answers")
        yield port
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def balancer(wsgiref: int) -> Iterator[Balancer]:
    """A balancer before the server that confuses most."""
    balancer = Balancer(_yaml(wsgiref))
    try:
        yield balancer.start()
        assert "Traceback" not in balancer.log(), balancer.log()
    finally:
        balancer.close()


@pytest.fixture(scope="module")
def key(balancer: Balancer) -> bytes:
    """A user's key."""
    return _user(balancer, "user1")


def _yaml(port: int) -> str:
    return f"servers: [{{name: a, url: 'http://127.0.0.1:{port}'}}]\n"


def _answers(port: int) -> bool:
    try:
        return ask(port, "GET", "/").status == 200
    except OSError:
        return False


def _user(balancer: Balancer, name: str) -> bytes:
    return balancer.create_user(name, 1_000_000, 1_000_000).encode()


def variables(balancer: Balancer, *lines: bytes, target: bytes = b"/", body: bytes = b"") -> dict[str, str]:
    """What the server makes of a request with these field lines, which has to be accepted."""
    method = b"POST" if body else b"GET"
    data = b"\r\n".join([b"%b %b HTTP/1.1" % (method, target), b"Host: a.test", *lines, b"", body])
    got = exchange(balancer.port, data, method)
    assert got.status == 200, (lines, got)
    answer: dict[str, str] = json.loads(got.content)
    return answer


def lookalikes() -> list[bytes]:
    """X-Consumer-Username with each special character at each place: in that of another, and as one more."""
    names = [NAME[:at] + b"%c" % other + NAME[at + 1 :] for at in range(len(NAME)) for other in SPECIALS]
    return names + [NAME[:at] + b"%c" % other + NAME[at:] for at in range(len(NAME) + 1) for other in SPECIALS]


@pytest.mark.parametrize("setting", ["drop", "pass"])
@pytest.mark.parametrize("server", ["wsgiref", "gunicorn"])
def test_no_field_name_makes_another_user(new_balancer: Start, request: Any, server: str, setting: str) -> None:
    """However a client spells X-Consumer-Username, as a field or a trailer, the server has the user's name."""
    balancer = new_balancer(
        _yaml(request.getfixturevalue(server)), environment={"UNUSUAL_FIELD_NAMES": setting}
    ).start()
    key = b"Authorization: " + _user(balancer, "user1")
    names = lookalikes()
    for first in range(0, len(names), 90):
        lines = [b"%b: admin" % name for name in names[first : first + 90]]
        assert variables(balancer, key, *lines)[CONSUMER] == "user1"
    for other in SPECIALS:
        odd = NAME.replace(b"-", b"%c" % other)
        got = variables(balancer, key, b"%b: admin" % odd, b"X-Mine: 1")
        assert (got[CONSUMER], got["HTTP_X_MINE"]) == ("user1", "1")
        assert "admin" not in got.values()
    kept = variables(balancer, key, b"X_Kept: 1")
    assert kept.get("HTTP_X_KEPT") == ("1" if setting == "pass" else None)


def test_no_field_name_frames_or_routes(balancer: Balancer, key: bytes) -> None:
    """What a server could take for a field that frames, routes, authenticates or names its proxy does not reach it."""
    lines = [b"%b: 999" % name for name in (b"Content.Length", b"Transfer~Encoding", b"Ho+st", b"X!Forwarded!For")]
    lines += [b"Proxy: http://evil.test", b"X.API.Key: 999", b"X_API_Key: 999", b"Forwarde'd: 999"]
    got = variables(balancer, b"Authorization: " + key, *lines)
    assert not [name for name, value in got.items() if "999" in value or "evil" in value]
    assert got["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"


def test_a_key_goes_to_no_server(balancer: Balancer, key: bytes) -> None:
    """A key in a second place, in credentials of any scheme or elsewhere in the head, does not reach the server."""
    pair = b64encode(b"user:" + key)
    for value in (b"DPoP " + key, b"Basic " + pair, b'Digest username="%b"' % key, b"Bearer, " + key, key + b" x"):
        got = variables(balancer, b"X-API-Key: " + key, b"Authorization: " + value, b"X-Mine: 1")
        assert (got[CONSUMER], got["HTTP_X_MINE"]) == ("user1", "1")
        assert "HTTP_AUTHORIZATION" not in got
    fields = b"Cookie: a=1; key=" + key, b"Referer: http://a.test/?" + key, b"X-Forwarded-For: " + key
    got = variables(balancer, b"Authorization: Bearer " + key, *fields, target=b"/?apikey=" + key)
    assert (got["QUERY_STRING"], got["HTTP_COOKIE"]) == ("apikey=REDACTED", "a=1; key=REDACTED")
    assert not [name for name, value in got.items() if key.decode() in value]


def test_the_keys_of_two_users(balancer: Balancer, key: bytes) -> None:
    """Two users' keys in one request are 400, wherever the second one is; identifiers of the server's own pass."""
    second = _user(balancer, f"user-{uuid4()}")
    first = b"X-API-Key: " + key
    for lines in (
        [b"Authorization: " + second, b"Connection: close, authorization"],
        [b"apikey: " + second, b"Connection: close, apikey, x-api-key"],
        [b"Authorization: DPoP " + second],
        [b"Authorization: Basic " + b64encode(second + b":")],
    ):
        for target in (b"/", b"/user/tokens/profile"):
            data = b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: a.test", first, *lines, b"", b""])
            status = exchange(balancer.port, data).status
            # The user API has no server to send credentials of another scheme to.
            assert status == (200 if b"user" in target and b" " in lines[0].partition(b": ")[2] else 400), data
    own = "Token 7c9e6679-7425-40de-944b-e07fc1f90ae7"
    assert variables(balancer, first, b"Authorization: " + own.encode())["HTTP_AUTHORIZATION"] == own


def test_no_name_is_read_as_another(new_balancer: Start, wsgiref: int) -> None:
    """A server that reads Latin-1 and strips has a value of its own for each user, which decodes to the name."""
    balancer = new_balancer(_yaml(wsgiref)).start()
    names = ["Voil\xe0", "Voil\xc5", "Voil\xc3", "Voil", "Voil%C3%A0", "\u0427\u0435\u0445", "\u0445X-Admin: 1"]
    names += ["Zo\xeb", "50%"]
    read = [variables(balancer, b"X-API-Key: " + _user(balancer, name))[CONSUMER] for name in names]
    assert len(set(read)) == len(names)
    assert [unquote(value.encode("latin-1").decode()) for value in read] == names
    assert read[names.index("Zo\xeb")].encode("latin-1") == "Zo\xeb".encode()


@pytest.mark.parametrize("options", STORES)
def test_names_that_look_alike(new_balancer: Start, wsgiref: int, options: str, request: Any) -> None:
    """What cannot be seen is no part of a name, all forms of a name are one, and joiners are where they belong."""
    more: tuple[str, ...] = ()
    if options == "redis":
        redis = request.getfixturevalue("redis")
        redis.start()
        more = ("--redis-url", redis.url)
    balancer = new_balancer(_yaml(wsgiref), *more).start()

    def create(name: str) -> tuple[int, str]:
        answer = ask(balancer.port, "POST", "/user/create", json.dumps({"name": name}).encode())
        body = json.loads(answer.body)
        return answer.status, body["name"] if answer.status == 200 else body["detail"]

    assert create("ad\xe9min") == (200, "ad\xe9min")
    assert create("ade\u0301min")[0] == 409
    for character in "\u3164\u2800\uffa0\u034f\ufe0f\u200b\u200c\u200d\u202e\u2066\ufeff\U000e0041\xa0\u3000\x85":
        for name in (character, f"ad{character}min", f"admin{character}", f"{character}admin"):
            assert create(name)[0] == 400, ascii(name)
    family, persian = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    for name in (family, persian, "\u0915\u094d\u200d\u0937"):
        assert create(name) == (200, name)
        assert create(name)[0] == 409
    after = ""
    listed = []
    while after is not None:
        answer = ask(balancer.admin_port, "GET", f"/users?limit=1&after={quote(after)}")
        assert answer.status == 200, answer
        page = json.loads(answer.body)
        listed += [user["name"] for user in page["users"]]
        after = page["next"]
    assert listed == sorted(["ad\xe9min", family, persian, "\u0915\u094d\u200d\u0937"])
