"""Every pattern of the package takes linear time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from time import thread_time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.linear.growth import Attack, slow_size
from tests.linear.patterns import METHODS, attacks, calls_of_re, compiled_patterns, uses

SMALL = 1536  # bytes, for each attack
LARGE = 98_304  # for those that took longest there: more than any limit on a head
WORST = 3


def methods_of(where: str) -> Iterable[str]:
    """The methods that the package calls on the pattern of this name."""
    name = where.rpartition(".")[2]
    return uses_by_name.get(name, set()) or ({"split"} if name.startswith("_split") else set(METHODS))


uses_by_name = uses()


def act(pattern: re.Pattern[Any], method: str) -> Callable[[bytes], object]:
    """The method, used to its end, on the bytes or on their text."""
    text = isinstance(pattern.pattern, str)
    call = getattr(pattern, method)

    def use(data: bytes) -> object:
        given = data.decode("latin-1") if text else data
        return list(call(given)) if method == "finditer" else call(given)

    def replace(data: bytes) -> object:
        return pattern.sub("" if text else b"", data.decode("latin-1") if text else data)

    return replace if method == "sub" else use


def weakness(pattern: re.Pattern[Any], method: str) -> str | None:
    """An attack that makes the pattern slow, in words; None where there is none."""
    use = act(pattern, method)
    found = attacks(pattern)
    for attack in found:
        size = slow_size(use, attack, SMALL)
        if size is not None:
            return f"{attack} is slow at {size} bytes"
    for attack in sorted(found, key=lambda attack: steps(use, attack), reverse=True)[:WORST]:
        size = slow_size(use, attack, LARGE)
        if size is not None:
            return f"{attack} is slow at {size} bytes"
    return None


def steps(use: Callable[[bytes], object], attack: Attack) -> float:
    """How long an attack of the small size takes: only an order."""
    data = attack.of_size(SMALL)
    begun = thread_time()
    use(data)
    return thread_time() - begun


class PatternTests(SynchronousTestCase):
    def test_linear(self) -> None:
        """Each pattern takes time in proportion to its input, as each of its uses applies it."""
        found = compiled_patterns()
        self.assertGreater(len(found), 20)
        for where, pattern in found:
            for method in methods_of(where):
                self.assertIsNone(weakness(pattern, method), f"{where}.{method}")

    def test_found(self) -> None:
        """No pattern is compiled where this test would not see it."""
        self.assertEqual(list(calls_of_re()), [])

    def test_bad_ones(self) -> None:
        """Patterns that are cubic, quadratic or exponential are found to be."""
        quoted = rb'"(?:[^"\\]|\\.)*"'
        for pattern, method in (
            (
                rb"[ \t,]*([^ \t,;=\"]+)[ \t]*(?:=[ \t]*(%b|[^ \t,;\"]*))?[^,\"]*(?:%b[^,\"]*)*(?:,|$)"
                % (quoted, quoted),
                "finditer",
            ),
            (rb"(?:a+)+b", "match"),
            (rb"(?:ab|a|b)*-", "match"),
            (rb"[ \t]*([a-z]*)[a-z]*$", "match"),
            (rb"[!-~]++:", "search"),
            (rb'"(?>(?:[^"\\]|\\.)*)"', "search"),
            (rb"GET [^\n]*+HTTP", "search"),
        ):
            self.assertIsNotNone(weakness(re.compile(pattern), method), pattern)
