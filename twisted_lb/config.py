"""servers.yaml as an immutable description of the fleet, or all that is wrong with it.

1. The text becomes plain data, with the line of each key.
2. pydantic holds the data against the models of `fleet_models`, strictly.
3. Each of its complaints becomes a line that names the file, the line, the key as a path, and what was expected.

It is pure: text in, description out.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from twisted_lb.fleet_models import FileModel, fleet_parts, section_of, server_spec, shortened
from twisted_lb.fleet_spec import FleetSpec, ServerSpec
from twisted_lb.settings import Misconfigured
from twisted_lb.yaml_lines import Document, NotYaml, Path, read_yaml

__all__ = ["FleetSpec", "ServerSpec", "line_of", "read_fleet"]


def read_fleet(text: str, file_name: str) -> FleetSpec:
    """The fleet that `text` describes.  Raises Misconfigured with every problem of the file."""
    try:
        document = read_yaml(text)
    except NotYaml as error:
        raise Misconfigured([f"{file_name}:{error.line}: this is not YAML that can be used: {error}"]) from None
    problems = [*_keys_twice(document), *_names_twice(document.data)]
    file: FileModel | None = None
    try:
        file = FileModel.model_validate(document.data)
    except ValidationError as error:
        problems.extend(_problem(complaint) for complaint in error.errors())
    if file is not None:
        problems.extend(_contradictions(file))
    if file is None or problems:
        problems.sort(key=lambda problem: document.line(problem.path))
        raise Misconfigured([_line(problem, document, file_name) for problem in problems])
    word, options = file.balancer
    pricing, pricing_options = file.pricing
    servers = tuple(server_spec(server, file.health_check) for server in file.servers)
    return FleetSpec(
        word,
        MappingProxyType(options),
        servers,
        pricing=pricing,
        pricing_options=MappingProxyType(pricing_options),
        **fleet_parts(file),
    )


def line_of(text: str, key: str) -> int:
    """The line of a key at the top of a file that can be read; 1 when it is not there."""
    return read_yaml(text).line((key,))


class _Problem(NamedTuple):
    path: Path
    text: str


def _keys_twice(document: Document) -> Iterator[_Problem]:
    for path, first in document.twice:
        yield _Problem(path, f"this key is there twice, first on line {first}")


def _names_twice(data: object) -> Iterator[_Problem]:
    servers = data.get("servers") if isinstance(data, dict) else None
    first: dict[str, int] = {}
    for index, server in enumerate(servers if isinstance(servers, list) else ()):
        name = server.get("name") if isinstance(server, dict) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield _Problem(("servers", index, "name"), f"{name!r} is the name of servers[{first[name]}] already")


def _contradictions(file: FileModel) -> Iterator[_Problem]:
    """Keys that are right by themselves, and not together."""
    ejection = file.ejection
    if ejection is not None and ejection.max_time < ejection.base_time:
        expected = f"expected at least base_time, which is {ejection.base_time:g} s"
        yield _Problem(("ejection", "max_time"), f"{expected}, not {ejection.max_time:g} s")


def _problem(complaint: Any) -> _Problem:
    """A complaint of pydantic's in the words of the file."""
    path: Path = complaint["loc"]
    kind = complaint["type"]
    section, key = section_of(path)
    keys = section.model_fields
    if kind in ("extra_forbidden", "invalid_key"):
        close = get_close_matches(key, list(keys), 1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(keys)}"
        return _Problem(path, f"there is no such key; {hint}")
    if kind == "value_error":
        return _Problem(path, str(complaint["ctx"]["error"]))
    if path and isinstance(path[-1], int):
        return _Problem(path, f"expected name, url and weight of a server, not {shortened.repr(complaint['input'])}")
    if not path:
        return _Problem(path, f"expected the keys balancer and servers, not {shortened.repr(complaint['input'])}")
    expected = keys[key].description
    if kind == "missing":
        return _Problem(path, f"is missing; expected {expected}")
    return _Problem(path, f"expected {expected}, not {shortened.repr(complaint['input'])}")


def _line(problem: _Problem, document: Document, file_name: str) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.path).lstrip(".")
    return f"{file_name}:{document.line(problem.path)}: {where + ': ' if where else ''}{problem.text}"
