"""Changes of single keys and servers in the text of servers.yaml."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.edits import Edit, NotEditable, edited, rendered
from twisted_lb.config.servers_file import read_gateway

FLOW = """\
# Ä comment at the top.
balancer: least_conn   # why

servers:
  # the first
  - {name: a, url: "http://a",   weight: 3}  # ä: big
  - {name: b, url: "http://b"}

  # the last
  - {url: "http://c:9003"}
# the end
"""
BLOCK = """\
pools:
  one:
    servers:
    - name: a
      url: http://a
      weight: 2   # two

    - name: b
      url: http://b
      health_check:
        path: /b   # b's
  two: {servers: [{name: a, url: "http://a2"}, {name: z, url: "http://z"}], balancer: first}
routes:
- {pool: one, path: /one/}
- {pool: two}
"""
NEW = {"name": "n1", "url": "http://[::1]:1", "weight": 5, "health_check": {"path": "/x,y"}, "backup": True}
NEW_TEXT = '{name: n1, url: "http://[::1]:1", weight: 5, health_check: {path: "/x,y"}, backup: true}'


class EditTests(SynchronousTestCase):
    def changed(self, text: str, *edit: Any, **more: Any) -> list[str]:
        """The lines that are other ones, before and after."""
        after = edited(text, Edit(*edit, **more))
        read_gateway(after, "x.yaml")
        before_lines, lines = text.split("\n"), after.split("\n")
        while before_lines and lines and before_lines[0] == lines[0]:
            del before_lines[0], lines[0]
        while before_lines and lines and before_lines[-1] == lines[-1]:
            del before_lines[-1], lines[-1]
        return ["\n".join(before_lines), "\n".join(lines)]

    def test_keys(self) -> None:
        """A key is set where it stands, or after the others of its server."""
        big = '  - {name: a, url: "http://a",   weight: %s}  # ä: big'
        for text, pool, server, keys, before, after in (
            (FLOW, "default", "a", {"weight": 7}, big % 3, big % 7),
            (FLOW, "default", "a", {"weight": None}, big % 3, '  - {name: a, url: "http://a"}  # ä: big'),
            (FLOW, "default", "b", {"weight": None}, "", ""),
            (
                FLOW,
                "default",
                "c:9003",
                {"weight": 0, "admin_state": "drain"},
                '  - {url: "http://c:9003"}',
                '  - {url: "http://c:9003", weight: 0, admin_state: drain}',
            ),
            (BLOCK, "one", "a", {"weight": 1}, "      weight: 2   # two", "      weight: 1   # two"),
            (BLOCK, "one", "a", {"weight": None}, "      weight: 2   # two", ""),
            (BLOCK, "one", "a", {"maxconn": 1}, "", "      maxconn: 1"),
            (BLOCK, "one", "b", {"weight": 4}, "", "      weight: 4"),
            (
                BLOCK,
                "one",
                "b",
                {"health_check": False},
                "      health_check:\n        path: /b   # b's",
                "      health_check: false   # b's",
            ),
        ):
            changed = self.changed(text, pool, server, keys)
            self.assertEqual([one.strip("\n") for one in changed], [before, after], (server, keys))

    def test_new_servers(self) -> None:
        """A new server is the last one of its list, in one line."""
        self.assertEqual(self.changed(FLOW, "default", "n1", NEW, new=True), ["", f"  - {NEW_TEXT}"])
        self.assertEqual(self.changed(BLOCK, "one", "n1", NEW, new=True), ["", f"    - {NEW_TEXT}"])
        [before, after] = self.changed(BLOCK, "two", "n1", NEW, new=True)
        self.assertEqual(after, before.replace('"http://z"}', f'"http://z"}}, {NEW_TEXT}'))

    def test_removed_servers(self) -> None:
        """The lines of a server go, and nothing else."""
        self.assertEqual(self.changed(FLOW, "default", "b", None), ['  - {name: b, url: "http://b"}', ""])
        self.assertEqual(self.changed(FLOW, "default", "c:9003", None), ['  - {url: "http://c:9003"}', ""])
        lines = "    - name: a\n      url: http://a\n      weight: 2   # two"
        self.assertEqual(self.changed(BLOCK, "one", "a", None)[0].strip("\n"), lines)
        after = edited(BLOCK, Edit("two", "a", None))
        self.assertIn('  two: {servers: [{name: z, url: "http://z"}], balancer: first}', after)
        after = edited(BLOCK, Edit("two", "z", None))
        self.assertIn('  two: {servers: [{name: a, url: "http://a2"}], balancer: first}', after)

    def test_keys_of_pools(self) -> None:
        """A key of a pool comes before its servers, and goes again."""
        for text, pool in ((FLOW, "default"), (BLOCK, "one"), (BLOCK, "two")):
            after = edited(text, Edit(pool, "", {"maintenance": 30}))
            spec = {one.name: one.maintenance for one in read_gateway(after, "x.yaml").pools}
            self.assertEqual({name for name, seconds in spec.items() if seconds}, {pool})
            self.assertEqual(edited(after, Edit(pool, "", {"maintenance": None})), text)

    def test_references(self) -> None:
        """A name may be made of references, which stay as they are written; those of a change are texts."""
        text = 'servers: [{url: "http://${HOST}:1"}, {name: b, url: "http://b"}]\n'
        after = edited(text, Edit("default", "h:1", {"weight": 2}), lambda one: one.replace("${HOST}", "h"))
        self.assertEqual(after, text.replace(':1"', ':1", weight: 2'))
        self.assertEqual(rendered("${HOST}"), '"$${HOST}"')

    def test_aliases(self) -> None:
        """An alias as a value is not what it stands for."""
        text = "health_check: &check {path: /x}\nservers:\n- name: a\n  url: http://a\n  health_check: *check # c\n"
        text += "- {name: b, url: 'http://b', health_check: *check}\n"
        self.assertEqual(self.changed(text, "default", "a", {"weight": 2}), ["", "  weight: 2"])
        after = edited(text, Edit("default", "b", {"health_check": False}))
        self.assertEqual(after, text.replace("health_check: *check}", "health_check: false}"))

    def test_json(self) -> None:
        """A file in JSON stays one, but for the style of what is new."""
        text = '{"servers": [{"name": "a", "url": "http://a"}]}'
        self.assertEqual(edited(text, Edit("default", "a", {"weight": 2})), text.replace('a"}', 'a", "weight": 2}'))

    def test_not_editable(self) -> None:
        """What is not there, or is written elsewhere, is not changed."""
        aliased = "servers:\n- &a {name: a, url: 'http://a'}\n- {name: b, url: 'http://b'}\n"
        for text, edit in (
            (FLOW, Edit("default", "d", {"weight": 1})),
            (FLOW, Edit("other", "a", {"weight": 1})),
            (BLOCK, Edit("default", "a", {"weight": 1})),
            (BLOCK, Edit("one", "a", {"name": None})),
            ("", Edit("default", "a", None)),
            ("x: &a {name: a}\nservers: [*a, *a]\n", Edit("default", "n", {"name": "n"}, True)),
        ):
            self.assertRaises(NotEditable, edited, text, edit)
        self.assertIn("weight: 2", edited(aliased, Edit("default", "a", {"weight": 2})))
