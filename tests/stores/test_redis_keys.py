"""The keys in Redis: all of them are told in one file."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.stores.contract import digest_of
from twisted_lb.stores.redis import keys

FOLDER = Path(keys.__file__).parent
KEY = re.compile(r"tokenlb:(?:[a-z_]+|\{)")


class KeyTests(SynchronousTestCase):
    """keys.py, and what the others write."""

    def test_each_key_is_told(self) -> None:
        """Every key that a script or a module names is in the docstring of keys.py, and no other one is."""
        assert keys.__doc__ is not None
        told = set(KEY.findall(keys.__doc__))
        files = [*FOLDER.glob("lua/*.lua"), *FOLDER.glob("*.py")]
        named = {key for file in files for key in KEY.findall(file.read_text())}
        self.assertEqual(named, told)
        self.assertGreaterEqual(len(told), 9)

    def test_names_are_made_here(self) -> None:
        """No other module makes the name of a key."""
        for file in FOLDER.glob("*.py"):
            if file.name != "keys.py":
                self.assertNotRegex(file.read_text(), r"[\"']tokenlb:", file.name)

    def test_names(self) -> None:
        """The keys of an account, of its requests in flight and of a process have fixed places for what they are of."""
        digest = digest_of("a")
        self.assertEqual(keys.account_key(digest), b"tokenlb:{%s}" % digest.encode())
        self.assertEqual(keys.places_key(digest), b"tokenlb:in_flight:{%s}" % digest.encode())
        self.assertEqual(keys.last_call_key(b"id1"), b"tokenlb:last:id1")
        self.assertEqual(keys.shared_key("limit:a"), b"tokenlb:limit:a")
