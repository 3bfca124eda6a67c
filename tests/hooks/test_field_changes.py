"""Changes of header fields that hooks make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.hooks.field_changes import NOT_FOR_HOOKS, FieldChanges
from twisted_lb.interfaces import IFieldChanges

LINES = b"\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\nX-B: 3\r\nCookie: c=d\r\nX_A: 4"


def changed(change: Callable[[FieldChanges], object], lines: bytes = LINES, of_request: bool = True) -> bytes:
    changes = FieldChanges(of_request)
    change(changes)
    return changes.apply(lines)


class FieldChangesTests(SynchronousTestCase):
    def test_interface(self) -> None:
        """They keep the interface."""
        verifyObject(IFieldChanges, FieldChanges(True))

    def test_nothing(self) -> None:
        """Without a change the lines are the same."""
        self.assertEqual(changed(lambda changes: None), LINES)

    def test_set(self) -> None:
        """One field takes the place of all with this name, in a request also of those that servers take for it."""
        self.assertEqual(
            changed(lambda changes: changes.set(b"X-a", b" new ")),
            b"\r\nHost: a\r\nX-B: 3\r\nCookie: c=d\r\nX-a: new",
        )
        self.assertEqual(
            changed(lambda changes: changes.set(b"X-a", b"new"), of_request=False),
            b"\r\nHost: a\r\nX-B: 3\r\nCookie: c=d\r\nX_A: 4\r\nX-a: new",
        )

    def test_add_and_remove(self) -> None:
        """A field is added to those that are there, or all with the name are removed; the last word counts."""

        def change(changes: FieldChanges) -> None:
            changes.add(b"X-B", b"4")
            changes.remove(b"x-a")
            changes.set(b"X-C", b"5")
            changes.remove(b"X-C")
            changes.set(b"X-D", b"6")
            changes.add(b"X-D", b"")
            changes.set(b"Host", b"b.test:80")

        self.assertEqual(changed(change), b"\r\nX-B: 3\r\nCookie: c=d\r\nX-B: 4\r\nX-D: 6\r\nX-D: \r\nHost: b.test:80")

    def test_values(self) -> None:
        """Who asks for a value gets it with the changes."""
        changes = FieldChanges(True)
        changes.set(b"X-A", b"1")
        changes.add(b"x-a", b"2")
        changes.add(b"Cookie", b"e=f")
        changes.remove(b"X-B")
        cases = [(b"x-A", b"0", b"1, 2"), (b"cookie", b"c=d", b"c=d; e=f"), (b"X-B", b"3", None), (b"X-C", None, None)]
        for name, before, expected in cases:
            self.assertEqual(changes.value(name, before), expected, name)

    def test_trailers(self) -> None:
        """What is removed or replaced does not come as a trailer."""
        changes = FieldChanges(True)
        changes.set(b"X-A", b"1")
        changes.add(b"X-C", b"1")
        self.assertEqual(changes.kept_trailers([b"x-a: 2", b"X_A: 2", b"X-C: 3"]), [b"X-C: 3"])

    def test_invalid(self) -> None:
        """What is not a field, or not for hooks, is an exception, and changes nothing; values are not in its text."""
        secret = b"hunter2"
        pairs: list[tuple[Any, Any]] = [(name, b"x") for name in sorted(NOT_FOR_HOOKS)]
        pairs += [(name, secret) for name in (b"", b"a b", b"a:", b"a:b", b"a\r\nb", b"\xff", b"a\n", "a", None)]
        pairs += [(b"x-a", secret + end) for end in (b"\r", b"\n", b"\r\nb: c", b"\0", b"\x7f")]
        pairs += [(b"x-a", "text"), (b"x-a", None), (b"x-a", 1), (b"Host", b"a b"), (b"Host", b"a/" + secret)]
        for of_request in (True, False):
            changes = FieldChanges(of_request)
            for name, value in pairs:
                if name == b"Host" and not of_request:
                    continue
                with self.subTest((name, value)):
                    error = self.assertRaises((ValueError, TypeError), changes.set, name, value)  # type: ignore[arg-type]
                    self.assertNotIn(secret.decode(), str(error))
                    self.assertRaises((ValueError, TypeError), changes.add, name, value)  # type: ignore[arg-type]
                if value == b"x":
                    self.assertRaises(ValueError, changes.remove, name)
            self.assertEqual(changes.apply(LINES), LINES)

    def test_once(self) -> None:
        """What a request has once cannot be added to it; and it has always a Host."""
        changes = FieldChanges(True)
        for name in (b"host", b"Content-Type", b"Authorization"):
            self.assertRaises(ValueError, changes.add, name, b"a")
        self.assertRaises(ValueError, changes.remove, b"Host")
        self.assertEqual(changes.apply(LINES), LINES)
