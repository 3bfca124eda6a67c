"""Lists of servers in files of their own, and the errors in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.server_list import read_list
from twisted_lb.config.settings import Misconfigured


def entries(text: str) -> list[object]:
    return [json.loads(entry) for entry in read_list(text, "list")]


class ReadingTests(SynchronousTestCase):
    def problems(self, text: str, *taken: str) -> list[str]:
        return list(self.assertRaises(Misconfigured, read_list, text, "list", taken).problems)

    def test_forms(self) -> None:
        """An entry is a URL, host and port, or a mapping; in JSON and in YAML."""
        as_json = '["10.0.0.7:8000", "https://a.test", "[::1]:80", {"url": "http://b:81", "name": "b", "weight": 2}]'
        as_yaml = "- 10.0.0.7:8000\n- https://a.test\n- '[::1]:80'\n- {url: 'http://b:81', name: b, weight: 2}\n"
        expected = [
            {"name": "10.0.0.7:8000", "url": "http://10.0.0.7:8000"},
            {"name": "a.test:443", "url": "https://a.test"},
            {"name": "[::1]:80", "url": "http://[::1]:80"},
            {"name": "b", "url": "http://b:81", "weight": 2},
        ]
        self.assertEqual(entries(as_json), expected)
        self.assertEqual(entries(as_yaml), expected)

    def test_documented(self) -> None:
        """The list of the documentation is valid."""
        page = (Path(__file__).parents[2] / "docs" / "discovery.md").read_text()
        (text,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
        self.assertEqual(len(entries(text)), 3)

    def test_keys(self) -> None:
        """Values are as in servers.yaml, and are plain in the result."""
        text = (
            "- {url: 'http://a', name: a, slowstart: 1m,\n"
            "  send_proxy: v2, health_check: {interval: 500ms, status: 200}}\n"
            "- {url: 'http://b', name: b, health_check: false, backup: true}\n"
        )
        self.assertEqual(
            entries(text),
            [
                {
                    "name": "a",
                    "url": "http://a",
                    "slowstart": 60.0,
                    "send_proxy": 2,
                    "health_check": {"interval": 0.5, "status": [[200, 200]]},
                },
                {"name": "b", "url": "http://b", "health_check": None, "backup": True},
            ],
        )

    def test_empty_list(self) -> None:
        """An empty list is one; an empty file is none, since that is what a program leaves that was interrupted."""
        self.assertEqual(entries("[]"), [])
        for text in ("", "\n", "null", "{}", "web"):
            (problem,) = self.problems(text)
            self.assertTrue(problem.startswith("list:1: expected a list of at most 10000 servers"), problem)

    def test_problems(self) -> None:
        """Each problem names file, line and place, also in JSON."""
        cases = [
            ('[\n"a:b"]', "list:2: [0].url: expected http://host[:port]"),
            ('[\n{"url": "http://a", "wieght": 2}]', "list:2: [0].wieght: unknown key; did you mean 'weight'?"),
            ('[\n{"weight": 2}]', "list:2: [0].url: is missing"),
            ("- a\n- b\n- 3\n", "list:3: [2]: expected a mapping"),
            ("- a:1\n- a:1\n", "list:2: [1].name: 'a:1' is already the name of [0]"),
            ("- a:1\n- {url: 'http://b', name: x}\n", "list:2: [1].name: 'x' is already the name of a server of"),
            ("- {url: 'https://b', tls: {verify: false}}\n", "list:1: [0].tls: expected in servers.yaml"),
            ('[{"url": "http://a",\n"url": "http://b"}]', "list:2: [0].url: duplicate key, first on line 1"),
            ("- a\n b: {", "list:2: invalid JSON or YAML"),
        ]
        for text, expected in cases:
            (problem,) = self.problems(text, "x")
            self.assertTrue(problem.startswith(expected), (text, problem))

    def test_many(self) -> None:
        """More servers than a pool may have are refused."""
        (problem,) = self.problems(json.dumps([f"h:{port}" for port in range(1, 10_002)]))
        self.assertIn("not 10001 entries", problem)
