"""The table of routes agrees with a search through all routes, for any routes and requests."""

from __future__ import annotations

from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from twisted_lb.routing.match import Match
from twisted_lb.routing.path import comparable, without_prefix
from twisted_lb.routing.table import RouteTable, plain_host
from twisted_lb.steps import finish
from twisted_lb.wire.head import RequestHead

# Few different ones, so that they often meet.
LABELS = st.sampled_from([b"a", b"b", b"ab"])
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(b".".join)
SEGMENTS = st.sampled_from([b"a", b"b", b"ab", b"%41", b"%2F", b"", b".", b"..", b"%2e", b"%%32%65", b"%4", b";"])
PATHS = st.lists(SEGMENTS, max_size=5).map(lambda segments: b"/" + b"/".join(segments))
METHODS = st.sampled_from([b"GET", b"POST", b"PUT"])
FIELDS = st.dictionaries(st.sampled_from([b"x-a", b"x-b"]), st.sampled_from([b"1", b"2"]))
ROUTES = st.lists(
    st.builds(
        Match,
        st.one_of(st.just(b""), HOSTS, HOSTS.map(lambda host: b"*." + host)),
        st.one_of(st.just(b""), PATHS),
        st.frozensets(METHODS, max_size=2),
        st.dictionaries(st.sampled_from([b"x-a", b"x-b"]), st.sampled_from([None, b"1", b"2"])).map(
            lambda fields: tuple(fields.items())
        ),
    ),
    max_size=12,
)


def request(method: bytes, host: bytes, path: bytes, fields: dict[bytes, bytes]) -> RequestHead:
    head = RequestHead()
    head.method, head.host, head.target, head.notable = method, host, path, {}
    head.fields = b"".join([b"\r\n%b: %b" % pair for pair in fields.items()])
    return head


def rank_of_host(match: Match, host: bytes) -> int:
    """Higher is better; -1: it does not match."""
    if not match.host:
        return 0
    if match.host.startswith(b"*."):
        return len(match.host) if host.endswith(match.host[1:]) and len(host) > len(match.host) - 1 else -1
    return 1000 if match.host == host else -1


def rank_of_path(match: Match, path: bytes) -> int:
    """The same for the path."""
    wanted = comparable(match.path) if match.path else b"/"
    if wanted == b"/":
        return 0
    if wanted.endswith(b"/"):
        return wanted.count(b"/") if (path + b"/").startswith(wanted) else -1
    return 1000 if wanted == path else -1


def searched(routes: list[Match], head: RequestHead) -> int | None:
    """The place of the best route, by looking at all of them."""
    host, path = plain_host(head.host), comparable(head.target)
    fitting = [
        (-rank_of_host(one, host), -rank_of_path(one, path), not one.methods, -len(one.headers), place)
        for place, one in enumerate(routes)
        if rank_of_host(one, host) >= 0 and rank_of_path(one, path) >= 0 and one.method_and_headers_fit(head)
    ]
    return min(fitting)[-1] if fitting else None


class PropertyTests(SynchronousTestCase):
    @given(ROUTES, METHODS, HOSTS, PATHS, FIELDS)
    def test_table(
        self, routes: list[Match], method: bytes, host: bytes, path: bytes, fields: dict[bytes, bytes]
    ) -> None:
        """The route that is found is the best one of all."""
        head = request(method, host, path, fields)
        table = RouteTable([(one, place) for place, one in enumerate(routes)])
        self.assertEqual(table.find(head), searched(routes, head))

    @given(ROUTES)
    def test_shadowed(self, routes: list[Match]) -> None:
        """As by looking at all pairs of one host and path."""
        table = RouteTable([(one, place) for place, one in enumerate(routes)])
        found = dict(finish(table.shadowed()))
        order = sorted(enumerate(routes), key=lambda pair: (not pair[1].methods, -len(pair[1].headers), pair[0]))
        for at, (place, one) in enumerate(order):
            where = (one.host, comparable(one.path or b"/"))
            earlier = [(other, n) for n, other in order[:at] if (other.host, comparable(other.path or b"/")) == where]
            expected = [n for other, n in earlier if other.includes(one)]
            self.assertEqual(found.get(place), expected[0] if expected else None)

    @given(PATHS)
    def test_comparable(self, path: bytes) -> None:
        """The form of a path has itself as its form, and neither dots nor empty segments but for the last."""
        form = comparable(path)
        self.assertEqual(comparable(form), form)
        segments = form.split(b"/")
        self.assertEqual(segments[0], b"")
        self.assertNotIn(b"", segments[1:-1])
        self.assertFalse({b".", b".."} & set(segments))

    @given(PATHS, st.integers(1, 3))
    def test_prefix(self, path: bytes, count: int) -> None:
        """What is left of a path without a prefix means the same as the path without it."""
        form = comparable(path)
        segments = form.split(b"/")[1:]
        if len(segments) < count or b"" in segments[:count]:
            return
        prefix = b"/" + b"/".join(segments[:count])
        left = without_prefix(path + b"?q=//", prefix)
        self.assertEqual(comparable(left.removesuffix(b"?q=//")), b"/" + b"/".join(segments[count:]))
