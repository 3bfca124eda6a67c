"""The shadow policies of users, for operators and for users."""

from __future__ import annotations

import json
from typing import Any

from tests.api.caller import call
from tests.api.users_case import UsersCase
from tests.stores.contract import Asker, digest_of
from tests.stores.users_contract import new_user
from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.user import UserApi
from twisted_lb.limits.shadow_counts import ASKED, REFUSING
from twisted_lb.usage import shadow_subject
from twisted_lb.user_records import user_from, user_record
from twisted_lb.users import Shadow

HOUR = {"requests": 90_211, "would_refuse": 312}
SHADOW = {"capacity": 3, "rate_per_sec": 0.5}


class ShadowTests(UsersCase):
    """Over the embedded store."""

    def setUp(self) -> None:
        super().setUp()
        self.successResultOf(self.store.create_user(new_user("ann", "a", "b", capacity=9)))

    def count(self, **counts: int) -> None:
        self.successResultOf(self.store.add_counts({shadow_subject(digest_of("a"), 3, 0.5): counts}))

    def test_it_is_set_and_removed(self) -> None:
        """A shadow policy is set and removed by a change, shown with the user, and audited."""
        self.assertNotIn("shadow", self.called(200, "GET", "/users/ann"))
        user = self.called(200, "PATCH", "/users/ann", {"shadow": SHADOW})
        self.assertEqual(user["shadow"], {**SHADOW, "current_capacity": 3})
        entry = self.audit.entries[-1]
        self.assertEqual((entry["before"], entry["after"]), ({"shadow": None}, {"shadow": user["shadow"]}))
        self.assertEqual(self.called(200, "GET", "/users")["users"], [user])
        user = self.called(200, "PATCH", "/users/ann", {"shadow": None})
        self.assertNotIn("shadow", user)
        self.assertEqual(self.audit.entries[-1]["after"], {"shadow": None})
        created = self.called(201, "POST", "/users", {"name": "bob", "shadow": SHADOW})
        self.assertEqual(created["shadow"], {**SHADOW, "current_capacity": 3})

    def test_bad_ones(self) -> None:
        """A policy that no bucket can have, or a part of one, is refused, and nothing is stored."""
        bad = ({"capacity": 3}, {**SHADOW, "capacity": 0}, {**SHADOW, "rate_per_sec": -1}, {**SHADOW, "x": 1})
        for shadow in (1, {}, *bad):
            self.assertIn("shadow", self.refused(400, "PATCH", "/users/ann", {"shadow": shadow}))
        self.assertIn("shadow", self.refused(400, "POST", "/users", {"name": "bob", "shadow": None}))
        self.assertNotIn("shadow", self.called(200, "GET", "/users/ann"))

    def test_counts(self) -> None:
        """What it would have refused is shown for the last hour and day; without a policy there is nothing."""
        self.assertEqual(self.refused(404, "GET", "/users/ann/shadow"), "The user ann has no shadow policy.")
        self.called(200, "PATCH", "/users/ann", {"shadow": SHADOW})
        nothing = {ASKED: 0, REFUSING: 0}
        shown = {"name": "ann", **SHADOW, "current_capacity": 3}
        self.assertEqual(self.called(200, "GET", "/users/ann/shadow"), {**shown, "hour": nothing, "day": nothing})
        self.count(**HOUR)
        self.assertEqual(self.called(200, "GET", "/users/ann/shadow"), {**shown, "hour": HOUR, "day": HOUR})
        for policy, counts in (({"capacity": 3, "rate_per_sec": 0.75}, nothing), (SHADOW, HOUR)):
            # The counts are those of this policy.
            self.called(200, "PATCH", "/users/ann", {"shadow": policy})
            self.assertEqual(self.called(200, "GET", "/users/ann/shadow")["hour"], counts)

    def test_promotion(self) -> None:
        """A promoted shadow is the policy, the level is cut, and there is nothing to promote after that."""
        self.called(200, "PATCH", "/users/ann", {"shadow": SHADOW})
        user = self.called(200, "POST", "/users/ann/shadow/promote")
        self.assertEqual((user["capacity"], user["rate_per_sec"], user["current_capacity"]), (3, 0.5, 3))
        self.assertNotIn("shadow", user)
        entry = self.audit.entries[-1]
        self.assertEqual((entry["action"], entry["user"], entry["result"]), ("promote_shadow", "ann", "applied"))
        self.assertEqual((entry["before"]["capacity"], entry["after"]["capacity"]), (9, 3))
        self.assertEqual((entry["before"]["shadow"]["capacity"], entry["after"]["shadow"]), (3, None))
        self.assertIn("no shadow policy", self.refused(409, "POST", "/users/ann/shadow/promote"))
        self.refused(404, "POST", "/users/nobody/shadow/promote")
        self.refused(400, "POST", "/users/ann/shadow/promote", {"a": 1})

    def test_export(self) -> None:
        """An export has the shadow policy with its level, and an import stores it."""
        self.called(200, "PATCH", "/users/ann", {"shadow": SHADOW})
        receiver = Asker()
        self.store.take(digest_of("a"), receiver, 2)
        before: Any = self.successResultOf(self.store.user("ann"))
        record = json.loads(json.dumps(user_record(before)))
        self.successResultOf(self.store.delete_user("ann"))
        self.successResultOf(self.store.create_user(user_from(record)))
        self.assertEqual(self.successResultOf(self.store.user("ann")), before)
        self.assertEqual(before.shadow, Shadow(3, 0.5, 1_000_000))

    def test_profile(self) -> None:
        """A user sees the shadow with its counts; the profile of others, and a change, are what they were."""
        door = ApiDoor(UserApi(self.store, 5, 1.0, users=self.store, usage=self.store).resource())

        def ask(method: str, path: str, body: object = None) -> Any:
            content = b"" if body is None else json.dumps(body).encode()
            return call(door, method, path, content, b"Content-Type: application/json", b"Authorization: b").json

        plain = {"name": "ann", "capacity": 9, "rate_per_sec": 0, "current_capacity": 9}
        self.assertEqual(ask("GET", "/user/tokens/profile"), plain)
        self.called(200, "PATCH", "/users/ann", {"shadow": SHADOW})
        self.count(**HOUR)
        shadow = {**SHADOW, "current_capacity": 3, "hour": HOUR, "day": HOUR}
        self.assertEqual(ask("GET", "/user/tokens/profile"), {**plain, "shadow": shadow})
        changed = ask("POST", "/user/tokens/change", {"capacity": 8})
        self.assertEqual(changed, {**plain, "capacity": 8, "current_capacity": 8})
