"""Users and keys over the admin listener."""

from __future__ import annotations

from urllib.parse import quote

from tests.api.users_case import ADMIN, NOW, UsersCase
from tests.stores.contract import digest_of
from tests.stores.embedded_on_clock import SECOND, START
from tests.stores.users_contract import id_of, new_user
from twisted_lb.credentials import digest
from twisted_lb.interfaces import MICROTOKENS, NotStored, StoreUnavailable
from twisted_lb.key_format import KeyFormat
from twisted_lb.timestamps import rfc3339
from twisted_lb.users import DISABLED, REVOKED, KeyBucket, KeyChange, User, key_id_of

HOUR = 3600 * SECOND


class UserTests(UsersCase):
    """Users."""

    def test_create(self) -> None:
        """A user gets a key, which is shown once; what was left out is the default."""
        answer = self.call("POST", "/users", {"name": "Ann Lee", "metadata": {"plan": "gold"}, "label": "first"})
        self.assertEqual((answer.status, answer.field("location")), (201, "/users/Ann%20Lee"))
        shown = answer.json
        key = shown.pop("api_key")
        key_id = key_id_of(digest(key.encode()))
        self.assertEqual(
            shown,
            {
                "name": "Ann Lee",
                "capacity": 5,
                "rate_per_sec": 1,
                "current_capacity": 5,
                "disabled": False,
                "metadata": {"plan": "gold"},
                "created_at": NOW,
                "keys": [
                    {
                        "key_id": key_id,
                        "label": "first",
                        "state": "active",
                        "created_at": NOW,
                        "expires_at": None,
                        "last_used": None,
                    }
                ],
            },
        )
        self.assertEqual(self.called(200, "GET", "/users/Ann%20Lee"), shown)
        self.assertEqual(
            self.recorded(),
            (("admin", "create_user", "applied"), {"user": "Ann Lee", "before": {}, "after": shown}),
        )

    def test_quota(self) -> None:
        """A quota is created, changed, told what was used, and removed; each of it is recorded."""
        wanted = {"requests": 10, "per": "day", "time_zone": "Europe/Berlin"}
        resets_at = "2027-01-15T23:00:00Z"
        shown = {**wanted, "used": 0, "left": 10, "resets_at": resets_at}
        created = self.called(201, "POST", "/users", {"name": "ann", "quota": wanted})
        self.assertEqual(created["quota"], shown)
        used = {**shown, "used": 4, "left": 6}
        self.assertEqual(self.called(200, "PUT", "/users/ann/quota", {"used": 4})["quota"], used)
        self.assertEqual(self.recorded()[1], {"user": "ann", "before": {"quota": shown}, "after": {"quota": used}})
        more = {**used, "requests": 20, "left": 16}
        self.assertEqual(
            self.called(200, "PATCH", "/users/ann", {"quota": {**wanted, "requests": 20}})["quota"], more
        )
        self.assertEqual(self.called(200, "GET", "/users?name=ann")["users"][0]["quota"], more)
        self.assertEqual(self.called(200, "PUT", "/users/ann/quota")["quota"]["used"], 0)
        self.assertNotIn("quota", self.called(200, "PATCH", "/users/ann", {"quota": None}))
        self.assertEqual(self.recorded()[1]["after"], {"quota": None})
        self.assertEqual(self.call("PUT", "/users/ann/quota").status, 409)
        self.assertEqual(self.call("PUT", "/users/bob/quota").status, 404)
        for quota in ({**wanted, "tokens": 1}, {**wanted, "time_zone": "Mars/Base"}, {"requests": 1}, 5):
            answer = self.call("PATCH", "/users/ann", {"quota": quota})
            self.assertEqual(answer.status, 400)
            self.assertIn("; expected ", answer.json["detail"])

    def test_what_is_given(self) -> None:
        """A policy and an end may be given."""
        wanted = {"name": "ann", "capacity": 7, "rate_per_sec": 0.5, "expires_at": rfc3339(START + HOUR)}
        shown = self.called(201, "POST", "/users", wanted)
        self.assertEqual((shown["capacity"], shown["rate_per_sec"], shown["current_capacity"]), (7, 0.5, 7))
        self.assertEqual(shown["keys"][0]["expires_at"], wanted["expires_at"])

    def test_bad_bodies(self) -> None:
        """What is not valid is refused with what was expected, and nothing is stored."""
        for body, detail in (
            ({}, "name is missing; expected a string of 1 to 128"),
            ({"name": "a", "level": 1}, 'Unknown member "level" here; expected capacity, expires_at, label, metadata'),
            ({"name": "a", "capacity": 0}, "capacity is 0; expected a whole number from 1"),
            ({"name": "a", "metadata": []}, "metadata is an array; expected a JSON object of at most 4096 bytes."),
            ({"name": "a", "metadata": {"a": "x" * 5000}}, "metadata is an object; expected a JSON object of at"),
            ({"name": "a", "expires_at": "soon"}, 'expires_at is "soon", not a time of RFC 3339; expected a time'),
            ({"name": "a", "expires_at": "1969-01-01T00:00:00Z"}, 'Z", before 1970 or after 22'),
            ({"name": "a", "label": "a\nb"}, r'label is "a\nb"; expected one line of at most'),
            ({"name": "a", "quota": 5}, "quota is 5; expected an object with either requests or tokens"),
            ({"name": "a", "quota": {"per": "day"}}, "quota is an object, with neither requests nor tokens; expected"),
            ({"name": "a", "quota": {"requests": 1}}, "quota.per is missing; expected day or month."),
            ({"name": "a", "quota": {"requests": 1, "per": "week"}}, 'quota.per is "week"; expected day or month.'),
            ({"name": "a", "quota": {"requests": 0, "per": "day"}}, "quota.requests is 0; expected a whole number"),
            (
                {"name": "a", "quota": {"requests": 1, "per": "day", "time_zone": "No/Where"}},
                'quota.time_zone is "No/Where"; expected a name of the IANA database such as Europe/Berlin.',
            ),
            (
                {"name": "a", "quota": {"requests": 1, "per": "day", "x": 1}},
                'Unknown member "x" in quota; expected per, requests, time_zone, tokens.',
            ),
            ({"name": "a", "shadow": {"capacity": 0, "rate_per_sec": 1}}, "shadow.capacity is 0; expected a whole"),
            ({"name": "a", "shadow": {"capacity": 1}}, "shadow.rate_per_sec is missing; expected a number from 0"),
            ({"name": "a", "shadow": {"capacity": 1, "rate_per_sec": 1e-10}}, "and not between 0 and 0.000000001"),
        ):
            said = self.refused(400, "POST", "/users", body)
            self.assertIn(detail, said)
            self.assertEqual(said.count("expected"), 1, said)
        self.assertEqual(self.called(200, "GET", "/users"), {"users": [], "next": None})

    def test_taken(self) -> None:
        """A name is there once."""
        self.called(201, "POST", "/users", {"name": "ann"})
        self.assertEqual(self.refused(409, "POST", "/users", {"name": "ann"}), "The name ann is taken.")
        self.assertEqual(self.recorded()[1]["user"], "ann")

    def test_change(self) -> None:
        """Policy, metadata and state are changed; the audit log has what differs, before and after."""
        self.called(201, "POST", "/users", {"name": "ann"})
        change = {"capacity": 3, "metadata": {"plan": "free"}}
        shown = self.called(200, "PATCH", "/users/ann", change)
        self.assertEqual((shown["capacity"], shown["metadata"], shown["rate_per_sec"]), (3, {"plan": "free"}, 1))
        before = {"capacity": 5, "current_capacity": 5, "metadata": {}}
        after = {"capacity": 3, "current_capacity": 3, "metadata": {"plan": "free"}}
        self.assertEqual(
            self.recorded(), (("admin", "change_user", "applied"), {"user": "ann", "before": before, "after": after})
        )
        self.called(200, "PATCH", "/users/ann", change)
        self.assertEqual(self.recorded()[0], ("admin", "change_user", "unchanged"))
        self.assertIs(self.called(200, "PATCH", "/users/ann", {"disabled": True})["disabled"], True)
        for body in ({}, {"name": "bob"}, {"capacity": None}, {"disabled": 1}, {"metadata": None}):
            self.refused(400, "PATCH", "/users/ann", body)

    def test_disable(self) -> None:
        """A user is disabled and enabled; a second time changes nothing."""
        self.called(201, "POST", "/users", {"name": "ann"})
        self.assertIs(self.called(200, "POST", "/users/ann/disable")["disabled"], True)
        changed = {"user": "ann", "before": {"disabled": False}, "after": {"disabled": True}}
        self.assertEqual(self.recorded()[1], changed)
        self.assertIs(self.called(200, "POST", "/users/ann/disable")["disabled"], True)
        self.assertEqual(self.recorded()[0], ("admin", "disable_user", "unchanged"))
        self.assertIs(self.called(200, "POST", "/users/ann/enable")["disabled"], False)
        self.refused(400, "POST", "/users/ann/enable", {"now": True})

    def test_level(self) -> None:
        """A level is set, and reset to full; it is never above the capacity."""
        self.called(201, "POST", "/users", {"name": "ann", "rate_per_sec": 0})
        for body, level in (({"current_capacity": 2}, 2), ({"current_capacity": -3}, -3), (None, 5)):
            self.assertEqual(self.called(200, "PUT", "/users/ann/level", body)["current_capacity"], level)
        self.assertEqual(self.called(200, "PUT", "/users/ann/level", {"current_capacity": 9})["current_capacity"], 5)
        for body in ({}, {"current_capacity": 1.5}, {"current_capacity": None}, {"level": 1}):
            self.refused(400, "PUT", "/users/ann/level", body)

    def test_delete(self) -> None:
        """A user is removed with all keys."""
        key = self.called(201, "POST", "/users", {"name": "ann"})["api_key"]
        shown = self.called(200, "GET", "/users/ann")
        self.assertEqual(self.call("DELETE", "/users/ann").status, 204)
        self.assertEqual(
            self.recorded(), (("admin", "delete_user", "applied"), {"user": "ann", "before": shown, "after": {}})
        )
        self.refused(404, "GET", "/users/ann")
        self.refused(404, "GET", f"/keys/{key_id_of(digest(key.encode()))}")
        self.refused(404, "DELETE", "/users/ann")

    def test_any_name(self) -> None:
        """Every name is one segment of the path, whatever it contains."""
        for name in ("a/b", "a%2Fb", "..", "export", "disable", "é ß", "?#&=+", "\u3164", "a/keys"):
            self.successResultOf(self.store.create_user(new_user(name, "key of " + name)))
            path = "/users/" + quote(name, safe="")
            self.assertEqual(self.called(200, "GET", path)["name"], name)
            self.assertIs(self.called(200, "POST", path + "/disable")["disabled"], True)
            self.assertEqual(self.called(200, "GET", path + "/keys")["name"], name)
            self.assertEqual(self.call("DELETE", path).status, 204)
        for path in ("/users/a%00b", "/users/%ED%A0%80", "/users/a/b", "/users/", "/users/ann/"):
            self.refused(404, "GET", path)

    def test_unknown_user(self) -> None:
        """What is not there is 404, and names the user."""
        for method, path, body in (
            ("GET", "", None),
            ("PATCH", "", {"capacity": 1}),
            ("DELETE", "", None),
            ("POST", "/enable", None),
            ("PUT", "/level", None),
            ("GET", "/keys", None),
            ("POST", "/keys", None),
        ):
            self.assertIn("'nobody'", self.refused(404, method, "/users/nobody" + path, body))

    def test_pages(self) -> None:
        """Users are listed by name, a page at a time, and searched by name, key and use."""
        for name in ("ann", "bob", "cat"):
            self.successResultOf(self.store.create_user(new_user(name, "1" + name, "2" + name)))
        self.successResultOf(self.store.change_key("bob", id_of("2bob"), KeyChange(DISABLED, label="laptop")))
        self.called(200, "POST", "/users/cat/disable")

        def names(query: str) -> list[str]:
            return [user["name"] for user in self.called(200, "GET", "/users?" + query)["users"]]

        page = self.called(200, "GET", "/users?limit=2")
        self.assertEqual(([user["name"] for user in page["users"]], page["next"]), (["ann", "bob"], "bob"))
        self.assertEqual(names("after=bob"), ["cat"])
        for query, found in (
            ("name=a", ["ann", "cat"]),
            ("label=lap", ["bob"]),
            ("state=disabled", ["bob"]),
            ("state=revoked", []),
            ("disabled=true", ["cat"]),
            ("disabled=false", ["ann", "bob"]),
            (f"key_id={id_of('2cat')[:14]}", ["cat"]),
            ("used_since=" + NOW, []),
            ("unused_since=" + NOW, ["ann", "bob", "cat"]),
            ("name=a&disabled=true", ["cat"]),
        ):
            self.assertEqual(names(query), found, query)
        for query in ("state=on", "disabled=yes", "key_id=x", "used_since=1", "label=" + 201 * "a", "digest=1"):
            self.refused(400, "GET", "/users?" + query)


class KeyTests(UsersCase):
    """Keys of a user."""

    def setUp(self) -> None:
        super().setUp()
        self.successResultOf(self.store.create_user(new_user("ann", "k")))
        self.path = f"/users/ann/keys/{id_of('k')}"

    def user(self) -> User:
        user = self.successResultOf(self.store.user("ann"))
        assert user is not None
        return user

    def test_create(self) -> None:
        """A further key is shown once, and works."""
        wanted = {"label": "ci", "expires_at": rfc3339(START + HOUR), "capacity": 2, "rate_per_sec": 0.5}
        answer = self.call("POST", "/users/ann/keys", wanted)
        shown = answer.json
        key_id, key = shown["key_id"], shown.pop("api_key")
        self.assertEqual((answer.status, answer.field("location")), (201, f"/users/ann/keys/{key_id}"))
        self.assertEqual(
            shown,
            {
                "key_id": key_id_of(digest(key.encode())),
                "state": "active",
                "created_at": NOW,
                "last_used": None,
                "current_capacity": 2,
                "user": "ann",
                **wanted,
            },
        )
        self.assertEqual(self.called(200, "GET", f"/users/ann/keys/{key_id}"), shown)
        self.assertEqual(self.called(200, "GET", f"/keys/{key_id}"), shown)
        del shown["user"]
        self.assertEqual(self.called(200, "GET", "/users/ann/keys")["keys"][1], shown)
        (who, entry) = self.recorded()
        self.assertEqual(who, ("admin", "create_key", "applied"))
        self.assertEqual(
            entry, {"user": "ann", "key_id": key_id, "before": {"keys": []}, "after": {"keys": [shown]}}
        )
        self.assertEqual(self.called(201, "POST", "/users/ann/keys")["label"], "")
        self.refused(400, "POST", "/users/ann/keys", {"capacity": 1})

    def test_change(self) -> None:
        """Label, end and bucket are set, and null takes the end and the bucket away."""
        self.called(200, "PATCH", self.path, {"label": "x", "expires_at": NOW, "capacity": 1, "rate_per_sec": 2})
        [key] = self.user().keys
        self.assertEqual((key.label, key.expires_at, key.bucket), ("x", START, KeyBucket(1, 2.0, MICROTOKENS)))
        self.assertEqual(self.called(200, "GET", self.path)["state"], "expired")
        shown = self.called(200, "PATCH", self.path, {"expires_at": None, "capacity": None, "rate_per_sec": None})
        self.assertEqual((shown["state"], shown["label"], "capacity" in shown), ("active", "x", False))
        for body in (
            {},
            {"label": None},
            {"expires_at": 5},
            {"capacity": 1},
            {"capacity": 1, "rate_per_sec": None},
            {"capacity": 0, "rate_per_sec": 1},
            {"state": "revoked"},
        ):
            self.refused(400, "PATCH", self.path, body)

    def test_states(self) -> None:
        """A key is disabled, enabled, expired and revoked; only the last is final."""
        for order, state in (("disable", "disabled"), ("enable", "active"), ("expire", "expired")):
            self.assertEqual(self.called(200, "POST", f"{self.path}/{order}")["state"], state)
            self.assertEqual(self.recorded()[0], ("admin", f"{order}_key", "applied"))
        self.assertEqual(self.called(200, "POST", f"{self.path}/revoke")["state"], "revoked")
        self.assertEqual(self.called(200, "POST", f"{self.path}/revoke")["state"], "revoked")
        self.assertEqual(self.recorded()[0], ("admin", "revoke_key", "unchanged"))
        for order in ("enable", "disable"):
            self.assertIn("cannot be undone", self.refused(409, "POST", f"{self.path}/{order}"))

    def test_delete(self) -> None:
        """To delete a key is to revoke it."""
        self.assertEqual(self.call("DELETE", self.path).status, 204)
        self.assertEqual(self.user().keys[0].state, REVOKED)
        self.assertEqual(self.call("DELETE", self.path).status, 204)

    def test_unknown_key(self) -> None:
        """A key that the user does not have is 404, whatever it looks like."""
        self.successResultOf(self.store.create_user(new_user("bob", "b")))
        for key_id in (id_of("other"), id_of("b"), "key_", "x", "%00", "%2F", "key_" + 16 * "G"):
            for method, path, body in (
                ("GET", "", None),
                ("PATCH", "", {"label": "x"}),
                ("DELETE", "", None),
                ("POST", "/revoke", None),
                ("POST", "/rotate", {"grace": 0}),
            ):
                self.refused(404, method, f"/users/ann/keys/{key_id}{path}", body)
        for key_id in (id_of("other"), "x", "%00", 64 * "a"):
            self.refused(404, "GET", f"/keys/{key_id}")

    def test_rotate(self) -> None:
        """Another key takes the place of the old one, which works until the grace is over."""
        self.called(200, "PATCH", self.path, {"label": "ci"})
        shown = self.called(201, "POST", f"{self.path}/rotate", {"grace": "1h"})
        self.assertEqual(shown["key_id"], key_id_of(digest(shown["api_key"].encode())))
        self.assertEqual((shown["label"], shown["replaces"], shown["user"]), ("ci", id_of("k"), "ann"))
        self.assertEqual(self.called(200, "GET", self.path)["expires_at"], rfc3339(START + HOUR))
        who, entry = self.recorded()
        self.assertEqual(who, ("admin", "rotate_key", "applied"))
        self.assertEqual((entry["key_id"], entry["new_key_id"]), (id_of("k"), shown["key_id"]))
        self.assertEqual([key["expires_at"] for key in entry["before"]["keys"]], [None])
        self.called(201, "POST", f"{self.path}/rotate", {"grace": 0})
        self.assertEqual(self.called(200, "GET", self.path)["state"], "revoked")
        self.assertIn("revoked", self.refused(409, "POST", f"{self.path}/rotate", {"grace": 0}))
        for body in (None, {}, {"grace": "soon"}, {"grace": -1}, {"grace": True}):
            self.refused(400, "POST", f"{self.path}/rotate", body)

    def test_repetition(self) -> None:
        """With an Idempotency-Key a repetition gets the same answer, and changes nothing, on any instance."""
        fields = (ADMIN, b"Idempotency-Key: 4f1c")
        for path, body in ((f"{self.path}/rotate", {"grace": 0}), ("/users/ann/keys", {"label": "x"})):
            first = self.called(201, "POST", path, body, *fields)
            after = self.user()
            self.now_us += 1
            # Another instance has nothing but the store and the tokens.
            self.listen()
            self.assertEqual(self.called(201, "POST", path, body, *fields), first)
            self.assertEqual(self.user(), after)
            self.assertEqual(self.recorded()[0][2], "unchanged")
        other = self.called(201, "POST", "/users/ann/keys", {}, ADMIN, b"Idempotency-Key: 4f1d")
        keeper = self.called(201, "POST", "/users/ann/keys", {}, b"Authorization: Bearer keeper", fields[1])
        self.assertEqual(len({first["api_key"], other["api_key"], keeper["api_key"]}), 3)
        for value in (b"", b"x" * 256, "é".encode()):
            self.refused(400, "POST", "/users/ann/keys", {}, ADMIN, b"Idempotency-Key: " + value)

    def test_repetition_with_a_prefix(self) -> None:
        """Derived keys have the form of all others."""
        self.prefix = "acme_"
        self.listen()
        key = self.called(201, "POST", "/users/ann/keys", {}, ADMIN, b"Idempotency-Key: 1")["api_key"].encode()
        self.assertTrue(key.startswith(b"acme_"))
        self.assertFalse(KeyFormat("acme_").is_mistyped(key))

    def test_nothing_secret_is_recorded(self) -> None:
        """Neither the audit log nor an answer has a digest, and the log has no key."""
        keys = [self.called(201, "POST", "/users", {"name": "bob"})["api_key"]]
        keys.append(self.called(201, "POST", "/users/ann/keys")["api_key"])
        keys.append(self.called(201, "POST", f"{self.path}/rotate", {"grace": 5})["api_key"])
        self.call("DELETE", "/users/bob")
        text = str(self.audit.entries) + str(self.called(200, "GET", "/users"))
        for secret in (*keys, *(digest(key.encode()) for key in keys), digest_of("k")):
            self.assertNotIn(secret, text)


class ScopeTests(UsersCase):
    """Tokens may do what their scopes say."""

    def test_scopes(self) -> None:
        """Without the scope it is 403, which names it; a change is recorded with the name of the token."""
        self.called(200, "GET", "/users", None, b"Authorization: Bearer reader")
        self.called(201, "POST", "/users", {"name": "ann"}, b"Authorization: Bearer keeper")
        self.assertEqual(self.recorded()[0], ("keeper", "create_user", "applied"))
        for token, method, path, scope in (
            ("keeper", "GET", "/users", "read"),
            ("keeper", "GET", "/keys/key_0000000000000000", "read"),
            ("pools", "GET", "/users/ann", "read"),
            ("reader", "POST", "/users", "keys"),
            ("pools", "DELETE", "/users/ann", "keys"),
            ("reader", "GET", "/export/users", "keys"),
            ("reader", "POST", "/import/users", "keys"),
            ("pools", "GET", "/servers", "read"),
        ):
            detail = self.refused(403, method, path, None, b"Authorization: Bearer " + token.encode())
            self.assertTrue(detail.startswith(f"The token {token} lacks the scope {scope};"), detail)

    def test_no_token(self) -> None:
        """Without a valid token it is 401."""
        for method, path in (("GET", "/users"), ("POST", "/users"), ("GET", "/users/x"), ("GET", "/export/users")):
            for value in (b"Bearer S3CRET", b"Bearer ", b"Bearer", b"s3cret", b"Basic s3cret"):
                answer = self.call(method, path, None, b"Authorization: " + value)
                self.assertEqual(answer.status, 401)
                self.assertEqual(answer.field("www-authenticate"), 'Bearer realm="twisted_lb admin"')

    def test_no_tokens_at_all(self) -> None:
        """Where no token is set everybody may read, and nobody may change or export."""
        self.tokens = type(self.tokens)([])
        self.listen()
        self.called(200, "GET", "/users", None, b"X: 1")
        for method, path in (("POST", "/users"), ("DELETE", "/users/ann"), ("GET", "/export/users")):
            self.assertIn("set ADMIN_TOKEN", self.refused(403, method, path, None, b"X: 1"))


class FailureTests(UsersCase):
    """Stores and logs that do not work."""

    def test_store_away(self) -> None:
        """A change of which the store says nothing is 503, and recorded as one that may have been made."""
        self.patch(self.store, "create_user", lambda user: (_ for _ in ()).throw(StoreUnavailable("at secret")))
        answer = self.call("POST", "/users", {"name": "ann"})
        self.assertEqual((answer.status, answer.field("retry-after")), (503, "1"))
        self.assertIn("Whether this was stored is not known.", answer.json["detail"])
        self.assertEqual(self.recorded()[0], ("admin", "create_user", "failed"))

    def test_not_stored(self) -> None:
        """A store that has certainly not stored it is 503, and nothing was changed."""
        self.patch(self.store, "create_user", lambda user: (_ for _ in ()).throw(NotStored("disk full")))
        self.assertEqual(self.call("POST", "/users", {"name": "ann"}).status, 503)
        self.assertEqual(self.recorded()[0], ("admin", "create_user", "refused"))

    def test_no_audit_log(self) -> None:
        """Nothing is changed that cannot be recorded."""
        self.audit.problem = "disk full"
        self.assertIn("audit log", self.refused(503, "POST", "/users", {"name": "ann"}))
        self.assertEqual(self.called(200, "GET", "/users")["users"], [])
