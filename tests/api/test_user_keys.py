"""A user's own keys and what self-service allows, through the door and on an embedded store."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.api.caller import Answer, call
from tests.stores.contract import new_path
from tests.stores.embedded_on_clock import SECOND, START
from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.self_service import SelfService
from twisted_lb.api.user import UserApi
from twisted_lb.api.user_paths import is_user_path
from twisted_lb.credentials import KeyPlaces, digest
from twisted_lb.interfaces import MICROTOKENS
from twisted_lb.key_format import KeyFormat
from twisted_lb.limits.rejection import MISTYPED
from twisted_lb.stores.sqlite.store import EmbeddedStore
from twisted_lb.users import ACTIVE, DISABLED, MAX_KEYS, Key, KeyBucket, KeyChange, UserChange, key_id_of

JSON = b"Content-Type: application/json"
NOW = "2027-01-15T08:00:00Z"  # START


class OnStore(SynchronousTestCase):
    def setUp(self) -> None:
        self.now_us = START
        self.store = EmbeddedStore(new_path(self), lambda: self.now_us, Clock(), maybeDeferred)
        self.store.start()
        self.addCleanup(lambda: self.successResultOf(self.store.stop()))
        self.serve()

    def serve(self, self_service: SelfService = SelfService(), prefix: str = "") -> None:
        """Begin with another API on the same store."""
        keys = KeyPlaces(form=KeyFormat(prefix))
        api = UserApi(
            self.store,
            5,
            1.0,
            keys=keys,
            users=self.store,
            self_service=self_service,
            now_us=lambda: self.now_us,
            usage=self.store,
        )
        self.door = ApiDoor(api.resource())

    def ask(self, method: str, path: str, key: str | None = None, body: Any = None, *fields: bytes) -> Answer:
        content = b"" if body is None else json.dumps(body).encode()
        if key is not None:
            fields += (b"Authorization: " + key.encode(),)
        return call(self.door, method, path, content, JSON, *fields)

    def done(self, *arguments: Any) -> Any:
        answer = self.ask(*arguments)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json

    def refused(self, status: int, *arguments: Any) -> str:
        answer = self.ask(*arguments)
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.field("content-type"), "application/problem+json")
        return str(answer.json["detail"])

    def create(self, name: str = "ann", **more: Any) -> str:
        return str(self.done("POST", "/user/create", None, {"name": name, **more})["api_key"])


def id_of(key: str) -> str:
    return key_id_of(digest(key.encode()))


class OwnKeyTests(OnStore):
    """/user/keys"""

    def test_paths(self) -> None:
        """The paths of the user API are these, and what is below /user/keys; servers have all others."""
        for path in (b"/user/create", b"/user/tokens/profile", b"/user/tokens/change", b"/user/keys", b"/user/keys/x"):
            self.assertTrue(is_user_path(path), path)
        for path in (b"/", b"/user", b"/user/", b"/user/keys2", b"/user/create/", b"/USER/keys", b"/a/user/keys"):
            self.assertFalse(is_user_path(path), path)

    def test_the_list(self) -> None:
        """A new user has one key, which is shown with its key_id, and without anything that is secret."""
        key = self.create()
        answer = self.done("GET", "/user/keys", key)
        self.assertEqual(
            answer,
            {
                "name": "ann",
                "keys": [
                    {
                        "key_id": id_of(key),
                        "label": "",
                        "state": "active",
                        "created_at": NOW,
                        "expires_at": None,
                        "last_used": None,
                    }
                ],
            },
        )
        self.assertNotIn(digest(key.encode())[:20], json.dumps(answer))

    def test_one_more_key(self) -> None:
        """A key has what is asked for, is shown once, and leads to the same user."""
        key = self.create()
        body = {"label": "web shop", "expires_at": "2027-01-15T10:00:00+01:00", "capacity": 2, "rate_per_sec": 0.5}
        new = self.done("POST", "/user/keys", key, body)
        second = new.pop("api_key")
        self.assertEqual(
            new,
            {
                "key_id": id_of(second),
                "label": "web shop",
                "state": "active",
                "created_at": NOW,
                "expires_at": "2027-01-15T09:00:00Z",
                "last_used": None,
                "capacity": 2,
                "rate_per_sec": 0.5,
                "current_capacity": 2,
            },
        )
        self.assertEqual(self.done("GET", "/user/tokens/profile", second)["name"], "ann")
        listed = self.ask("GET", "/user/keys", second)
        self.assertEqual([one["key_id"] for one in listed.json["keys"]], [id_of(key), id_of(second)])
        self.assertNotIn(second.encode(), listed.body)
        self.now_us += 3600 * SECOND
        states = [one["state"] for one in self.done("GET", "/user/keys", key)["keys"]]
        self.assertEqual(states, ["active", "expired"])
        self.assertEqual(self.refused(403, "GET", "/user/keys", second), "This API key has expired.")

    def test_a_label(self) -> None:
        """A key may be labelled by any key of its user."""
        key = self.create()
        second = self.done("POST", "/user/keys", key, {})["api_key"]
        shown = self.done("PATCH", f"/user/keys/{id_of(key)}", second, {"label": "the first"})
        self.assertEqual((shown["key_id"], shown["label"]), (id_of(key), "the first"))

    def test_a_rotation(self) -> None:
        """A rotation gives a new key; the old one expires after the grace, which may be a number or a duration."""
        key = self.create()
        for grace, expires in ((90, "2027-01-15T08:01:30Z"), ("1h", "2027-01-15T09:00:00Z"), (0.5, None)):
            old = self.done("POST", "/user/keys", key, {"label": "x"})["api_key"]
            new = self.done("POST", f"/user/keys/{id_of(old)}/rotate", old, {"grace": grace})
            self.assertEqual((new["label"], new["key_id"]), ("x", id_of(new["api_key"])))
            self.assertEqual(self.done("GET", "/user/tokens/profile", new["api_key"])["name"], "ann")
            self.assertEqual(self.done("GET", "/user/tokens/profile", old)["name"], "ann")
            user = self.successResultOf(self.store.user("ann"))
            if expires:
                [shown] = [one for one in self.done("GET", "/user/keys", key)["keys"] if one["key_id"] == id_of(old)]
                self.assertEqual(shown["expires_at"], expires)
            else:
                self.assertEqual(user.key(id_of(old)).expires_at, START + SECOND // 2)

    def test_a_rotation_of_the_key_itself_at_once(self) -> None:
        """With a grace of 0 the key that has asked for it is unknown afterwards."""
        key = self.create()
        new = self.done("POST", f"/user/keys/{id_of(key)}/rotate", key, {"grace": 0})["api_key"]
        self.assertEqual(self.refused(401, "GET", "/user/tokens/profile", key), "No user has this API key.")
        self.assertEqual(self.done("GET", "/user/tokens/profile", new)["name"], "ann")

    def test_rotate_what_an_operator_has_limited(self) -> None:
        """A rotation does not enable a key that is disabled, nor, without self-service, prolong one that expires."""
        key = self.create()
        other = self.done("POST", "/user/keys", key, {})["api_key"]
        rotate = f"/user/keys/{id_of(other)}/rotate"
        self.successResultOf(self.store.change_key("ann", id_of(other), KeyChange(DISABLED)))
        self.assertIn("is disabled", self.refused(409, "POST", rotate, key, {"grace": 0}))
        self.successResultOf(self.store.change_key("ann", id_of(other), KeyChange(ACTIVE, START + SECOND)))
        self.serve(SelfService(change=False))
        self.assertIn("changed by an operator", self.refused(403, "POST", rotate, key, {"grace": 0}))
        self.serve()
        self.assertIsNone(self.done("POST", rotate, key, {"grace": 0})["expires_at"])

    def test_a_revocation(self) -> None:
        """A revoked key is unknown, stays in the list, and cannot be rotated; to revoke it again is no error."""
        key = self.create()
        second = self.done("POST", "/user/keys", key, {})["api_key"]
        for _ in range(2):
            self.assertEqual(self.done("DELETE", f"/user/keys/{id_of(second)}", key)["state"], "revoked")
        self.assertEqual(self.refused(401, "GET", "/user/keys", second), "No user has this API key.")
        detail = self.refused(409, "POST", f"/user/keys/{id_of(second)}/rotate", key, {"grace": 0})
        self.assertEqual(detail, "This key is revoked, which cannot be undone.")

    def test_bounded_key(self) -> None:
        """A key that expires or has its own bucket reads everything, and changes nothing but itself."""
        key = self.create()
        bucket = {"capacity": 2, "rate_per_sec": 1}
        for body, why in (
            ({"expires_at": "2027-01-15T09:00:00Z"}, "This API key expires, so"),
            (bucket, "This API key has a bucket of its own, so"),
            ({"expires_at": "2027-01-15T09:00:00Z", **bucket}, "This API key expires and has a bucket of its own, so"),
        ):
            bounded = self.done("POST", "/user/keys", key, body)["api_key"]
            before = self.done("GET", "/user/keys", bounded)
            for method, path, sent in (
                ("POST", "/user/keys", {}),
                ("POST", "/user/keys", body),
                ("PATCH", f"/user/keys/{id_of(key)}", {"label": "x"}),
                ("DELETE", f"/user/keys/{id_of(key)}", None),
                ("POST", f"/user/keys/{id_of(key)}/rotate", {"grace": 0}),
                ("POST", "/user/tokens/change", {"capacity": 3}),
            ):
                self.assertIn(why, self.refused(403, method, path, bounded, sent))
            self.assertIn("no key with", self.refused(404, "DELETE", f"/user/keys/{id_of('nobody')}", bounded))
            self.assertEqual(self.done("GET", "/user/keys", key), before)
            self.assertEqual(self.done("GET", "/user/tokens/profile", bounded)["capacity"], 5)
            labelled = self.done("PATCH", f"/user/keys/{id_of(bounded)}", bounded, {"label": "mine"})
            self.assertEqual(labelled["label"], "mine")
            self.assertEqual(self.done("DELETE", f"/user/keys/{id_of(bounded)}", bounded)["state"], "revoked")
        self.done("POST", "/user/tokens/change", key, {"capacity": 3})

    def test_bounded_key_rotates_itself(self) -> None:
        """What a bounded key gets for itself expires when it does, and has its bucket, at its level, once."""
        key = self.create()
        for self_service in (SelfService(), SelfService(change=False)):
            self.serve()
            body = {"expires_at": "2027-01-15T09:00:00Z", "capacity": 2, "rate_per_sec": 0}
            old = self.done("POST", "/user/keys", key, body)["api_key"]
            self.serve(self_service)
            self.successResultOf(
                self.store.change_key("ann", id_of(old), KeyChange(bucket=KeyBucket(2, 0.0, MICROTOKENS)))
            )
            rotate = f"/user/keys/{id_of(old)}/rotate"
            self.assertIn("grace must be 0", self.refused(403, "POST", rotate, old, {"grace": "1h"}))
            new = self.done("POST", rotate, old, {"grace": 0})
            self.assertEqual(new["expires_at"], "2027-01-15T09:00:00Z")
            self.assertEqual((new["capacity"], new["rate_per_sec"], new["current_capacity"]), (2, 0, 1))
            self.refused(401, "GET", "/user/keys", old)
            # Without a bucket of its own, both may be used for a while.
            self.serve()
            old = self.done("POST", "/user/keys", key, {"expires_at": "2027-01-15T09:00:00Z"})["api_key"]
            self.serve(self_service)
            new = self.done("POST", f"/user/keys/{id_of(old)}/rotate", old, {"grace": "9h"})
            self.assertEqual(new["expires_at"], "2027-01-15T09:00:00Z")
            [shown] = [one for one in self.done("GET", "/user/keys", key)["keys"] if one["key_id"] == id_of(old)]
            self.assertEqual(shown["expires_at"], "2027-01-15T09:00:00Z")
        # So does a key that was rotated, during its grace.
        self.serve()
        self.done("POST", f"/user/keys/{id_of(key)}/rotate", key, {"grace": "1m"})
        again = self.done("POST", f"/user/keys/{id_of(key)}/rotate", key, {"grace": "9h"})
        self.assertEqual(again["expires_at"], "2027-01-15T08:01:00Z")

    def test_keys_of_others(self) -> None:
        """What is not a key of one's own is 404, whether somebody has it or not, and stays as it is."""
        key, other = self.create(), self.create("bob")
        for key_id in (id_of(other), id_of("nobody"), "x", "key_", "%2e%2e"):
            for method, path, body in (
                ("PATCH", "", {"label": "x"}),
                ("DELETE", "", None),
                ("POST", "/rotate", {"grace": 0}),
            ):
                detail = self.refused(404, method, f"/user/keys/{key_id}{path}", key, body)
                self.assertEqual(detail, "You have no key with this key_id.")
        self.assertEqual(self.done("GET", "/user/keys", other)["keys"][0]["label"], "")

    def test_all_of_it_needs_a_key(self) -> None:
        """Without a key, or with an unknown one, everything is 401."""
        for key in (None, "nobody"):
            for method, path in (
                ("GET", ""),
                ("POST", ""),
                ("PATCH", "/key_x"),
                ("DELETE", "/key_x"),
                ("POST", "/key_x/rotate"),
            ):
                self.refused(401, method, f"/user/keys{path}", key, {})

    def test_states_are_obeyed(self) -> None:
        """Every endpoint refuses a disabled key, and any key of a disabled user, with the reason."""
        key = self.create()
        changes = (
            ("key_disabled", lambda: self.store.change_key("ann", id_of(key), KeyChange(state=DISABLED))),
            ("user_disabled", lambda: self.store.change_user("ann", UserChange(disabled=True))),
        )
        for reason, change in changes:
            self.successResultOf(change())
            for method, path, body in (
                ("GET", "/user/tokens/profile", None),
                ("POST", "/user/tokens/change", {"capacity": 3}),
                ("GET", "/user/keys", None),
                ("POST", "/user/keys", {}),
                ("PATCH", f"/user/keys/{id_of(key)}", {"label": "x"}),
                ("DELETE", f"/user/keys/{id_of(key)}", None),
                ("POST", f"/user/keys/{id_of(key)}/rotate", {"grace": 0}),
            ):
                answer = self.ask(method, path, key, body)
                self.assertEqual((answer.status, answer.json["reason"]), (403, reason), path)

    def test_too_many_keys(self) -> None:
        """A user with MAX_KEYS keys gets no more."""
        key = self.create()
        for number in range(MAX_KEYS - 1):
            self.successResultOf(self.store.create_key("ann", Key(digest(b"%d" % number))))
        self.assertIn("revoke one", self.refused(409, "POST", "/user/keys", key, {}))

    def test_bodies(self) -> None:
        """What is missing or wrong in a body is said, and nothing is stored."""
        key = self.create()
        rotate = f"/user/keys/{id_of(key)}/rotate"
        for method, path, body, detail in (
            ("POST", "/user/keys", {"label": "a\nb"}, "label is"),
            ("POST", "/user/keys", {"label": 1}, "label is 1"),
            ("POST", "/user/keys", {"expires_at": "tomorrow"}, "2026-12-31T00:00:00Z"),
            ("POST", "/user/keys", {"expires_at": 5}, "2026-12-31T00:00:00Z"),
            ("POST", "/user/keys", {"capacity": 0, "rate_per_sec": 1}, "capacity is 0"),
            ("POST", "/user/keys", {"capacity": 5}, "give both"),
            ("POST", "/user/keys", {"name": "x"}, "Unknown member"),
            ("PATCH", f"/user/keys/{id_of(key)}", {}, "label is missing"),
            ("POST", rotate, {}, "grace is missing"),
            ("POST", rotate, {"grace": -1}, "grace is -1"),
            ("POST", rotate, {"grace": True}, "grace is true"),
            ("POST", rotate, {"grace": "1 week"}, "grace is"),
            ("POST", rotate, {"grace": 1e300}, "grace is"),
        ):
            self.assertIn(detail, self.refused(400, method, path, key, body))
        self.assertEqual(len(self.done("GET", "/user/keys", key)["keys"]), 1)


class PrefixTests(OnStore):
    """KEY_PREFIX"""

    def test_new_keys_have_it(self) -> None:
        """Keys of new users, new keys and rotated keys have the prefix; UUIDs from before remain valid."""
        uuid = self.create("old")
        self.serve(prefix="acme_live_")
        key = self.create()
        second = self.done("POST", "/user/keys", key, {})["api_key"]
        third = self.done("POST", f"/user/keys/{id_of(second)}/rotate", key, {"grace": 0})["api_key"]
        for one in (key, second, third):
            self.assertTrue(one.startswith("acme_live_"))
        self.assertEqual(self.done("GET", "/user/tokens/profile", uuid)["name"], "old")
        self.assertEqual(self.done("GET", "/user/tokens/profile", third)["name"], "ann")

    def test_a_typing_error(self) -> None:
        """A key with a wrong checksum is said to have a typing error."""
        self.serve(prefix="acme_live_")
        key = self.create()
        self.assertEqual(self.refused(401, "GET", "/user/keys", key[:-1] + "_"), MISTYPED)


class SelfServiceTests(OnStore):
    """SELF_SERVICE_CREATE, SELF_SERVICE_CHANGE, MAX_CAPACITY, MAX_RATE_PER_SEC"""

    def test_bounds(self) -> None:
        """A user sets no policy above the bounds, at creation or later, and may lower what an operator has set."""
        self.serve(SelfService(max_capacity=10, max_rate_per_sec=2.5))
        key = self.create(capacity=10, rate_per_sec=2.5)
        for path in ("/user/create", "/user/tokens/change"):
            name = {"name": "bob"} if path == "/user/create" else {}
            self.assertIn("at most 10", self.refused(403, "POST", path, key, {"capacity": 11, **name}))
            self.assertIn("at most 2.5", self.refused(403, "POST", path, key, {"rate_per_sec": 3, **name}))
        self.successResultOf(self.store.change_user("ann", UserChange(capacity=1000)))
        self.assertEqual(self.done("POST", "/user/tokens/change", key, {"rate_per_sec": 1})["capacity"], 1000)
        self.assertEqual(self.done("POST", "/user/tokens/change", key, {"capacity": 9})["capacity"], 9)
        self.create("bob")

    def test_creation_is_off(self) -> None:
        """No user can be created; those who exist go on."""
        key = self.create()
        self.serve(SelfService(create="off"))
        self.assertIn("operator", self.refused(403, "POST", "/user/create", None, {"name": "bob"}))
        self.done("POST", "/user/tokens/change", key, {"capacity": 7})

    def test_creation_needs_the_token(self) -> None:
        """A user is created with the admin token alone, without bounds."""
        self.serve(SelfService(create="token", max_capacity=10, admin_token="secret"))
        for fields in ((), (b"Authorization: secret",), (b"Authorization: Bearer wrong",), (b"Authorization: Bearer",)):
            answer = self.ask("POST", "/user/create", None, {"name": "bob"}, *fields)
            self.assertEqual((answer.status, "admin" in answer.field("www-authenticate")), (401, True))
        answer = self.ask("POST", "/user/create", None, {"name": "b", "capacity": 99}, b"Authorization: Bearer secret")
        self.assertEqual((answer.status, answer.json["capacity"]), (200, 99))

    def test_changes_are_off(self) -> None:
        """Policy and new keys are closed; keys can be listed, labelled, rotated and revoked."""
        key = self.create()
        self.serve(SelfService(change=False))
        for path in ("/user/tokens/change", "/user/keys"):
            self.assertIn("operator", self.refused(403, "POST", path, key, {"capacity": 3, "rate_per_sec": 1}))
        self.assertEqual(self.done("GET", "/user/tokens/profile", key)["capacity"], 5)
        self.done("PATCH", f"/user/keys/{id_of(key)}", key, {"label": "x"})
        new = self.done("POST", f"/user/keys/{id_of(key)}/rotate", key, {"grace": "1m"})["api_key"]
        self.done("DELETE", f"/user/keys/{id_of(new)}", new)
