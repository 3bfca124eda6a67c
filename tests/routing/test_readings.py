"""A path that servers may read as that of another route is refused, so that no requirement of it can be evaded."""

from __future__ import annotations

import re
from posixpath import normpath
from urllib.parse import unquote, urljoin

from hypothesis import example
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.routing.test_table import head, table
from twisted_lb.routing.path import comparable
from twisted_lb.routing.readings import AMBIGUOUS, DOTS, MALFORMED, ZERO, certain_route, other_readings

ROOT = "name: root"
ADMIN = "path: /admin/"
DEEP = "path: /v1/admin/"
V1 = "path: /v1/"
ROUTES = (ROOT, ADMIN, DEEP, V1, "path: '/a%2Fb/'", "path: '/semi;v=1/'", "path: '/semi;v=1/x'", "path: '/@me/'")


def wsgi(path: str) -> str:
    """PATH_INFO (PEP 3333) is decoded, slashes too."""
    return normpath(unquote(path))


def windows(path: str) -> str:
    """Backslashes separate segments."""
    return normpath(unquote(path).replace("\\", "/"))


def servlet(path: str) -> str:
    """Parameters of segments are no part of the path; they are removed before it is decoded."""
    return normpath(unquote(re.sub(";[^/]*", "", path)))


def as_written(path: str) -> str:
    """RFC 3986 section 5.2.4, by which an empty segment is one; then several slashes are one."""
    joined = urljoin("http://a/", f"http://a{unquote(path)}") if "//" not in path[:2] else unquote(path)
    return re.sub("//+", "/", joined.removeprefix("http://a"))


SERVERS = (wsgi, windows, servlet, as_written)
SEGMENTS = ["admin", "v1", "x", "", ".", "..", "%2e%2e", "%2E.", "..;", "..;a=b", ";", "admin;x", "x%2Fadmin", "x%2f.."]
SEGMENTS += ["%2Fadmin", "..%2Fadmin", "%5Cadmin", "x\\admin", "\\..\\admin", "%61dmin", "%40me", "%25", "%252e%252e"]
PATHS = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map(lambda segments: "/" + "/".join(segments))


class ReadingTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """What some server reads as a path of another route; the detail says why."""
        routes = table(*ROUTES)
        for path, expected in (
            ("/admin%2Fx", AMBIGUOUS),
            ("/admin%2fx", AMBIGUOUS),
            ("/admin%5Cx", AMBIGUOUS),
            ("/admin\\x", AMBIGUOUS),
            ("/%2Fadmin/x", AMBIGUOUS),
            ("/admin;a=b/x", AMBIGUOUS),
            ("/admin;/x", AMBIGUOUS),
            ("/%61dmin;/x", AMBIGUOUS),
            ("/admin%3Ba=b/x", AMBIGUOUS),
            ("/x/..;/admin/x", AMBIGUOUS),
            ("/x/..;a/..;b/admin", AMBIGUOUS),
            ("/x%2F..;/admin/x", AMBIGUOUS),
            ("/;/admin/x", AMBIGUOUS),
            ("/admin//../x", AMBIGUOUS),
            ("/admin/x//..//../x", AMBIGUOUS),
            ("/v1;/admin/x", AMBIGUOUS),
            ("/v1/admin%2Fx", AMBIGUOUS),
            ("/v1/x;y/..;/admin", AMBIGUOUS),
            # What is behind the path of a route is not meant as it is.
            ("/semi;v=1/..;/../admin/x", AMBIGUOUS),
            ("/a%2Fb/..;/admin", AMBIGUOUS),
            # Whatever the routes are.
            ("/x%2F../y", DOTS),
            ("/x/..%2Fy", DOTS),
            ("/x\\..\\y", DOTS),
            ("/x%5C.%5Cy", DOTS),
            ("/%", MALFORMED),
            ("/v1/%zz", MALFORMED),
            ("/v1/%4", MALFORMED),
            ("/v1/%4?41", MALFORMED),
            ("/v1//x/%%32%65%%32%65/admin/x", MALFORMED),
            ("/admin%00/x", ZERO),
        ):
            self.assertEqual(certain_route(routes, head(f"GET {path}")), (None, expected), path)

    def test_not_refused(self) -> None:
        """What all servers read as a path of the same route, and what the route itself says."""
        routes = table(*ROUTES)
        for path, expected in (
            ("/x/group%2Fproject/y", ROOT),
            ("/v1/group%2Fproject", V1),
            ("/v1/x;version=2/y", V1),
            ("/v1/x\\y", V1),
            ("/admin/a%2Fb;c", ADMIN),
            ("/admin/../x", ROOT),
            ("/v1//x", V1),
            ("//v1/x", V1),
            ("/x/../v1//x", V1),
            ("/a%2Fb/x", "path: '/a%2Fb/'"),
            ("/a%2fb/x;y", "path: '/a%2Fb/'"),
            ("/semi;v=1", "path: '/semi;v=1/'"),
            ("/semi;v=1/", "path: '/semi;v=1/'"),
            ("/semi;v=1/x", "path: '/semi;v=1/x'"),
            ("/semi%3Bv=1/y", "path: '/semi;v=1/'"),
            ("/@me/x", "path: '/@me/'"),
            ("/%40me/x", "path: '/@me/'"),
            ("/%252e%252e/admin/x", ROOT),
            ("/caf%C3%A9", ROOT),
            ("/x?a=%&b=/../;\\", ROOT),
        ):
            self.assertEqual(certain_route(routes, head(f"GET {path}")), (expected, ""), path)
        self.assertEqual(certain_route(routes, head("OPTIONS *")), (ROOT, ""))

    def test_without_a_route(self) -> None:
        """What has no route is not found, and what servers read as a path without one is refused."""
        routes = table("path: /public/")
        self.assertEqual(certain_route(routes, head("GET /public%2Fx")), (None, ""))
        self.assertEqual(certain_route(routes, head("GET /public/..;/admin")), (None, AMBIGUOUS))

    @given(PATHS)
    @example("/admin//../x")
    @example("/x/..;/admin/x")
    @example("/x;/%2Fadmin")
    def test_servers(self, path: str) -> None:
        """A path that is not refused has the same route, however a server reads it."""
        routes = table(*ROUTES)
        route, fault = certain_route(routes, head(f"GET {path}"))
        if fault:
            return
        for server in SERVERS:
            read = re.sub("^//", "/", server(path)).replace("%", "%25").replace("\\", "%5C")
            self.assertEqual(routes.find(head(f"GET {read}")), route, (server.__name__, read))

    def test_long(self) -> None:
        """Of a long path, no more forms are made than of a short one."""
        for path in (b"/;" * 4000, b"/%41" * 2000, b"//" * 4000, b"/..;" * 2000, b"/%2F" * 2000):
            self.assertLessEqual(len(other_readings(path, b"/")), 8)
            self.assertEqual(comparable(path)[:1], b"/")
