"""Notices of probable mistakes in routes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.servers_file import read_gateway
from twisted_lb.routing.notices import route_notices
from twisted_lb.steps import finish

TEXT = """
pools:
  a: {servers: [{name: s1, url: "http://a"}]}
  b: {servers: [{name: s1, url: "http://b"}]}
  c: {servers: [{name: s2, url: "http://c"}]}
routes:
- {path: /x/, pool: a}
- {path: /x/, methods: GET, pool: b}
- {path: /x/, pool: b}
"""


class NoticeTests(SynchronousTestCase):
    def test_notices(self) -> None:
        """Routes without requests, pools without routes, and names that two servers have."""
        self.assertEqual(
            finish(route_notices(read_gateway(TEXT, "x.yaml"), "x.yaml")),
            [
                "x.yaml: routes[2] (/x/): no request can reach it: routes[0] (/x/) takes them all",
                "x.yaml: pools.c: no route leads to it",
                "x.yaml: 's1' is the name of servers in the pools a, b",
            ],
        )

    def test_none(self) -> None:
        """A file with one pool needs none."""
        spec = read_gateway("servers: [{url: 'http://a'}]", "x.yaml")
        self.assertEqual(finish(route_notices(spec, "x.yaml")), [])

    def test_mirror(self) -> None:
        """A pool that has copies only is used."""
        pools = "pools: {a: {servers: [{url: 'http://a'}]}, b: {servers: [{url: 'http://b'}]}}\n"
        spec = read_gateway(pools + "routes: [{pool: a, mirror: b}]", "x.yaml")
        self.assertEqual(finish(route_notices(spec, "x.yaml")), [])
