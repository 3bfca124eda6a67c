"""A list of servers in a file of its own, which other programs write: `discover: {file: ...}` of servers.yaml.

    ["10.0.0.7:8000", "https://10.0.0.8", {"url": "http://10.0.0.9:8000", "name": "gpu9", "weight": 2}]

It is JSON or YAML.  An entry may have the keys of a server except `tls`: only servers.yaml decides what is trusted, and
which files are read.  The default name is host and port.

The result is plain: each entry as a JSON object, which needs no further validation (`discovery.expansion`).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from pydantic import Field, ValidationError

from twisted_lb.backend import place_of
from twisted_lb.config.server_url import DEFAULT_PORTS, is_https, is_srv, location, shortened
from twisted_lb.config.servers_file import problem_in_list, shown_problem
from twisted_lb.config.servers_schema import MAX_SERVERS, NO_CHECK, ServerModel
from twisted_lb.config.settings import Misconfigured
from twisted_lb.config.yaml_lines import Document, NotYaml, Path, read_yaml
from twisted_lb.steps import STEP, Steps, finish

ENTRY_FORM: Final = "a URL, host:port, or {url: ..., name: ..., weight: ...}"
LIST_FORM: Final = f"a list of at most {MAX_SERVERS} servers, each as {ENTRY_FORM}"


class EntryModel(ServerModel):
    """An entry; its name may be absent."""

    name: str = Field(default="", pattern=ServerModel.model_fields["name"].metadata[0].pattern)


def read_list(text: str, file_name: str, taken: Collection[str] = ()) -> tuple[str, ...]:
    """The servers of a list; `taken` are names of others.  Raises Misconfigured with every problem."""
    return finish(read_list_in_steps(text, file_name, taken))


def read_list_in_steps(text: str, file_name: str, taken: Collection[str] = ()) -> Steps[tuple[str, ...]]:
    """The same in steps; the first one parses the text, which is fast for JSON only."""
    document, data = _parsed(text, file_name)
    problems: list[tuple[Path, str]] = []
    if not isinstance(data, list) or len(data) > MAX_SERVERS:
        found = f"{len(data)} entries" if isinstance(data, list) else shortened.repr(data)
        raise Misconfigured([f"{file_name}:1: expected {LIST_FORM}, not {found}"])
    entries: list[str] = []
    first: dict[str, int] = {}
    for index, value in enumerate(data):
        if index % STEP == STEP - 1:
            yield
        try:
            entry = EntryModel.model_validate(_as_mapping(value))
        except ValidationError as error:
            problems += [problem_in_list(complaint, index) for complaint in error.errors()]
            continue
        name = entry.name or _default_name(entry.url)
        if "tls" in entry.model_fields_set:
            problems.append(((index, "tls"), "expected in servers.yaml, for the pool, and not in a list"))
        if name in taken:
            problems.append(((index, "name"), f"{name!r} is already the name of a server of servers.yaml"))
        elif first.setdefault(name, index) != index:
            problems.append(((index, "name"), f"{name!r} is already the name of [{first[name]}]"))
        entries.append(json.dumps(_plain(entry, name)))
    if document is not None:
        problems += [(path, f"duplicate key, first on line {line}") for path, line in document.twice]
    if problems:
        document = document or read_yaml(text)
        problems.sort(key=lambda problem: document.line(problem[0]))
        raise Misconfigured([shown_problem(path, what, document, file_name) for path, what in problems])
    return tuple(entries)


def _parsed(text: str, file_name: str) -> tuple[Document | None, Any]:
    try:
        return None, json.loads(text, object_pairs_hook=_without_twice)
    except ValueError:
        # YAML, or JSON with a problem that has a line.
        pass
    try:
        document = read_yaml(text)
    except NotYaml as error:
        raise Misconfigured([f"{file_name}:{error.line}: invalid JSON or YAML: {error}"]) from None
    return document, document.data


def _without_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _as_mapping(value: object) -> object:
    if not isinstance(value, str):
        return value
    return {"url": value if "://" in value else f"http://{value}"}


def _default_name(url: str) -> str:
    host, port = location(url)
    return host if is_srv(url) else place_of(host, port or DEFAULT_PORTS["https" if is_https(url) else "http"])


def _plain(entry: EntryModel, name: str) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": name, "url": entry.url}
    for key in entry.model_fields_set - {"name", "url", "tls"}:
        value = getattr(entry, key)
        if key == "health_check" and value is not None:
            value = None if value is NO_CHECK else value.model_dump(exclude_unset=True)
        elif value is None:
            continue
        plain[key] = value
    return plain
