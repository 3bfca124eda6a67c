"""What the user API refuses: the status, the reason, and that the store is as it was."""

from __future__ import annotations

import json

from hypothesis import settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.api.caller import Answer, call
from tests.api.memory_accounts import MemoryAccounts
from tests.hypothesis_profile import given
from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.user import UserApi
from twisted_lb.credentials import digest
from twisted_lb.interfaces import Account, NotStored, Profile, StoreUnavailable

_KEY = b"11111111-2222-4333-8444-555555555555"
_JSON = b"Content-Type: application/json"
_AUTH = b"Authorization: " + _KEY

_NAME = "expected a string of 1 to 128 printable characters without white space at its ends."
_CAPACITY = "expected a whole number from 1 to 1000000000."
_RATE = "expected a number from 0 to 1000000, and not between 0 and 0.000000001."

# A body for /user/create, and the detail of the answer or its end.
_BAD_BODIES: list[tuple[bytes, str]] = [
    (b"", "The body is empty; expected a JSON object."),
    (b"name=user1", "The body is not JSON at line 1, column 1: Expecting value; expected a JSON object."),
    (b'{"name":"user1"', "expected a JSON object."),
    (b'{"name":"user1"} {}', "expected a JSON object."),
    (b"{'name':'user1'}", "expected a JSON object."),
    (b'{"name":"\xff"}', "The body is not UTF-8 at byte 9; expected a JSON object."),
    ('{"name":"user1"}'.encode("utf-16"), "The body is not UTF-8 at byte 0; expected a JSON object."),
    (b'\xef\xbb\xbf{"name":"user1"}', "expected a JSON object."),
    (b"[]", "The body is JSON but not an object; expected a JSON object."),
    (b'"user1"', "The body is JSON but not an object; expected a JSON object."),
    (b"NaN", "The body is JSON but not an object; expected a JSON object."),
    # How deep a parser goes depends on the version of Python: what is too deep for one is unfinished for another.
    (b"[" * 60_000, "JSON object."),
    (b'{"name":' * 8_000, "JSON object."),
    (b'{"name":"a","name":"b"}', 'The member "name" appears more than once; expected each member once.'),
    (b'{"name":"a","x":{"y":1,"y":1}}', 'The member "y" appears more than once; expected each member once.'),
    (b"{}", "name is missing; " + _NAME),
    (b'{"capacity":5}', "name is missing; " + _NAME),
    (b'{"name":null}', "name is null; " + _NAME),
    (b'{"name":7}', "name is 7; " + _NAME),
    (b'{"name":["user1"]}', "name is an array; " + _NAME),
    (b'{"name":{"a":1}}', "name is an object; " + _NAME),
    (b'{"name":""}', 'name is ""; ' + _NAME),
    (b'{"name":" user1"}', 'name is " user1"; ' + _NAME),
    (b'{"name":"user1 "}', 'name is "user1 "; ' + _NAME),
    (b'{"name":"a\\u0000b"}', 'name is "a\\u0000b"; ' + _NAME),
    (b'{"name":"a\\r\\nX-Evil: 1"}', 'name is "a\\r\\nX-Evil: 1"; ' + _NAME),
    (b'{"name":"a\\u202eb"}', 'name is "a\\u202eb"; ' + _NAME),
    (b'{"name":"a\\ufe0fb"}', 'U+FE0F is invisible. name is "a\\ufe0fb"; ' + _NAME),
    (b'{"name":"a  b"}', 'There are two spaces in a row, which look like one. name is "a  b"; ' + _NAME),
    ('{"name":"\u3164"}'.encode(), 'U+3164 is invisible. name is "\\u3164"; ' + _NAME),
    (
        b'{"name":"ad\\u200dmin","capacity":0}',
        f"capacity is 0; {_CAPACITY}"
        f' U+200D joins nothing here, and is invisible. name is "ad\\u200dmin"; {_NAME}',
    ),
    (b'{"name":"\\ud800"}', 'name is "\\ud800"; ' + _NAME),
    (b'{"name":"%s"}' % (b"n" * 129), 'name is "%s...; ' % ("n" * 39) + _NAME),
    (b'{"name":"a","capacity":0}', "capacity is 0; " + _CAPACITY),
    (b'{"name":"a","capacity":-1}', "capacity is -1; " + _CAPACITY),
    (b'{"name":"a","capacity":1000000001}', "capacity is 1000000001; " + _CAPACITY),
    (b'{"name":"a","capacity":1.5}', "capacity is 1.5; " + _CAPACITY),
    (b'{"name":"a","capacity":"5"}', 'capacity is "5"; ' + _CAPACITY),
    (b'{"name":"a","capacity":true}', "capacity is true; " + _CAPACITY),
    (b'{"name":"a","capacity":null}', "capacity is null; " + _CAPACITY),
    (b'{"name":"a","capacity":NaN}', "capacity is NaN; " + _CAPACITY),
    (b'{"name":"a","capacity":Infinity}', "capacity is Infinity; " + _CAPACITY),
    (b'{"name":"a","capacity":1e400}', "capacity is Infinity; " + _CAPACITY),
    (b'{"name":"a","capacity":%s}' % (b"9" * 5_000), "capacity is Infinity; " + _CAPACITY),
    (b'{"name":"a","rate_per_sec":-0.1}', "rate_per_sec is -0.1; " + _RATE),
    (b'{"name":"a","rate_per_sec":1000000.1}', "rate_per_sec is 1000000.1; " + _RATE),
    (b'{"name":"a","rate_per_sec":1e-10}', "rate_per_sec is 1e-10; " + _RATE),
    (b'{"name":"a","rate_per_sec":"1"}', 'rate_per_sec is "1"; ' + _RATE),
    (b'{"name":"a","rate_per_sec":false}', "rate_per_sec is false; " + _RATE),
    (b'{"name":"a","rate_per_sec":null}', "rate_per_sec is null; " + _RATE),
    (b'{"name":"a","rate_per_sec":NaN}', "rate_per_sec is NaN; " + _RATE),
    (b'{"name":"a","rate_per_sec":-Infinity}', "rate_per_sec is -Infinity; " + _RATE),
    (b'{"name":"a","rate_per_sec":1e400}', "rate_per_sec is Infinity; " + _RATE),
    (
        b'{"capacity":0,"rate_per_sec":-1}',
        f"capacity is 0; {_CAPACITY} rate_per_sec is -1; {_RATE} name is missing; {_NAME}",
    ),
    (b'{"name":"a","api_key":"k"}', 'Unknown member "api_key" here; expected capacity, name, rate_per_sec.'),
    (b'{"name":"a","Capacity":5}', 'Unknown member "Capacity" here; expected capacity, name, rate_per_sec.'),
    (b'{"name":"a","\\udfff":1}', 'Unknown member "\\udfff" here; expected capacity, name, rate_per_sec.'),
]

_BAD_CHANGES: list[tuple[bytes, str]] = [
    (b"", "The body is empty; expected a JSON object."),
    (b"{}", "There is nothing to change: give capacity, rate_per_sec or both."),
    (b'{"capacity":null}', "capacity is null; " + _CAPACITY),
    (b'{"capacity":10,"rate_per_sec":-1}', "rate_per_sec is -1; " + _RATE),
    (b'{"capacity":0,"rate_per_sec":2}', "capacity is 0; " + _CAPACITY),
    (b'{"capacity":10,"name":"user2"}', 'Unknown member "name" here; expected capacity, rate_per_sec.'),
    (b'{"capacity":10,"capacity":11}', 'The member "capacity" appears more than once; expected each member once.'),
]

_BAD_TYPES = [
    b"Content-Type: application/x-www-form-urlencoded",
    b"Content-Type: multipart/form-data; boundary=x",
    b"Content-Type: text/json",
    b"Content-Type: application/jsonp",
    b"Content-Type: json",
    b"Content-Type:",
    b"Content-Type: application/json, text/plain",
    b"Content-Type: application/json; charset=latin-1",
]


class UserApiRefusalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.accounts = MemoryAccounts()
        self.accounts.profiles[digest(_KEY)] = Profile(Account("user1", 5, 1.0), 5_000_000)
        self.before = dict(self.accounts.profiles)
        self.door = ApiDoor(UserApi(self.accounts, 5, 1.0).resource())

    def refused(self, status: int, method: str, target: str, body: bytes = b"", *fields: bytes) -> Answer:
        """The answer to a call that is refused with a problem and changes nothing."""
        answer = call(self.door, method, target, body, *fields)
        self.assertEqual(answer.status, status, (target, body[:80], fields, answer.body))
        self.assertEqual(answer.field("content-type"), "application/problem+json")
        self.assertEqual(answer.field("cache-control"), "no-store")
        if method != "HEAD":
            self.assertEqual(list(answer.json), ["title", "status", "detail"])
            self.assertEqual(answer.json["status"], status)
        self.assertEqual(self.accounts.profiles, self.before)
        return answer

    def test_bad_bodies(self) -> None:
        """A bad body is 400 with a detail that names the member and what was expected; the store is not asked."""
        for body, detail in _BAD_BODIES:
            answer = self.refused(400, "POST", "/user/create", body, _JSON)
            self.assertTrue(answer.json["detail"].endswith(detail), (answer.json["detail"], detail))
        self.assertEqual(self.accounts.calls, 0)

    def test_exact_problem(self) -> None:
        """A problem is one compact line of JSON."""
        answer = self.refused(400, "POST", "/user/create", b"[]", _JSON)
        self.assertEqual(
            answer.body,
            b'{"title":"Bad Request","status":400,'
            b'"detail":"The body is JSON but not an object; expected a JSON object."}\n',
        )

    def test_many_unknown_members(self) -> None:
        """However many members are wrong, the answer stays short."""
        body = json.dumps({f"member{number}": 1 for number in range(3_000)}).encode()
        self.assertLess(len(self.refused(400, "POST", "/user/create", body, _JSON).body), 1_000)

    def test_bad_changes(self) -> None:
        """A change is made whole or not at all."""
        for body, detail in _BAD_CHANGES:
            answer = self.refused(400, "POST", "/user/tokens/change", body, _JSON, _AUTH)
            self.assertEqual(answer.json["detail"], detail)
        self.assertEqual(self.accounts.calls, 0)

    def test_without_key(self) -> None:
        """No key, or an empty one, is 401 with a challenge, before the body is looked at."""
        for fields in (
            (),
            (b"Authorization:",),
            (b"Authorization: Bearer ",),
            (b"X-API-Key:",),
            (b"Authorization: Basic eDp5",),
        ):
            for method, target in (("GET", "/user/tokens/profile"), ("POST", "/user/tokens/change")):
                answer = self.refused(401, method, target, b"", *fields)
                self.assertEqual(answer.field("www-authenticate"), 'Bearer realm="twisted_lb"')
                self.assertEqual(
                    answer.json["detail"], "There is no API key in the request; send it as Authorization: <key>."
                )
        self.assertEqual(self.accounts.calls, 0)

    def test_unknown_key(self) -> None:
        """A key that nobody has is 401 with a challenge, and is not shown."""
        for method, target, body in (
            ("GET", "/user/tokens/profile", b""),
            ("HEAD", "/user/tokens/profile", b""),
            ("POST", "/user/tokens/change", b'{"capacity":10}'),
        ):
            answer = self.refused(401, method, target, body, b"Authorization: nobodys")
            self.assertEqual(answer.field("www-authenticate"), 'Bearer realm="twisted_lb"')
            self.assertNotIn(b"nobodys", answer.body)

    def test_two_keys(self) -> None:
        """Two keys that differ, or a key twice in one field, are 400."""
        for fields in ((_AUTH, b"X-API-Key: other"), (_AUTH, _AUTH), (b"apikey: a", b"apikey: b")):
            self.refused(400, "GET", "/user/tokens/profile", b"", *fields)
            self.refused(400, "POST", "/user/tokens/change", b'{"capacity":10}', *fields)

    def test_wrong_methods(self) -> None:
        """A method that a path does not take is 405, and Allow names those that it takes."""
        for target, allowed in (
            ("/user/create", "POST"),
            ("/user/tokens/profile", "GET, HEAD"),
            ("/user/tokens/change", "POST"),
        ):
            for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"} - set(
                allowed.split(", ")
            ):
                answer = self.refused(405, method, target, b'{"name":"user2"}', _AUTH)
                self.assertEqual(answer.field("allow"), allowed)

    def test_method_in_small_letters(self) -> None:
        """A method in small letters is another method, which nobody has implemented."""
        self.refused(501, "post", "/user/create", b'{"name":"user2"}', _JSON)

    def test_other_paths(self) -> None:
        """A path that is not one of the three is 404, should it ever come here."""
        for target in ("/", "/user", "/user/create/", "/user//create", "/user/create/x", "/%ff", "/user/tokens"):
            self.refused(404, "POST", target, b'{"name":"user2"}')

    def test_name_taken(self) -> None:
        """A name that somebody has is 409."""
        answer = self.refused(409, "POST", "/user/create", b'{"name":"user1","capacity":9}', _JSON)
        self.assertEqual(answer.json["detail"], "The name user1 is taken; choose another one.")

    def test_too_long_body(self) -> None:
        """A body of 64 KiB is read, and one byte more is 413, whatever it says."""
        body = b'{"name":"user2","capacity":0}'.ljust(65_536)
        self.refused(400, "POST", "/user/create", body, _JSON)
        self.refused(413, "POST", "/user/create", body + b" ", _JSON)
        self.refused(413, "POST", "/user/tokens/change", b" " * 200_000, _JSON, _AUTH)

    def test_content_type(self) -> None:
        """Another type than JSON, or another charset than UTF-8, is 415 and says what to tell curl."""
        for field in _BAD_TYPES:
            for target, body in (("/user/create", b'{"name":"user2"}'), ("/user/tokens/change", b'{"capacity":9}')):
                answer = self.refused(415, "POST", target, body, field, _AUTH)
                self.assertIn("-H 'Content-Type: application/json'", answer.json["detail"])

    def test_content_encoding(self) -> None:
        """A compressed body is 415, and the answer names what would do (RFC 9110 section 12.5.3)."""
        answer = self.refused(415, "POST", "/user/create", b"\x1f\x8b", _JSON, b"Content-Encoding: gzip")
        self.assertEqual(answer.field("accept-encoding"), "identity")

    def test_store_unavailable(self) -> None:
        """A store that does not answer is 503, says when to try again, and keeps the store's own words from clients."""
        self.accounts.error = StoreUnavailable("Redis at secret.example does not answer")
        away = "Users and their tokens are unavailable at the moment. Try again in a moment"
        for method, target, body, detail in (
            ("POST", "/user/create", b'{"name":"user2"}', f"{away}; if the name is taken then, choose another one."),
            ("GET", "/user/tokens/profile", b"", f"{away}."),
            ("POST", "/user/tokens/change", b'{"capacity":9}', f"{away}."),
        ):
            answer = self.refused(503, method, target, body, _AUTH)
            self.assertEqual((answer.json["detail"], answer.field("retry-after")), (detail, "1"))

    def test_not_stored(self) -> None:
        """What a store cannot write is 503, and says that nothing was created or changed."""
        self.accounts.error = NotStored("cannot use the database /secret/tokenlb.sqlite3: disk full")
        for target, body in (("/user/create", b'{"name":"user2"}'), ("/user/tokens/change", b'{"capacity":9}')):
            answer = self.refused(503, "POST", target, body, _AUTH)
            detail = "This cannot be stored now, so nothing was created or changed. Try again in a moment."
            self.assertEqual((answer.json["detail"], answer.field("retry-after")), (detail, "1"))

    def test_unexpected_error(self) -> None:
        """An error that nobody expected is 500 without its text, is logged once, and the next call works."""
        self.accounts.error = ZeroDivisionError("secret")
        answer = self.refused(500, "GET", "/user/tokens/profile", b"", _AUTH)
        self.assertNotIn(b"secret", answer.body)
        [logged] = self.flushLoggedErrors(ZeroDivisionError)
        self.assertNotIn(_KEY.decode(), logged.getTraceback())
        self.accounts.error = None
        self.assertEqual(call(self.door, "GET", "/user/tokens/profile", b"", _AUTH).status, 200)


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
_members = st.dictionaries(
    st.sampled_from(["name", "capacity", "rate_per_sec"]) | st.text(max_size=3),
    _scalars | st.lists(_scalars, max_size=2),
)
_bodies = st.binary(max_size=200) | _members.map(lambda members: json.dumps(members).encode())


class AnyBodyTests(SynchronousTestCase):
    @given(body=_bodies)
    @settings(max_examples=300, database=None)
    def test_any_body(self, body: bytes) -> None:
        """Any bytes as a body make a user or get 400, and only what was answered with 200 is stored."""
        accounts = MemoryAccounts()
        door = ApiDoor(UserApi(accounts, 5, 1.0).resource())
        answer = call(door, "POST", "/user/create", body)
        self.assertIn(answer.status, (200, 400), answer.body)
        self.assertEqual(len(accounts.profiles), 1 if answer.status == 200 else 0)
        answer = call(door, "POST", "/user/tokens/change", body, _AUTH)
        self.assertIn(answer.status, (400, 401), answer.body)
