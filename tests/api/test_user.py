"""The user API's answers, through the door and byte by byte; what is refused is in test_user_refusals."""

from __future__ import annotations

from uuid import UUID

from twisted.trial.unittest import SynchronousTestCase

from tests.api.caller import Answer, call
from tests.api.memory_accounts import MemoryAccounts
from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.user import UserApi
from twisted_lb.credentials import digest
from twisted_lb.interfaces import Account, Profile

_KEY = "11111111-2222-4333-8444-555555555555"
_JSON = b"Content-Type: application/json"
_AUTH = b"Authorization: " + _KEY.encode()


class UserApiTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.accounts = MemoryAccounts()
        self.door = ApiDoor(UserApi(self.accounts, 5, 1.0, lambda: _KEY).resource())

    def assert_json(self, answer: Answer, body: str) -> None:
        """A success with exactly this body, which no cache may keep."""
        self.assertEqual((answer.status, answer.body), (200, body.encode() + b"\n"))
        self.assertEqual(answer.field("content-type"), "application/json")
        self.assertEqual(answer.field("cache-control"), "no-store")
        self.assertEqual(answer.field("server"), "twisted_lb")

    def have_user(self, capacity: int = 5, rate_per_sec: float = 1.0, level: int = 5_000_000) -> None:
        self.accounts.profiles[digest(_KEY.encode())] = Profile(Account("user1", capacity, rate_per_sec), level)

    def test_create(self) -> None:
        """A user who asks for nothing gets the defaults, and a full bucket under the digest of the key."""
        answer = call(self.door, "POST", "/user/create", b'{"name": "user1"}', _JSON)
        self.assert_json(answer, '{"name":"user1","capacity":5,"rate_per_sec":1,"api_key":"%s"}' % _KEY)
        self.assertEqual(self.accounts.profiles, {digest(_KEY.encode()): Profile(Account("user1", 5, 1.0), 5_000_000)})

    def test_create_with_policy(self) -> None:
        """Capacity and rate may be chosen; whole numbers are shown whole, others as they are."""
        body = b'{"rate_per_sec":0.5,"capacity":10.0,"name":"user1"}'
        answer = call(self.door, "POST", "/user/create", body, _JSON)
        self.assert_json(answer, '{"name":"user1","capacity":10,"rate_per_sec":0.5,"api_key":"%s"}' % _KEY)

    def test_create_in_another_form(self) -> None:
        """A name is shown and stored in NFC, and one that is the same then is taken."""
        answer = call(self.door, "POST", "/user/create", b'{"name":"Zoe\\u0308"}', _JSON)
        self.assert_json(answer, '{"name":"Zo\xeb","capacity":5,"rate_per_sec":1,"api_key":"%s"}' % _KEY)
        for name in ("Zo\xeb", "Zoe\u0308"):
            answer = call(self.door, "POST", "/user/create", ('{"name":"%s"}' % name).encode(), _JSON)
            detail = "The name Zo\xeb is taken; choose another one."
            self.assertEqual((answer.status, answer.json["detail"]), (409, detail))

    def test_create_without_content_type(self) -> None:
        """A body without a type is taken as JSON."""
        self.assertEqual(call(self.door, "POST", "/user/create", b'{"name":"user1"}').status, 200)

    def test_json_content_types(self) -> None:
        """JSON under any of its names is JSON, and UTF-8 may be said."""
        for number, content_type in enumerate(
            (
                b"Application/JSON",
                b"application/json; charset=utf-8",
                b'application/json;charset="UTF-8"',
                b"application/vnd.api+json",
            )
        ):
            self.accounts.profiles.clear()
            body = b'{"name":"user%d"}' % number
            answer = call(self.door, "POST", "/user/create", body, b"Content-Type: " + content_type)
            self.assertEqual(answer.status, 200, content_type)

    def test_limits_of_values(self) -> None:
        """The least and the greatest values are accepted."""
        for body in (
            b'{"name":"a","capacity":1,"rate_per_sec":0}',
            b'{"name":"a","capacity":1000000000,"rate_per_sec":1000000}',
            b'{"name":"a","rate_per_sec":-0.0}',
            b'{"name":"a","rate_per_sec":1e-9}',
            b'{"name":"a","capacity":1e9}',
            b'{"name":"%s"}' % (b"n" * 128),
            '{"name":"Zoë 东京"}'.encode(),
        ):
            self.accounts.profiles.clear()
            self.assertEqual(call(self.door, "POST", "/user/create", body, _JSON).status, 200, body)

    def test_name_in_utf_8(self) -> None:
        """A name is shown as it was given, in UTF-8 and not in escapes."""
        answer = call(self.door, "POST", "/user/create", b'{"name":"Zo\\u00eb"}', _JSON)
        self.assert_json(answer, '{"name":"Zoë","capacity":5,"rate_per_sec":1,"api_key":"%s"}' % _KEY)

    def test_random_keys(self) -> None:
        """Keys are version 4 UUIDs, and each user gets another."""
        door = ApiDoor(UserApi(self.accounts, 5, 1.0).resource())
        keys = {call(door, "POST", "/user/create", b'{"name":"%d"}' % n).json["api_key"] for n in range(3)}
        self.assertEqual([UUID(key).version for key in keys], [4, 4, 4])
        self.assertEqual(self.accounts.profiles.keys(), {digest(key.encode()) for key in keys})

    def test_profile(self) -> None:
        """A profile shows whole tokens, and looking spends nothing."""
        self.have_user(level=4_999_999)
        before = dict(self.accounts.profiles)
        answer = call(self.door, "GET", "/user/tokens/profile", b"", _AUTH)
        self.assert_json(answer, '{"name":"user1","capacity":5,"rate_per_sec":1,"current_capacity":4}')
        self.assertEqual(self.accounts.profiles, before)

    def test_debt(self) -> None:
        """Who owes tokens sees it, and be it a part of one."""
        for level, shown in ((0, 0), (-1, -1), (-1_000_000, -1), (-1_000_001, -2), (-(10**15), -(10**9))):
            self.have_user(level=level)
            answer = call(self.door, "GET", "/user/tokens/profile", b"", _AUTH)
            self.assert_json(answer, '{"name":"user1","capacity":5,"rate_per_sec":1,"current_capacity":%d}' % shown)

    def test_profile_by_any_form_of_the_key(self) -> None:
        """Each way to carry a key opens the same profile, and a query changes nothing."""
        self.have_user()
        for name in (
            b"Authorization: ",
            b"authorization: Bearer ",
            b"Authorization: bearer  ",
            b"X-API-Key: ",
            b"apikey:",
        ):
            answer = call(self.door, "GET", "/user/tokens/profile?x=1", b"", name + _KEY.encode())
            self.assertEqual(answer.status, 200, name)

    def test_profile_head(self) -> None:
        """HEAD is GET without the body: the same head, to the length."""
        self.have_user()
        answer = call(self.door, "GET", "/user/tokens/profile", b"", _AUTH)
        head = call(self.door, "HEAD", "/user/tokens/profile", b"", _AUTH)
        self.assertEqual(head.status, 200)
        self.assertEqual(head.fields | {"date": []}, answer.fields | {"date": []})

    def test_change_both(self) -> None:
        """A change shows the new policy, and keeps the level."""
        self.have_user()
        answer = call(self.door, "POST", "/user/tokens/change", b'{"capacity":10,"rate_per_sec":2}', _AUTH, _JSON)
        self.assert_json(answer, '{"name":"user1","capacity":10,"rate_per_sec":2,"current_capacity":5}')
        self.assertEqual(self.accounts.profiles, {digest(_KEY.encode()): Profile(Account("user1", 10, 2.0), 5_000_000)})

    def test_change_either(self) -> None:
        """What is not given stays."""
        self.have_user()
        answer = call(self.door, "POST", "/user/tokens/change", b'{"capacity":3}', _AUTH, _JSON)
        self.assert_json(answer, '{"name":"user1","capacity":3,"rate_per_sec":1,"current_capacity":3}')
        answer = call(self.door, "POST", "/user/tokens/change", b'{"rate_per_sec":0.25}', _AUTH, _JSON)
        self.assert_json(answer, '{"name":"user1","capacity":3,"rate_per_sec":0.25,"current_capacity":3}')
