"""The routes with the same host and path, among which methods and header fields decide.

Where there are many of them, most differ by one condition, such as the value of a field that names a tenant.  So each
is listed under the one of its conditions that the fewest others have, and a request is compared only with the routes
that are listed under its own method and fields.  A method is a condition on a field with an empty name.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from twisted_lb.routing.match import Match
from twisted_lb.steps import STEP, Steps
from twisted_lb.wire.field_value import field_names, field_value
from twisted_lb.wire.head import RequestHead

# Up to this many routes are compared one by one.
FEW: Final = 8

_METHOD: Final = b""


class Candidate:
    """A route among those with the same host and path."""

    __slots__ = ("match", "route", "path", "place", "rank")

    def __init__(self, match: Match, route: Any, path: bytes, place: int) -> None:
        """`path` is the path of the route, in the form in which paths are compared."""
        self.match = match
        self.route = route
        self.path = path
        self.place = place  # position in the file
        self.rank = 0  # among the candidates; the lowest comes first


class Candidates:
    """The routes with one host and path, in the order in which they are tried."""

    __slots__ = ("_all", "_listed", "_unconditional")

    def __init__(self) -> None:
        self._all: list[Candidate] = []
        # By the name of a field, or _METHOD, and its value, or None for any.
        self._listed: dict[bytes, dict[bytes | None, list[Candidate]]] = {}
        self._unconditional: Candidate | None = None  # the first one

    def add(self, candidate: Candidate) -> None:
        """Add a route, after those that were added before."""
        self._all.append(candidate)

    def arrange(self) -> None:
        """To be called when all have been added."""
        if len(self._all) < 2:
            return
        self._all.sort(key=_specificity)
        commonness = Counter(condition for one in self._all for condition in one.match.headers)
        for rank, one in enumerate(self._all):
            one.rank = rank
            if one.match.headers:
                self._list(one, min(one.match.headers, key=commonness.__getitem__))
            elif one.match.methods:
                for method in one.match.methods:
                    self._list(one, (_METHOD, method))
            elif self._unconditional is None:
                self._unconditional = one

    def _list(self, candidate: Candidate, condition: tuple[bytes, bytes | None]) -> None:
        name, value = condition
        self._listed.setdefault(name, {}).setdefault(value, []).append(candidate)

    def find(self, head: RequestHead) -> Candidate | None:
        """The first one that matches a request."""
        if len(self._all) <= FEW:
            for candidate in self._all:
                if candidate.match.method_and_headers_fit(head):
                    return candidate
            return None
        found = self._unconditional
        for candidates in self._listed_for(head):
            for candidate in candidates:
                if found is not None and candidate.rank > found.rank:
                    break
                if candidate.match.method_and_headers_fit(head):
                    found = candidate
                    break
        return found

    def _listed_for(self, head: RequestHead) -> list[list[Candidate]]:
        """All that have conditions and may match."""
        found = []
        # So neither many names in the routes nor many fields in the request make this slow.
        names = self._listed if len(self._listed) <= FEW else [_METHOD, *field_names(head)]
        for name in names:
            by_value = self._listed.get(name)
            value = head.method if name == _METHOD else field_value(head, name)
            if by_value is not None and value is not None:
                found += [by_value[key] for key in (value, None) if key in by_value]
        return found

    def shadowed(self) -> Steps[list[tuple[int, int]]]:
        """The routes that another one always precedes, each with that one; positions in the file."""
        found = []
        compared = 0
        for candidate in self._all:
            first = candidate
            for others in self._listed_before(candidate):
                for other in others:
                    compared += 1
                    if not compared % STEP:
                        yield
                    if other.rank >= first.rank:
                        break
                    if other.match.includes(candidate.match):
                        first = other
                        break
            if first is not candidate:
                found.append((candidate.place, first.place))
        return found

    def _listed_before(self, candidate: Candidate) -> list[list[Candidate]]:
        """All that may match every request that this one matches."""
        match = candidate.match
        found = [] if self._unconditional is None else [[self._unconditional]]
        for name, value in match.headers:
            by_value = self._listed.get(name, {})
            found += [by_value[key] for key in {value, None} if key in by_value]
        by_method = self._listed.get(_METHOD, {})
        # One that includes this one has all of its methods.
        of_methods = [by_method.get(method, []) for method in match.methods]
        if of_methods:
            found.append(min(of_methods, key=len))
        return found


def _specificity(candidate: Candidate) -> tuple[bool, int, int]:
    """Routes that name methods come first, then those that name more header fields, then the order of the file."""
    match = candidate.match
    return not match.methods, -len(match.headers), candidate.place
