"""Every compiled pattern of the package, how it is used, and inputs that would make a bad one backtrack.

The inputs are made from the pattern itself, as its parser sees it: in front of each repetition the shortest text
that leads there, then one of the texts that the repetition can take, over and over, then something that fits and
something that does not.  In addition, all pairs of bytes that the pattern distinguishes are tried.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from tests.linear.growth import Attack
from twisted_lb import __path__ as package_path

MANY = 8  # a repetition that may go on for longer than this is attacked
MOST_BYTES_APART = 14
METHODS = ("match", "fullmatch", "search", "split", "finditer", "findall", "sub")

Node = tuple[Any, Any]


class Found(NamedTuple):
    """A pattern and where it stands."""

    where: str
    pattern: re.Pattern[Any]


def modules() -> Iterator[Any]:
    """All modules of the package."""
    for info in pkgutil.walk_packages(package_path, "twisted_lb."):
        yield importlib.import_module(info.name)


def compiled_patterns() -> list[Found]:
    """All that the modules hold, in variables, containers and methods that are bound to a pattern."""
    found: dict[re.Pattern[Any], str] = {}
    for module in modules():
        for name, value in vars(module).items():
            for pattern in _patterns_in(value):
                found.setdefault(pattern, f"{module.__name__}.{name}")
    return [Found(where, pattern) for pattern, where in found.items()]


def _patterns_in(value: object, depth: int = 3) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(getattr(value, "__self__", None), re.Pattern):
        yield value.__self__  # type: ignore[attr-defined]
    elif depth and isinstance(value, dict):
        for one in value.values():
            yield from _patterns_in(one, depth - 1)
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for one in value:
            yield from _patterns_in(one, depth - 1)
    elif depth and isinstance(value, type) and value.__module__.startswith("twisted_lb."):
        # A model of pydantic builds its validator when that is looked at.
        for one in list(vars(value).values()):
            yield from _patterns_in(one, depth - 1)


def uses() -> dict[str, set[str]]:
    """The methods of patterns that the package calls, by the name that the pattern has there."""
    used: dict[str, set[str]] = {}
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in METHODS:
                name = node.value.id if isinstance(node.value, ast.Name) else ""
                if isinstance(node.value, ast.Call):
                    # Such as field_splitter(...).split.
                    name = node.value.func.id if isinstance(node.value.func, ast.Name) else ""
                used.setdefault(name, set()).add(node.attr)
    return used


def calls_of_re() -> Iterator[str]:
    """Calls of the module `re` that compile a pattern where nobody can find it."""
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id == "re" and node.func.attr in METHODS:
                    yield f"re.{node.func.attr} in line {node.lineno}"


def trees() -> Iterator[ast.Module]:
    """The syntax trees of all modules."""
    for file in sorted(Path(next(iter(package_path))).rglob("*.py")):
        yield ast.parse(file.read_text(encoding="utf-8"))


def attacks(pattern: re.Pattern[Any]) -> list[Attack]:
    """Inputs for one pattern; bytes are Latin-1 characters for a pattern of text."""
    nodes = list(_parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE if _is_bytes(pattern) else pattern.flags))
    apart = _bytes_apart(nodes)
    pumps = [bytes(pair) for length in (1, 2) for pair in product(apart, repeat=length)]
    found: dict[Attack, None] = {}
    lead_ins = {b"": None}
    for prefix, bodies in _repetitions(nodes, b""):
        lead_ins[prefix] = None
        for pump in [*bodies, *(a + b for a, b in product(bodies, repeat=2))]:
            for suffix in (b"", b"\x00", *(bytes([one]) for one in apart[:4])):
                found[Attack(prefix, pump, suffix)] = None
    for prefix, pump in product(lead_ins, pumps):
        found[Attack(prefix, pump, b"\x00")] = None
    # A search begins anew wherever what leads to a repetition stands.
    for prefix in lead_ins:
        found[Attack(b"", prefix, b"\x00")] = found[Attack(b"", prefix, b"")] = None
    return [attack for attack in found if attack.pump]


def _is_bytes(pattern: re.Pattern[Any]) -> bool:
    return isinstance(pattern.pattern, bytes)


def _repetitions(nodes: list[Node], prefix: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each long repetition: the shortest text that leads to it, and texts that it takes."""
    for op, argument in nodes:
        for inner in _inner(op, argument):
            yield from _repetitions(inner, prefix)
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT) and argument[1] > MANY:
            yield prefix, [text for text in _texts(list(argument[2])) if text][:6]
        prefix += _shortest([(op, argument)])


def _inner(op: Any, argument: Any) -> list[list[Node]]:
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        return [list(argument[2])]
    if op == sre.SUBPATTERN:
        return [list(argument[-1])]
    if op == sre.ATOMIC_GROUP:
        return [list(argument)]
    if op == sre.BRANCH:
        return [list(branch) for branch in argument[1]]
    return []


def _shortest(nodes: list[Node]) -> bytes:
    """A text that the nodes take, with as little as may be."""
    return b"".join(_of_node(op, argument, least=True)[0] for op, argument in nodes)


def _texts(nodes: list[Node]) -> list[bytes]:
    """Some texts that the nodes take, optional parts with and without."""
    texts = [b""]
    for op, argument in nodes:
        texts = [before + after for before in texts for after in _of_node(op, argument, least=False)][:12]
    return texts


def _of_node(op: Any, argument: Any, least: bool) -> list[bytes]:
    if op == sre.LITERAL:
        return [bytes([argument & 0xFF])]
    if op in (sre.IN, sre.NOT_LITERAL, sre.ANY):
        members = [byte for byte in range(256) if _takes(op, argument, byte)]
        return [bytes([members[0]])] if least else [bytes([members[0]]), bytes([members[-1]])]
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        low, _, inner = argument
        if least:
            return [_shortest(list(inner)) * low]
        return [text * max(low, times) for times in (low, 1) for text in _texts(list(inner))]
    branches = _inner(op, argument)
    if branches:
        return [_shortest(branches[0])] if least else [text for branch in branches for text in _texts(branch)]
    # An assertion takes nothing.
    return [b""]


def _takes(op: Any, argument: Any, byte: int) -> bool:
    if op == sre.ANY:
        return True
    if op == sre.NOT_LITERAL:
        return bool(byte != argument)
    if op == sre.LITERAL:
        return bool(byte == argument)
    found = False
    for kind, what in argument:
        if kind == sre.LITERAL:
            found |= byte == what
        elif kind == sre.RANGE:
            found |= what[0] <= byte <= what[1]
        elif kind == sre.CATEGORY:
            found |= re.match(r"\w" if what == sre.CATEGORY_WORD else r"\d", chr(byte), re.ASCII) is not None
    return found != any(kind == sre.NEGATE for kind, _ in argument)


def _bytes_apart(nodes: list[Node]) -> bytes:
    """One byte of each kind that the pattern tells from others."""
    tests = list(_single_bytes(nodes))
    kinds: dict[tuple[bool, ...], int] = {}
    for byte in [*range(0x20, 0x7F), *range(0x20), *range(0x7F, 0x100)]:
        kinds.setdefault(tuple(_takes(op, argument, byte) for op, argument in tests), byte)
    return bytes(list(kinds.values())[:MOST_BYTES_APART])


def _single_bytes(nodes: list[Node]) -> Iterator[Node]:
    for op, argument in nodes:
        if op in (sre.LITERAL, sre.NOT_LITERAL, sre.IN):
            yield op, argument
        for inner in _inner(op, argument):
            yield from _single_bytes(inner)
