"""The tokens of operators: their file, and the effect of changes of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.contract import new_path
from twisted_lb.app.admin_tokens_file import LOOK_SECONDS, AdminTokensFile
from twisted_lb.config.admin_tokens import AdminToken, admin_tokens, read_admin_tokens
from twisted_lb.config.settings import Misconfigured
from twisted_lb.credentials import digest

TEXT = f"""
tokens:
  - name: prometheus
    sha256: {digest(b"one")}
    scopes: [read]
  - {{name: ci, sha256: "{digest(b"two").upper()}", scopes: [servers, keys]}}
"""
TOKENS = (
    AdminToken("prometheus", digest(b"one"), frozenset(["read"])),
    AdminToken("ci", digest(b"two"), frozenset(["servers", "keys"])),
)


def one(**more: object) -> str:
    token = {"name": "a", "sha256": f"'{digest(b'a')}'", "scopes": "[read]", **more}
    return "tokens:\n  - {" + ", ".join(f"{name}: {value}" for name, value in token.items()) + "}\n"


class ReadingTests(SynchronousTestCase):
    def problems(self, text: str) -> tuple[str, ...]:
        return self.assertRaises(Misconfigured, read_admin_tokens, text, "t.yaml").problems

    def test_tokens(self) -> None:
        """A token has a name, the digest of its text and scopes; the file may be YAML or JSON."""
        self.assertEqual(read_admin_tokens(TEXT, "t.yaml"), TOKENS)
        text = f'{{"tokens": [{{"name": "ci", "sha256": "{digest(b"two")}", "scopes": ["servers", "keys"]}}]}}'
        self.assertEqual(read_admin_tokens(text, "t.json"), TOKENS[1:])

    def test_admin_token(self) -> None:
        """ADMIN_TOKEN may do everything; an empty one is none."""
        [token] = admin_tokens("s3cret")
        self.assertEqual((token.name, token.digest, len(token.scopes)), ("admin", digest(b"s3cret"), 3))
        self.assertEqual(admin_tokens(""), ())

    def test_problems(self) -> None:
        """Each problem is named with its line, its place and what was expected; never with what could be a token."""
        for text, problem in (
            ("", "t.yaml:1: expected one key, tokens"),
            ("{", "t.yaml:1: invalid YAML:"),
            ("[]", "t.yaml:1: expected one key, tokens"),
            ("tokens: []", "t.yaml:1: tokens: expected a list of 1 to 100 tokens"),
            ("tokens: [ci]", "t.yaml:1: tokens[0]: expected the keys name, sha256, scopes"),
            (one(admin="true"), "t.yaml:2: tokens[0]: expected the keys name, sha256, scopes"),
            (one(name="a b"), "t.yaml:2: tokens[0].name: expected a name of up to 64 letters"),
            (one(name="admin"), "other than admin, not 'admin'"),
            (one(scopes="[]"), "tokens[0].scopes: expected a list of one or more of read, keys, servers, not []"),
            (one(scopes="[write]"), "not ['write']"),
            (one(scopes="read"), "not 'read'"),
            (TEXT.replace("ci", "prometheus"), "t.yaml:6: tokens[1].name: another token has it too"),
            (one(sha256="s3cret"), "tokens[0].sha256: expected the SHA-256 of the token, 64 hexadecimal digits in"),
            (one(sha256="1"), "tokens[0].sha256: expected"),
            (one() + one(), "t.yaml:3: tokens: it is there twice, first in line 1"),
        ):
            found = self.problems(text)[0]
            self.assertIn(problem, found)
            self.assertNotIn("s3cret", found)
        self.assertEqual(len(self.problems(one(name="''", scopes="[]", sha256="x"))), 3)


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = new_path(self)
        self.used: list[Sequence[AdminToken]] = []
        self.clock = Clock()
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.write(TEXT)
        self.file = AdminTokensFile(self.clock, self.path, self.used.append)
        self.file.startService()
        self.addCleanup(self.file.stopService)
        self.look()

    def write(self, text: str) -> None:
        with open(self.path + "~", "w") as file:
            file.write(text)
        os.rename(self.path + "~", self.path)

    def look(self) -> None:
        self.clock.pump([LOOK_SECONDS] * 3)

    def logged(self) -> list[str]:
        events, self.events[:] = list(self.events), []
        return [event["log_format"] for event in events if "admin tokens" in event.get("log_format", "")]

    def test_changes(self) -> None:
        """Other tokens are in use soon after the file has changed, and SIGHUP reads it at once."""
        self.look()
        self.assertEqual((self.used, self.logged()), ([TOKENS], []))
        self.write(one())
        self.look()
        self.assertEqual(self.used[1:], [read_admin_tokens(one(), "")])
        self.assertEqual(len(self.logged()), 1)
        self.write(TEXT)
        self.file.read(True)
        self.assertEqual(self.used[2:], [TOKENS])

    def test_bad_file(self) -> None:
        """A file that cannot be used is logged once, and the tokens stay; so when it is gone."""
        self.write("tokens: []")
        self.look()
        self.look()
        self.assertEqual(self.logged(), ["The admin tokens in use stay: {error}"])
        os.remove(self.path)
        self.look()
        self.assertEqual((len(self.used), len(self.logged())), (1, 1))
        self.write(one())
        self.look()
        self.assertEqual(len(self.used), 2)
