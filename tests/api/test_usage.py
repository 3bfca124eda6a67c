"""What was counted of keys, for operators and for users themselves."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import fail

from tests.api.test_user_keys import OnStore
from tests.api.users_case import UsersCase
from twisted_lb.credentials import digest
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.usage import key_subject

NOTHING = {"requests": 0, "tokens": 0, "refused": {}}
HOUR_US = 3_600_000_000


class OperatorTests(UsersCase):
    """GET .../usage on the admin listener."""

    def setUp(self) -> None:
        super().setUp()
        user = self.called(201, "POST", "/users", {"name": "ann b", "label": "laptop"})
        self.first, self.first_id = user["api_key"], user["keys"][0]["key_id"]
        key = self.called(201, "POST", "/users/ann%20b/keys", {})
        self.second, self.second_id = key["api_key"], key["key_id"]
        self.count(self.first, requests=2, tokens=5, **{"refused:default": 1})

    def count(self, key: str, **counts: int) -> None:
        self.successResultOf(self.store.add_counts({key_subject(digest(key.encode())): counts}))

    def test_a_key(self) -> None:
        """The same answer by the key_id alone, and with the user."""
        window = {"requests": 2, "tokens": 5, "refused": {"default": 1}}
        expected = {"key_id": self.first_id, "hour": window, "day": window, "user": "ann b"}
        for path in (f"/keys/{self.first_id}/usage", f"/users/ann%20b/keys/{self.first_id}/usage"):
            self.assertEqual(self.called(200, "GET", path), expected, path)

    def test_a_user(self) -> None:
        """The sum of all keys, and each of them."""
        self.now_us += 2 * HOUR_US
        self.count(self.second, requests=1, tokens=1, **{"refused:default": 1, "refused:key_disabled": 4})
        now = {"requests": 1, "tokens": 1, "refused": {"default": 1, "key_disabled": 4}}
        before = {"requests": 2, "tokens": 5, "refused": {"default": 1}}
        expected = {
            "name": "ann b",
            "hour": now,
            "day": {"requests": 3, "tokens": 6, "refused": {"default": 2, "key_disabled": 4}},
            "keys": [
                {"key_id": self.first_id, "label": "laptop", "hour": NOTHING, "day": before},
                {"key_id": self.second_id, "label": "", "hour": now, "day": now},
            ],
        }
        self.assertEqual(self.called(200, "GET", "/users/ann%20b/usage"), expected)

    def test_a_rotated_key_begins_at_nothing(self) -> None:
        """The new key has no usage, and the old one keeps its own."""
        path = f"/users/ann%20b/keys/{self.first_id}/rotate"
        new = self.called(201, "POST", path, {"grace": "1h"})["key_id"]
        self.assertEqual(self.called(200, "GET", f"/keys/{new}/usage")["day"], NOTHING)
        self.assertEqual(self.called(200, "GET", f"/keys/{self.first_id}/usage")["day"]["requests"], 2)

    def test_who_may_read(self) -> None:
        """The scope read is enough, and nothing else is."""
        for path in ("/users/ann%20b/usage", f"/keys/{self.first_id}/usage"):
            self.called(200, "GET", path, None, b"Authorization: Bearer reader")
            self.refused(403, "GET", path, None, b"Authorization: Bearer keeper")
            self.refused(401, "GET", path, None, b"Authorization: Bearer wrong")

    def test_what_is_not_there(self) -> None:
        """An unknown user or key gets 404."""
        other = "key_0000000000000000"
        for path in ("/users/bob/usage", f"/keys/{other}/usage", f"/users/ann%20b/keys/{other}/usage"):
            self.refused(404, "GET", path)
        self.refused(404, "GET", "/keys/x/usage")
        self.refused(404, "GET", f"/users/bob/keys/{self.first_id}/usage")

    def test_a_store_that_is_unavailable(self) -> None:
        """503, as everywhere."""
        unavailable: Any = lambda subjects: fail(StoreUnavailable("away"))  # noqa: E731
        self.store.counts_of = unavailable
        self.refused(503, "GET", f"/keys/{self.first_id}/usage")


class UserTests(OnStore):
    """GET /user/keys/<key_id>/usage."""

    def test_own_keys(self) -> None:
        """Any key of a user shows the usage of each of them; the request itself counts for none."""
        first = self.create()
        second = self.done("POST", "/user/keys", first, {})
        subject = key_subject(digest(second["api_key"].encode()))
        self.successResultOf(self.store.add_counts({subject: {"requests": 3, "tokens": 4}}))
        window = {"requests": 3, "tokens": 4, "refused": {}}
        path = f"/user/keys/{second['key_id']}/usage"
        for key in (first, second["api_key"]):
            expected = {"key_id": second["key_id"], "hour": window, "day": window}
            self.assertEqual(self.done("GET", path, key), expected)

    def test_others(self) -> None:
        """The key of another user is as unknown as one that does not exist; a key is needed."""
        mine = self.create()
        other = self.done("POST", "/user/keys", self.create("bob"), {})
        for key_id in (other["key_id"], "key_0000000000000000", "x"):
            self.refused(404, "GET", f"/user/keys/{key_id}/usage", mine)
        self.refused(401, "GET", f"/user/keys/{other['key_id']}/usage")
