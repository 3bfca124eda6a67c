"""Finds the route of a request among thousands, in a time that does not grow with them.

    exact host -> the wildcards that include it, longest first -> routes for any host
        exact path -> the prefixes of it, longest first -> routes for any path
            methods and header fields -> the order of the file

Where no route of a path matches the method and the header fields of the request, the search continues with the next
path, and then with the next host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from twisted_lb.routing.candidates import Candidate, Candidates
from twisted_lb.routing.match import Match
from twisted_lb.routing.path import comparable, path_of
from twisted_lb.steps import STEP, Steps, finish
from twisted_lb.wire.head import RequestHead

# A host has no more labels than this (RFC 1035 section 2.3.4).
MAX_LABELS: Final = 128


class _Paths:
    """The routes of one host."""

    __slots__ = ("exact", "prefixes", "any_path", "depth")

    def __init__(self) -> None:
        self.exact: dict[bytes, Candidates] = {}
        self.prefixes: dict[bytes, Candidates] = {}  # with a slash at the end
        self.any_path = Candidates()
        self.depth = 0  # segments of the longest prefix

    def add(self, candidate: Candidate) -> None:
        """Add a route, after those that were added before."""
        path = candidate.path
        if path == b"/":
            self.any_path.add(candidate)
        elif path.endswith(b"/"):
            self.prefixes.setdefault(path, Candidates()).add(candidate)
            self.depth = max(self.depth, path.count(b"/") - 1)
        else:
            self.exact.setdefault(path, Candidates()).add(candidate)

    def groups(self) -> Iterator[Candidates]:
        """The routes of each path."""
        yield from self.exact.values()
        yield from self.prefixes.values()
        yield self.any_path

    def find(self, head: RequestHead, path: bytes) -> Candidate | None:
        """The best route that matches; `path` is in its comparable form, empty for the target `*`."""
        found: Candidate | None
        if self.exact:
            candidates = self.exact.get(path)
            if candidates is not None and (found := candidates.find(head)) is not None:
                return found
        if self.depth and path:
            for prefix in prefixes_of(path, self.depth):
                candidates = self.prefixes.get(prefix)
                if candidates is not None and (found := candidates.find(head)) is not None:
                    return found
        return self.any_path.find(head)


class RouteTable:
    """The routes in the order of the file, each with its conditions."""

    def __init__(self, routes: Sequence[tuple[Match, Any]]) -> None:
        finish(self.build_in_steps(routes))

    @classmethod
    def in_steps(cls, routes: Sequence[tuple[Match, Any]]) -> Steps[RouteTable]:
        """The table, made in steps."""
        table = cls(())
        yield from table.build_in_steps(routes)
        return table

    def build_in_steps(self, routes: Sequence[tuple[Match, Any]]) -> Steps[None]:
        """Use these routes, in steps; the table must not be in use meanwhile."""
        self._hosts: dict[bytes, _Paths] = {}
        self._wildcards: dict[bytes, _Paths] = {}  # by the name with the dot before it
        self._any_host = _Paths()
        # The only route, if it matches every request.
        self.only: Any = routes[0][1] if len(routes) == 1 and routes[0][0].is_any else None
        for place, (match, route) in enumerate(routes):
            host = match.host
            if not host:
                paths = self._any_host
            elif host.startswith(b"*."):
                paths = self._wildcards.setdefault(host[1:], _Paths())
            else:
                paths = self._hosts.setdefault(host, _Paths())
            paths.add(Candidate(match, route, comparable(match.path or b"/"), place))
            if not place % STEP:
                yield
        count = 0
        for paths in self._all_paths():
            for candidates in paths.groups():
                candidates.arrange()
                count += 1
                if not count % STEP:
                    yield

    def find(self, head: RequestHead) -> Any:
        """The route of a request; None if there is none."""
        candidate = self.find_path(head, comparable(path_of(head.target)))
        return None if candidate is None else candidate.route

    def find_path(self, head: RequestHead, path: bytes) -> Candidate | None:
        """The same, as if the path were this one, in the form in which paths are compared; empty for the target `*`."""
        found: Candidate | None
        if self._hosts or self._wildcards:
            host = plain_host(head.host)
            paths = self._hosts.get(host)
            if paths is not None and (found := paths.find(head, path)) is not None:
                return found
            if self._wildcards:
                dot = host.find(b".")
                labels = 0
                while dot >= 0 and labels < MAX_LABELS:
                    # At least one label has to be in the place of the asterisk.
                    paths = self._wildcards.get(host[dot:]) if dot else None
                    if paths is not None and (found := paths.find(head, path)) is not None:
                        return found
                    dot = host.find(b".", dot + 1)
                    labels += 1
        return self._any_host.find(head, path)

    def shadowed(self) -> Steps[list[tuple[int, int]]]:
        """The routes that no request can reach, each with the one that takes its requests; positions in the file."""
        found = []
        count = 0
        for paths in self._all_paths():
            for candidates in paths.groups():
                found += yield from candidates.shadowed()
                count += 1
                if not count % STEP:
                    yield
        return sorted(found)

    def _all_paths(self) -> Iterator[_Paths]:
        yield from self._hosts.values()
        yield from self._wildcards.values()
        yield self._any_host


def plain_host(host: bytes) -> bytes:
    """A Host field's value in lower case, without a port and without a dot at the end."""
    if host.startswith(b"["):
        end = host.find(b"]")
        return host[: end + 1].lower() if end >= 0 else host.lower()
    colon = host.find(b":")
    if colon >= 0:
        host = host[:colon]
    host = host.lower()
    return host[:-1] if host.endswith(b".") else host


def prefixes_of(path: bytes, depth: int) -> list[bytes]:
    """The prefixes of a path of up to `depth` whole segments, longest first; `/a/b` has `/a/b/` and `/a/`."""
    found: list[bytes] = []
    end = 0
    while len(found) < depth:
        end = path.find(b"/", end + 1)
        if end < 0:
            if not path.endswith(b"/"):
                found.append(path + b"/")
            break
        found.append(path[: end + 1])
    found.reverse()
    return found
