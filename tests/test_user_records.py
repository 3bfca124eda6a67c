"""Users as JSON."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.quotas import MONTH, TOKENS, Quota
from twisted_lb.user_records import key_from, key_record, user_from, user_record
from twisted_lb.users import Key, KeyBucket, Shadow, User

FULL = User("é", 5, 0.5, -1, True, {"a": [None]}, 4, (Key("a" * 64, "disabled", 5, "x", 6, 7, KeyBucket(1, 2.5, -3)),))
NEW = User("bob", 1, 2.0, keys=(Key("c" * 64),))
LIMITED = NEW._replace(quota=Quota(9, TOKENS, MONTH, "Asia/Kolkata", 3, 4, 5))


class RecordTests(SynchronousTestCase):
    def test_there_and_back(self) -> None:
        """Nothing is lost, and what may be absent has its default."""
        for user in (FULL, NEW, LIMITED):
            for one in (user, user._replace(shadow=Shadow(3, 0.5, -1))):
                self.assertEqual(user_from(json.loads(json.dumps(user_record(one)))), one)
            for key in user.keys:
                self.assertEqual(key_from(json.loads(json.dumps(key_record(key)))), key)
        short = {"name": "bob", "capacity": 1, "rate_per_sec": 2, "keys": [{"digest": "c" * 64}]}
        self.assertEqual(user_from(short), NEW)
        self.assertIs(type(user_from(short).rate_per_sec), float)

    def test_what_is_not_a_record(self) -> None:
        """Other members and other types are named."""
        good = user_record(FULL)
        for wrong, problem in (
            ([], "the user: expected an object"),
            ({}, "the user: name is missing"),
            ({**good, "x": 1}, "the user: unknown member 'x'; expected capacity, created_at, disabled"),
            ({**good, "name": 1}, "name: expected a string"),
            ({**good, "capacity": True}, "capacity: expected a whole number"),
            ({**good, "capacity": 1.0}, "capacity: expected a whole number"),
            ({**good, "rate_per_sec": "1"}, "rate_per_sec: expected a number"),
            ({**good, "rate_per_sec": None}, "rate_per_sec: expected a number"),
            ({**good, "disabled": 1}, "disabled: expected true or false"),
            ({**good, "metadata": []}, "metadata: expected an object"),
            ({**good, "keys": {}}, "keys: expected an array of keys"),
            ({**good, "keys": ["a"]}, "the key: expected an object"),
            ({**good, "keys": [{}]}, "the key: digest is missing"),
            ({**good, "keys": [{"digest": "a", "bucket": {"capacity": 1}}]}, "bucket: rate_per_sec is missing"),
        ):
            error = self.assertRaises(ValueError, user_from, wrong)
            self.assertIn(problem, str(error))
