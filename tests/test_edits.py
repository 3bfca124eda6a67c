"""Changes of single keys and servers in the text of servers.yaml."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from twisted_lb.config.edits import Edit, NotEditable, edited, rendered
from twisted_lb.config.pool import PoolSpec, ServerSpec
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

    def test_comments_of_other_lines(self) -> None:
        """Where a key of several lines is removed, only the comment of its own line may go with it."""
        start = "balancer: first\nservers:\n"
        for before, after in (
            (
                "- { name: a,  # c1\n    url: 'http://a',  # c2\n    weight: 2,  # c3\n    maxconn: 1 }\n",
                "- { name: a,  # c1\n    url: 'http://a',  # c2\n    maxconn: 1 }\n",
            ),
            (
                "- { name: a,\n    url: 'http://a',\n    weight: 2,  # c3\n    maxconn: 1 }\n",
                "- { name: a,\n    url: 'http://a',\n    maxconn: 1 }\n",
            ),
            (
                "- { name: a, url: 'http://a',  # c2\n    weight: 2 } # c3\n",
                "- { name: a, url: 'http://a',  # c2\n     } # c3\n",
            ),
            (
                "- { name: a, url: 'http://a',  # c2\n    weight: 2,  # c3\n  }\n",
                "- { name: a, url: 'http://a',  # c2\n  }\n",
            ),
            (
                "- { weight: 2,  # c1\n    # c2\n    name: a, url: 'http://a' }\n",
                "- {   # c1\n    # c2\n    name: a, url: 'http://a' }\n",
            ),
            (
                "- { name: a, weight: 2, url: 'http://a',  # c1\n    maxconn: 1 }\n",
                "- { name: a, url: 'http://a',  # c1\n    maxconn: 1 }\n",
            ),
            (
                "- weight: 2  # c1\n  # c2\n  name: a\n  url: http://a\n",
                "- # c1\n  # c2\n  name: a\n  url: http://a\n",
            ),
            ("- weight: 2\n  name: a\n  url: http://a\n", "- name: a\n  url: http://a\n"),
        ):
            text = edited(start + before, Edit("default", "a", {"weight": None}))
            self.assertEqual(text, start + after)
            self.assertEqual(read_gateway(text, "x.yaml").pools[0].servers[0].weight, 1)
        text = f"{start}- {{ name: a, url: 'http://a',  # c1\n    weight: 2  # c2\n    , maxconn: 1 }}\n"
        with self.assertRaisesRegex(NotEditable, "a comment stands between an item and its comma"):
            edited(text, Edit("default", "a", {"weight": None}))

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

    def test_first_server(self) -> None:
        """A pool that has no servers in the file gets the key."""
        for text, expected in (
            ("pools:\n  p:\n    balancer: first # f\n", "    balancer: first # f\n    servers: [{name: a}]\n"),
            ("pools: {p: {balancer: first}}\n", "pools: {p: {balancer: first, servers: [{name: a}]}}\n"),
        ):
            self.assertTrue(edited(text, Edit("p", "a", {"name": "a"}, True)).endswith(expected))

    def test_json(self) -> None:
        """A file in JSON stays one."""
        servers = [{"name": name, "url": f"http://{name}"} for name in "ab"]
        for indent in (None, 2):
            text = json.dumps({"pools": {"p": {"servers": servers}}, "routes": [{"pool": "p"}]}, indent=indent)
            for edit in (
                Edit("p", "n1", NEW, True),
                Edit("p", "a", {"admin_state": "drain", "health_check": {"path": "/x"}}),
                Edit("p", "", {"maintenance": True}),
                Edit("p", "b", None),
            ):
                text = edited(text, edit)
                json.loads(text)
            text = edited(text, Edit("p", "a", {"admin_state": "disabled", "health_check": None}))
            pool = json.loads(text)["pools"]["p"]
            self.assertEqual(pool["servers"], [{**servers[0], "admin_state": "disabled"}, NEW])
            self.assertEqual(pool["maintenance"], True)

    def test_last_server(self) -> None:
        """The key goes with the last server of a pool."""
        for text, after in (
            ("pools:\n  p:\n    servers:\n    - name: a # 1\n      url: http://a\n    discover: {file: x}\n", None),
            ("discover: {file: x}\nservers: [{name: a, url: http://a}]\n", "discover: {file: x}\n"),
            ("pools: {p: {servers: [{name: a, url: b}], discover: {file: x}}}", "pools: {p: {discover: {file: x}}}"),
        ):
            pool = "p" if "pools" in text else "default"
            expected = after or "pools:\n  p:\n    discover: {file: x}\n"
            self.assertEqual(edited(text, Edit(pool, "a", None)), expected)

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

    def test_first_key(self) -> None:
        """The next key takes the place of the first one of a server."""
        text = "servers:\n- admin_state: drain   \n  name: a\n  url: http://a\n- {name: b, url: http://b}\n"
        after = edited(text, Edit("default", "a", {"admin_state": None}))
        self.assertEqual(after, text.replace("admin_state: drain   \n  ", ""))
        text = text.replace("drain   ", "drain # why")
        after = edited(text, Edit("default", "a", {"admin_state": None}))
        self.assertEqual(after, text.replace("admin_state: drain # why", "# why"))

    def test_properties_of_lists(self) -> None:
        """A list may have an anchor or a tag, in another line than its first dash."""
        for properties in ("&all", "!!seq", "&all  # the servers: - a", "!!seq &all\n# - x"):
            text = f"servers: {properties}\n- {{name: a, url: http://a}}\n- {{name: b, url: http://b}}\n"
            after = self.changed(text, "default", "n1", NEW, new=True)
            self.assertEqual(after, ["", f"- {NEW_TEXT}"])

    def test_comments_after_dashes(self) -> None:
        """What stands between a dash and its server goes with it."""
        for comment in ("", "# some-thing", "# a\n\n  #- b"):
            server = f"-\n  {comment}\n  name: b\n  url: http://b\n"
            text = f"servers:\n- {{name: a, url: http://a}}\n{server}"
            self.assertEqual(edited(text, Edit("default", "b", None)), text.removesuffix(server))
            after = edited(text, Edit("default", "n1", NEW, new=True))
            self.assertEqual(after, f"{text.removesuffix(chr(10))}\n- {NEW_TEXT}\n")

    def test_aliases(self) -> None:
        """An alias as a value is not what it stands for."""
        text = "health_check: &check {path: /x}\nservers:\n- name: a\n  url: http://a\n  health_check: *check # c\n"
        text += "- {name: b, url: 'http://b', health_check: *check}\n"
        self.assertEqual(self.changed(text, "default", "a", {"weight": 2}), ["", "  weight: 2"])
        after = edited(text, Edit("default", "b", {"health_check": False}))
        self.assertEqual(after, text.replace("health_check: *check}", "health_check: false}"))

    def test_places(self) -> None:
        """Characters of any plane, and a byte order mark, do not move the place of a change."""
        for lead in ("# 😀 ä\n", "\ufeff# b\n", "%YAML 1.1\n---\n"):
            text = lead + "servers: [{name: a, url: 'http://a'}]  # 😀"
            after = edited(text, Edit("default", "a", {"weight": 2}))
            self.assertEqual(after, text.replace("a'}", "a', weight: 2}"))

    def test_not_editable(self) -> None:
        """What is not there, or is written elsewhere, is not changed."""
        aliased = "servers:\n- &a {name: a, url: 'http://a'}\n- {name: b, url: 'http://b'}\n"
        for text, edit in (
            (FLOW, Edit("default", "d", {"weight": 1})),
            (FLOW, Edit("other", "a", {"weight": 1})),
            (BLOCK, Edit("default", "a", {"weight": 1})),
            ("", Edit("default", "a", None)),
            ("x: &a {name: a}\nservers: [*a, *a]\n", Edit("default", "n", {"name": "n"}, True)),
        ):
            self.assertRaises(NotEditable, edited, text, edit)
        self.assertIn("weight: 2", edited(aliased, Edit("default", "a", {"weight": 2})))


NAMES = [f"s{number}" for number in range(5)]


def server_of(name: str, style: int) -> str:
    """A server in one of the styles that YAML has for it, as lines without the dash."""
    url = f"http://{name}.test:80"
    return (
        f"{{name: {name}, url: '{url}'}}",
        f'{{ "name": "{name}", "url": "{url}", "weight": 3, }}',
        f"name: {name}\n  url: {url}",
        f"# over it\n  name: {name}   # - beside: {{it}}\n\n  url: {url}  # ü\n  health_check: &c{name}\n"
        "    path: /x\n    status: [200, 204]",
        f"url: {url}\n  name: >-\n    {name}\n  weight: 2",
        f"name: {name}\n  url: {url}\n  weight: 4",
        f"&a{name}\n  name: {name}\n  url: '{url}'",
        f"{{name: {name}, url: '{url}',\n    # in between\n    weight: 2}}",
    )[style]


class PropertyTests(SynchronousTestCase):
    @given(
        st.lists(
            st.tuples(st.sampled_from(range(8)), st.sampled_from(["", "\n", "# - a comment: x\n", "  # x\n\n"])),
            min_size=2,
            max_size=5,
        ),
        st.sampled_from(["", "  "]),
        st.booleans(),
        st.data(),
    )
    def test_styles(self, servers: list[tuple[int, str]], indent: str, in_pool: bool, data: Any) -> None:
        """In whatever style servers are written, a change of one changes that one, and comments stay."""
        names = NAMES[: len(servers)]
        text = ""
        for name, (style, between) in zip(names, servers):
            text += f"{between}- {server_of(name, style)}\n"
        lines = [indent + line if line else line for line in text.split("\n")]
        head, pool = "# top\nbalancer: first\nservers: # list\n", "default"
        if in_pool:
            head, pool = "# top\npools:\n  p: # pool\n    balancer: first\n    servers: # list\n", "p"
            lines = ["    " + line if line else line for line in lines]
        text = head + "\n".join(lines) + "# end"
        before = read_gateway(text, "x.yaml").pools[0]
        name = data.draw(st.sampled_from(names))
        kind = data.draw(st.sampled_from(["weight", "drain", "remove", "add", "null", "maintenance"]))
        edit, expected = self.wanted(before, pool, name, kind)
        try:
            after = edited(text, edit)
        except NotEditable:
            # Only a key that begins its mapping.
            self.assertEqual(kind, "null")
            return
        self.assertEqual(read_gateway(after, "x.yaml").pools[0], expected, after)
        if kind not in ("remove", "null"):
            self.assertEqual(after.count("#"), text.count("#"), after)

    def wanted(self, pool: PoolSpec, place: str, name: str, kind: str) -> tuple[Edit, PoolSpec]:
        """An edit, and what the pool is after it."""
        if kind == "maintenance":
            return Edit(place, "", {"maintenance": 9}), replace(pool, maintenance=9.0)
        if kind == "remove":
            left = tuple(one for one in pool.servers if one.name != name)
            return Edit(place, name, None), replace(pool, servers=left)
        if kind == "add":
            new = ServerSpec("new", "http://new", "new", 80)
            edit = Edit(place, "new", {"name": "new", "url": "http://new"}, True)
            return edit, replace(pool, servers=(*pool.servers, new))
        keys = {"weight": {"weight": 7}, "drain": {"admin_state": "drain"}, "null": {"weight": None}}[kind]
        values: Any = {"weight": 1} if kind == "null" else keys
        servers = [replace(one, **values) if one.name == name else one for one in pool.servers]
        return Edit(place, name, keys), replace(pool, servers=tuple(servers))
