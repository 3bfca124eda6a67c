"""The text of the setting HSTS, and the removal of a server's own field."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.wire.hsts import policy_line, read_policy, without_own


class PolicyTests(SynchronousTestCase):
    def test_read(self) -> None:
        """Seconds alone are a policy, directives may be in any order and case, and the result is the usual form."""
        for text, value in (
            ("31536000", "max-age=31536000"),
            ("0", "max-age=0"),
            ("max-age=1", "max-age=1"),
            ("includeSubdomains;MAX-AGE = 31536000 ; preload", "max-age=31536000; includeSubDomains; preload"),
        ):
            self.assertEqual(read_policy(text), value)

    def test_not_a_policy(self) -> None:
        """What browsers would ignore is refused: unknown, repeated and missing directives, and other numbers."""
        for text in ("", "1y", "-1", "max-age", "max-age=", "max-age=x", "preload", "max-age=1; max-age=2", "true"):
            self.assertRaises(ValueError, read_policy, text)
        for text in ("max-age=1; preload=1", "max-age=1; preload; preload", "max-age=1,preload", "max-age=1;", "1\xb2"):
            self.assertRaises(ValueError, read_policy, text)

    def test_lines(self) -> None:
        """No policy is no line, and a server's field is removed in any spelling, and nothing else."""
        self.assertEqual(policy_line(""), b"")
        self.assertEqual(policy_line("max-age=1"), b"\r\nStrict-Transport-Security: max-age=1")
        lines = b"\r\nA: 1\r\nSTRICT-transport-security: x\r\nX-Strict-Transport-Security: y\r\nB: \xe4"
        self.assertEqual(without_own(lines), b"\r\nA: 1\r\nX-Strict-Transport-Security: y\r\nB: \xe4")
        self.assertEqual(without_own(b"\r\nStrict-Transport-Security:"), b"")
