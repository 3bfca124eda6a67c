"""servers.yaml as an immutable description of the pool, or all errors in it.

1. The text is parsed to plain data, with the line of each key.
2. pydantic validates the data with the models of `servers_schema`, strictly.
3. Each validation error becomes a message with the file, the line, the key as a path, and the expected value.

No I/O but the files of `tls`, which belong to the configuration, and are read by a function that is passed in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from twisted_lb.config.pool import PoolSpec, ServerSpec
from twisted_lb.config.server_tls import ReadFile, ServersTls, read_file
from twisted_lb.config.server_url import shortened
from twisted_lb.config.servers_schema import (
    FileModel,
    ServerModel,
    keys_of,
    pool_parts,
    section_of,
    server_spec,
)
from twisted_lb.config.settings import Misconfigured
from twisted_lb.config.yaml_lines import Document, NotYaml, Path, read_yaml

__all__ = ["PoolSpec", "ServerSpec", "line_of", "read_pool", "read_with_lines"]

# The keys that may name custom classes.
CLASSES = ("balancer", "pricing")

_WHY_NOT_NULL = "every sandboxed page has the origin null"
_WHY_NOT_ANY = "with credentials browsers do not treat '*' as a wildcard"


def read_pool(text: str, file_name: str, read: ReadFile = read_file) -> PoolSpec:
    """The pool that `text` describes.  Raises Misconfigured with every problem of the file.

    `read` returns the contents of the files that it names; their paths are relative to the directory of the file.
    """
    return read_with_lines(text, file_name, read)[0]


def read_with_lines(text: str, file_name: str, read: ReadFile = read_file) -> tuple[PoolSpec, dict[str, int]]:
    """The same, with the lines of the keys that name classes."""
    try:
        document = read_yaml(text)
    except NotYaml as error:
        raise Misconfigured([f"{file_name}:{error.line}: invalid YAML: {error}"]) from None
    problems = [*_keys_twice(document), *_names_twice(document.data)]
    file: FileModel | None = None
    try:
        file = FileModel.model_validate(document.data)
    except ValidationError as error:
        problems.extend(_problem(complaint) for complaint in error.errors())
    servers: list[ServerSpec] = []
    if file is not None:
        problems.extend(_contradictions(file))
        tls = ServersTls(file, os.path.dirname(os.path.abspath(file_name)), read)
        servers = [
            server_spec(server, file, tls.of(server, index)) for index, server in enumerate(file.servers)
        ]
        problems.extend(_Problem(*problem) for problem in tls.problems)
    if file is None or problems:
        problems.sort(key=lambda problem: document.line(problem.path))
        raise Misconfigured([_line(problem, document, file_name) for problem in problems])
    word, options = file.balancer
    pricing, pricing_options = file.pricing
    spec = PoolSpec(
        word,
        MappingProxyType(options),
        tuple(servers),
        pricing=pricing,
        pricing_options=MappingProxyType(pricing_options),
        **pool_parts(file),
    )
    return spec, {key: document.line((key,)) for key in CLASSES}


def line_of(text: str, key: str) -> int:
    """The line of a top-level key of a valid file; 1 when it is absent."""
    return read_yaml(text).line((key,))


class _Problem(NamedTuple):
    path: Path
    text: str


def _keys_twice(document: Document) -> Iterator[_Problem]:
    for path, first in document.twice:
        yield _Problem(path, f"duplicate key, first on line {first}")


def _names_twice(data: object) -> Iterator[_Problem]:
    servers = data.get("servers") if isinstance(data, dict) else None
    first: dict[str, int] = {}
    for index, server in enumerate(servers if isinstance(servers, list) else ()):
        name = server.get("name") if isinstance(server, dict) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield _Problem(("servers", index, "name"), f"{name!r} is already the name of servers[{first[name]}]")


def _contradictions(file: FileModel) -> Iterator[_Problem]:
    """Keys that are valid by themselves, but not together."""
    ejection = file.ejection
    if ejection is not None and ejection.max_time < ejection.base_time:
        expected = f"expected at least base_time, which is {ejection.base_time:g} s"
        yield _Problem(("ejection", "max_time"), f"{expected}, not {ejection.max_time:g} s")
    cors = file.cors
    if cors is not None and cors.allow_credentials:
        for key in ("allowed_origins", "exposed_headers"):
            for open_to_all in {"*", "null"}.intersection(getattr(cors, key)):
                expected = "expected names when allow_credentials is set"
                why = _WHY_NOT_NULL if open_to_all == "null" else _WHY_NOT_ANY
                yield _Problem(("cors", key), f"{expected}, not {open_to_all!r}: {why}")


def _problem(complaint: Any) -> _Problem:
    """A validation error of pydantic in the terms of the file."""
    path: Path = complaint["loc"]
    kind = complaint["type"]
    section, key = section_of(path)
    keys = section.model_fields
    if kind in ("extra_forbidden", "invalid_key"):
        close = get_close_matches(key, list(keys), 1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(keys)}"
        return _Problem(path, f"unknown key; {hint}")
    if kind == "value_error":
        return _Problem(path, str(complaint["ctx"]["error"]))
    if path and isinstance(path[-1], int):
        return _Problem(path, f"expected {keys_of(ServerModel)}, not {shortened.repr(complaint['input'])}")
    if not path:
        return _Problem(path, f"expected the keys balancer and servers, not {shortened.repr(complaint['input'])}")
    expected = keys[key].description
    if kind == "missing":
        return _Problem(path, f"is missing; expected {expected}")
    return _Problem(path, f"expected {expected}, not {shortened.repr(complaint['input'])}")


def _line(problem: _Problem, document: Document, file_name: str) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.path).lstrip(".")
    return f"{file_name}:{document.line(problem.path)}: {where + ': ' if where else ''}{problem.text}"
