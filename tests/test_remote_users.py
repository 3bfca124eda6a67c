"""The users and keys of a worker's store, as its parent sees them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.app.workers.remote_users import UsersOfWorkers, answered_call
from twisted_lb.interfaces import IUserStore, NameTaken, NotStored, StoreUnavailable
from twisted_lb.quotas import MONTH, NO_QUOTA, TOKENS, Quota
from twisted_lb.users import (
    NO_BUCKET,
    Changed,
    Key,
    KeyBucket,
    KeyChange,
    KeyRevoked,
    KeyTaken,
    TooManyKeys,
    User,
    UserChange,
    UserFilter,
    UserPage,
)

FIRST = Key("a" * 64, "disabled", 5, "é", 6, 7, KeyBucket(1, 2.5, -3))
ANN = User("ann", 5, 0.5, -1, True, {"a": [1]}, 4, (FIRST, Key("b" * 64)))
BOB = User("bob", 1, 2.0, keys=(Key("c" * 64),))
QUOTA = Quota(9, TOKENS, MONTH, "Asia/Kolkata", 3, 4, 5)
LIMITED = ANN._replace(quota=QUOTA)


class Store:
    """Keeps the call, and answers what the test says."""

    def __init__(self) -> None:
        self.call: tuple[Any, ...] = ()
        self.result: Any = None

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.call = (name, *arguments)
            if isinstance(self.result, Exception):
                raise self.result
            return succeed(self.result)

        return call


class RemoteUsersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store: Any = Store()
        self.repeatable: bool | None = None
        self.dead = False
        self.users = UsersOfWorkers(self.ask)

    def ask(self, call: str, arguments: Sequence[object], repeatable: bool) -> Deferred[Any]:
        """Through the pipe."""
        self.repeatable = repeatable
        if self.dead:
            return succeed(None)
        written = json.loads(json.dumps(arguments))
        return answered_call(self.store, call, written).addCallback(lambda answer: json.loads(json.dumps(answer)))

    def test_it_provides_the_interface(self) -> None:
        """The parent has an IUserStore."""
        self.assertTrue(verifyObject(IUserStore, self.users))

    def test_every_call(self) -> None:
        """Arguments and results are the same on both sides, and only what changes nothing may be repeated."""
        filter = UserFilter("a", True, "key_", "x", "active", 1, 2)
        bucket = KeyChange("active", 0, "x", NO_BUCKET)
        for call, arguments, result, repeatable in (
            ("user_page", ("a", 7, filter), UserPage([ANN, BOB], "bob"), True),
            ("user_page", ("", 200, UserFilter()), UserPage([], None), True),
            ("user", ("é",), ANN, True),
            ("user", ("x",), None, True),
            ("user_of_key", ("a" * 64,), BOB, True),
            ("find_key", ("key_1",), ANN, True),
            ("refused_keys", (["a", "b"],), ["b"], True),
            ("create_user", (ANN,), None, False),
            ("change_user", ("ann", UserChange(1, 0.5, 3, False, {"a": {}})), Changed(ANN, BOB), False),
            ("change_user", ("ann", UserChange()), None, False),
            ("change_user", ("ann", UserChange(quota=QUOTA, quota_used=3)), Changed(ANN, LIMITED), False),
            ("change_user", ("ann", UserChange(quota=NO_QUOTA)), Changed(LIMITED, ANN), False),
            ("delete_user", ("ann",), ANN, False),
            ("create_key", ("ann", FIRST), Changed(BOB, ANN), False),
            ("change_key", ("ann", "key_1", bucket), Changed(ANN, ANN), False),
            ("change_key", ("ann", "key_1", KeyChange(label="")), None, False),
            ("rotate_key", ("ann", "key_1", 5, "b" * 64, True), Changed(ANN, BOB), False),
        ):
            self.store.result = result
            found = self.successResultOf(getattr(self.users, call)(*arguments))
            self.assertEqual((found, self.store.call, self.repeatable), (result, (call, *arguments), repeatable))
            self.assertIs(type(found), type(result))
        self.assertIsInstance(bucket.bucket, KeyBucket)

    def test_failures(self) -> None:
        """A failure of the store is the same on both sides."""
        for error in (
            NameTaken("ann"),
            KeyTaken(),
            KeyRevoked(),
            TooManyKeys(),
            NotStored("disk full"),
            StoreUnavailable("away"),
            ValueError("digest: expected"),
        ):
            self.store.result = error
            found = self.failureResultOf(self.users.create_user(ANN), type(error))
            self.assertEqual((type(found.value), str(found.value)), (type(error), str(error)))
        self.store.result = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        self.failureResultOf(self.users.create_user(ANN), ValueError)

    def test_no_answer(self) -> None:
        """Without an answer the store is unavailable."""
        self.dead = True
        self.failureResultOf(self.users.user("ann"), StoreUnavailable)
