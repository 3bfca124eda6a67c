"""The public contract suite reports what is wrong with an authenticator."""

from __future__ import annotations

import unittest
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from twisted_lb.interfaces import CredentialsRejected, IAuthenticator
from twisted_lb.testing import AuthenticatorContract, FakeRequest


@implementer(IAuthenticator)
class Good:
    """The key is in a field."""

    def identify(self, request: Any) -> bytes | None:
        value: bytes | None = request.header(b"x-api-key")
        if value and value[0] > 127:
            raise CredentialsRejected("The key is not ASCII.")
        return value


class Unmarked:
    def identify(self, request: Any) -> bytes | None:
        return None


class Assuming(Good):
    def identify(self, request: Any) -> bytes | None:
        return bytes(request.header(b"authorization").partition(b" ")[2])


class Text(Good):
    def identify(self, request: Any) -> Any:
        return (request.header(b"x-api-key") or b"").decode("latin-1") or None


class Silent(Good):
    def identify(self, request: Any) -> Any:
        raise CredentialsRejected


class OnceOnly(Good):
    def __init__(self) -> None:
        self.seen: set[bytes | None] = set()

    def identify(self, request: Any) -> Any:
        key = super().identify(request)
        return None if key in self.seen else self.seen.add(key) or key


class ContractTests(SynchronousTestCase):
    def outcome(self, kind: type, **attributes: Any) -> dict[str, str]:
        """The failed tests with their messages."""
        suite = type("Suite", (AuthenticatorContract, unittest.TestCase), {"make": lambda _: kind(), **attributes})
        failed = {}
        for name in unittest.defaultTestLoader.getTestCaseNames(suite):
            result = unittest.TestResult()
            suite(name).run(result)
            failed.update({name: text for _, text in [*result.failures, *result.errors]})
        return failed

    def test_good(self) -> None:
        """A class that keeps the contract passes, with requests of its own too."""
        keys = [(FakeRequest(headers={b"x-api-key": b"k"}), b"k"), (FakeRequest(), None)]
        self.assertEqual(self.outcome(Good, keys=keys), {})

    def test_faults(self) -> None:
        """Each fault is found, and the message says what clients would notice."""
        for kind, test, message in (
            (Unmarked, "test_provides_the_interface", "mark the class with @implementer(IAuthenticator)"),
            (Assuming, "test_without_credentials", "the client would get 500, and not 401"),
            (Text, "test_odd_requests", "expected bytes or None: the client would get 500"),
            (Silent, "test_odd_requests", "the client is not told why"),
            (OnceOnly, "test_asked_again", "another key the second time"),
        ):
            self.assertIn(message, self.outcome(kind).get(test, ""), kind)

    def test_wrong_key(self) -> None:
        """A request of `keys` that has another key is found."""
        failed = self.outcome(Good, keys=[(FakeRequest(headers={b"x-api-key": b"k"}), b"other")])
        self.assertEqual(list(failed), ["test_keys"])
