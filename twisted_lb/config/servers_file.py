"""servers.yaml as an immutable description of pools and routes, or all errors in it.

1. The text is parsed to plain data, with the line of each key.
2. pydantic validates the data with the models of `servers_schema`, strictly.
3. Each validation error becomes a message with the file, the line, the key as a path, and the expected value.

No I/O except for the files of `tls`, which belong to the configuration, and are read by a function that is passed in.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError

from twisted_lb.config.edits import Edit, edited
from twisted_lb.config.gateway import GatewaySpec, RouteSpec
from twisted_lb.config.limits_schema import LimitModel
from twisted_lb.config.pool import ONLY_POOL, PoolSpec
from twisted_lb.config.references import ReadSecret, References
from twisted_lb.config.route_values import normalized_text
from twisted_lb.config.routes_schema import RouteModel
from twisted_lb.config.secret_files import read_secret
from twisted_lb.config.sections import NAME_FORM, keys_of
from twisted_lb.config.server_tls import ReadFile, ServersTls, read_file
from twisted_lb.config.server_url import is_https, shortened
from twisted_lb.config.servers_schema import (
    FileModel,
    PoolModel,
    TlsModel,
    section_of,
)
from twisted_lb.config.servers_specs import (
    Keys,
    cors_of,
    discover_spec,
    limit_specs,
    name_from_url,
    pool_parts,
    route_name,
    route_spec,
    server_spec,
)
from twisted_lb.config.settings import Misconfigured
from twisted_lb.config.yaml_lines import Document, NotYaml, Path, read_yaml

# The keys of a pool that may name custom classes.
CLASSES = ("balancer", "pricing", "hooks")

# The lines of these keys and their places in the file, by the name of the pool and the key; those of routes by
# `place_of_route`.
Lines = dict[tuple[str, str], tuple[int, str]]

_WHY_NOT_NULL = "every sandboxed page has the origin null"
_WHY_NOT_ANY = "with credentials browsers do not treat '*' as a wildcard"


class InvalidYaml(Misconfigured):
    """The text is not YAML."""


def read_gateway(text: str, file_name: str, read: ReadFile = read_file) -> GatewaySpec:
    """The pools and routes that `text` describes.  Raises Misconfigured with every problem of the file.

    `read` returns the contents of the files that it names; their paths are relative to the directory of the file.
    """
    return read_with_lines(text, file_name, read)[0]


def read_with_lines(text: str, file_name: str, read: ReadFile = read_file) -> tuple[GatewaySpec, Lines]:
    """The same, with the lines of the keys that name classes."""
    try:
        document = read_yaml(text)
    except NotYaml as error:
        raise InvalidYaml([f"{file_name}:{error.line}: invalid YAML: {error}"]) from None
    directory = os.path.dirname(os.path.abspath(file_name))
    references = References(os.environ, directory, _secrets(read))
    data = references.replaced(document.data)
    problems = [*_keys_twice(document), *_names_twice(data)]
    file: FileModel | None = None
    try:
        file = FileModel.model_validate(data)
    except ValidationError as error:
        problems.extend(_problem(complaint) for complaint in error.errors())
    pools: list[PoolSpec] = []
    places: dict[str, Path] = {}
    if file is not None:
        problems.extend(_of_file(file))
        places = {name: ("pools", name) for name in file.pools or {}} or {ONLY_POOL: ()}
        tls = ServersTls(directory, read)
        models: dict[str, PoolModel | FileModel] = {**file.pools} if file.pools else {ONLY_POOL: file}
        for name, pool in models.items():
            problems.extend(_of_pool(pool, places[name]))
            pools.append(_pool(name, pool, file, tls, places[name], directory))
        if not any(map(_may_need_tls, models.values())):
            tls.not_needed(file.tls, ("tls",))
        problems.extend(_Problem(*problem) for problem in tls.problems)
        problems.extend(_of_limits(file, pools))
    if file is None or problems or references.problems:
        others = [problem for problem in problems if not references.concerns(problem.path)]
        problems = [_Problem(path, references.hidden(path, text)) for path, text in others]
        problems += [_Problem(*one) for one in references.problems]
        problems.sort(key=lambda problem: document.line(problem.path))
        raise Misconfigured([_line(problem, document, file_name) for problem in problems])
    routes = tuple(map(route_spec, file.routes)) if file.routes else (RouteSpec(pools[0].name, "/"),)
    of_all = limit_specs(file.global_limits)
    spec = GatewaySpec(tuple(pools), routes, cors_of(file), of_all, references.files, references.values)
    lines = {(name, key): _class_place(document, places[name], key) for name in places for key in CLASSES}
    for index, route in enumerate(routes):
        if route.hooks is not None:
            lines[place_of_route(index), "hooks"] = _class_place(document, ("routes", index), "hooks")
    return spec, lines


def place_of_route(index: int) -> str:
    """The place of a route in the file, which is not a valid name of a pool."""
    return f"routes[{index}]"


def edited_text(text: str, edit: Edit, file_name: str, read: ReadFile = read_file) -> str:
    """The text with one change.  Raises NotEditable; `read` is as for `read_gateway`."""
    references = References(os.environ, os.path.dirname(os.path.abspath(file_name)), _secrets(read))
    return edited(text, edit, references.replaced)


def server_problems(keys: Mapping[str, object]) -> list[str]:
    """What is wrong with these keys of a server, each as its key and the expectation.

    Problems that only the whole file shows, such as files that cannot be read, are not found.
    """
    try:
        FileModel.model_validate({"servers": [keys]})
    except ValidationError as error:
        problems = map(_problem, error.errors())
        return [f"{_dotted(problem.path[2:])}: {problem.text}".removeprefix(": ") for problem in problems]
    return []


def _class_place(document: Document, place: Path, key: str) -> tuple[int, str]:
    """The line and the place of a key of the pool at `place`; it may be among those of all pools."""
    found = next((path for path in ((*place, key), (key,)) if path in document.lines), (*place, key))
    return document.line(found), _dotted(found)


def _secrets(read: ReadFile) -> ReadSecret:
    """Reads secrets.  A worker gets what its parent has read, since it may not have the right to read the files."""
    if read is read_file:
        return read_secret
    return lambda path: read(path)


def _pool(
    name: str, pool: PoolModel | FileModel, file: FileModel, tls: ServersTls, place: Path, directory: str
) -> PoolSpec:
    keys = Keys(pool, file)
    general: list[tuple[TlsModel | None, Path]] = [(file.tls, ("tls",))]
    if pool is not file:
        general.append((pool.tls, (*place, "tls")))
        if not _may_need_tls(pool):
            tls.not_needed(pool.tls, (*place, "tls"))
    servers = tuple(
        server_spec(server, keys, tls.of(server, (*place, "servers", index), general))
        for index, server in enumerate(pool.servers or ())
    )
    discover = discover_spec(
        pool.discover,
        directory,
        lambda server: server_spec(server, keys, tls.of(server, (*place, "servers", len(servers)), general)),
    )
    return PoolSpec(servers=servers, name=name, discover=discover, **pool_parts(keys))


def _may_need_tls(pool: PoolModel | FileModel) -> bool:
    """Whether it has https:// servers, or may find some."""
    listed = pool.discover is not None and pool.discover.file
    return bool(listed) or any(is_https(server.url) for server in pool.servers or ())


class _Problem(NamedTuple):
    path: Path
    text: str


def _keys_twice(document: Document) -> Iterator[_Problem]:
    for path, first in document.twice:
        yield _Problem(path, f"duplicate key, first on line {first}")


def _names_twice(data: object) -> Iterator[_Problem]:
    """Repeated names of servers of one pool, and of routes; also found in a file with other problems."""
    file = data if isinstance(data, dict) else {}
    pools = file.get("pools")
    lists: list[tuple[Path, object]] = [(("servers",), file.get("servers")), (("routes",), file.get("routes"))]
    for name, pool in pools.items() if isinstance(pools, dict) else ():
        lists.append((("pools", name, "servers"), pool.get("servers") if isinstance(pool, dict) else None))
    for place, members in lists:
        first: dict[str, int] = {}
        for index, member in enumerate(members if isinstance(members, list) else ()):
            name = member.get("name") if isinstance(member, dict) else None
            given = isinstance(name, str)
            if not given:
                url = member.get("url") if isinstance(member, dict) else None
                name = name_from_url(url) if isinstance(url, str) else None
            if not isinstance(name, str) or first.setdefault(name, index) == index:
                continue
            other = f"{place[-1]}[{first[name]}]"
            if given:
                yield _Problem((*place, index, "name"), f"{name!r} is already the name of {other}")
            else:
                yield _Problem((*place, index), f"expected a name: {name!r}, from its url, is already that of {other}")


def _of_file(file: FileModel) -> Iterator[_Problem]:
    """Keys that are valid by themselves, but not together."""
    if file.pools is None:
        if file.servers is None and (file.discover is None or not file.discover.file):
            yield _Problem((), "expected the key servers, or pools and routes")
        if file.routes is not None:
            yield _Problem(("routes",), "expected pools beside it, with the pools that routes lead to")
    else:
        for key in ("servers", "discover"):
            if getattr(file, key) is not None:
                yield _Problem((key,), "expected in one of the pools, where there are pools")
        if file.routes is None and len(file.pools) > 1:
            yield _Problem(("pools",), "expected routes beside it, which say what requests go to which pool")
        yield from _of_routes(file.routes or [], file.pools)
    cors = file.cors
    if cors is not None and cors.allow_credentials:
        for key in ("allowed_origins", "exposed_headers"):
            for open_to_all in {"*", "null"}.intersection(getattr(cors, key)):
                expected = "expected names when allow_credentials is set"
                why = _WHY_NOT_NULL if open_to_all == "null" else _WHY_NOT_ANY
                yield _Problem(("cors", key), f"{expected}, not {open_to_all!r}: {why}")


def _of_routes(routes: Sequence[RouteModel], pools: Collection[str]) -> Iterator[_Problem]:
    for index, route in enumerate(routes):
        yield from _of_route(route, ("routes", index))
        named: dict[Path, str] = {("pool",): route.pool} if route.pool else {}
        if route.split is not None:
            named.update({("split", "pools", name): name for name in route.split.pools})
        if route.mirror is not None:
            named["mirror",] = route.mirror.pool
        for key, name in named.items():
            if name not in pools:
                close = get_close_matches(name, list(pools), 1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected one of {shortened.repr(list(pools))}"
                yield _Problem(("routes", index, *key), f"there is no pool {name!r}; {hint}")


def _of_route(route: RouteModel, place: Path) -> Iterator[_Problem]:
    ends = [key for key in ("pool", "split", "respond", "redirect") if getattr(route, key)]
    if len(ends) > 1:
        yield _Problem((*place, ends[1]), f"expected without {ends[0]}: a request has one end")
    elif not ends and not route.maintenance:
        yield _Problem(place, "expected one of the keys pool, split, respond and redirect")
    if route.split is not None and not any(route.split.pools.values()):
        yield _Problem((*place, "split", "pools"), "expected a number above 0 for one of the pools")
    if not route.pool and route.split is None:
        for key in ("timeout", "retries", "max_body", "strip_prefix", "request_headers", "hooks", "mirror"):
            if key in route.model_fields_set:
                yield _Problem((*place, key), "expected only with a pool")
    elif route.mirror is not None and route.mirror.pool == route.pool:
        yield _Problem((*place, "mirror"), f"expected another pool than {route.pool!r}, which has the requests already")
    respond = route.respond
    if respond is not None and 300 <= respond.status < 400:
        yield _Problem((*place, "respond", "status"), "expected none from 300 to 399, which is for redirect")
    elif respond is not None and respond.body and respond.status in (204, 205):
        yield _Problem((*place, "respond", "body"), f"expected no body with the status {respond.status}")
    prefix = route.strip_prefix
    if prefix and not f"{normalized_text(route.path)}/".startswith(f"{prefix}/"):
        yield _Problem((*place, "strip_prefix"), f"expected the beginning of path, which is {route.path!r}")


def _of_limits(file: FileModel, pools: Sequence[PoolSpec]) -> Iterator[_Problem]:
    """Buckets have the names of routes and pools, and refusals name the limit: neither may be ambiguous."""
    yield from _same_limits(("global_limits",), file.global_limits, {})
    of_all = {limit.name: "one of global_limits" for limit in file.global_limits}
    yield from _same_limits(("limits",), file.limits, dict(of_all))
    for name, pool in (file.pools or {}).items():
        yield from _same_limits(("pools", name, "limits"), pool.limits, dict(of_all))
    limits_of = {pool.name: {limit.name: f"a limit of the pool {pool.name}" for limit in pool.limits} for pool in pools}
    names: dict[str, int] = {}
    for index, route in enumerate(file.routes or []):
        if not route.limits:
            continue
        name = route_name(route)
        if names.setdefault(name, index) != index:
            other = f"routes[{names[name]}]"
            yield _Problem(
                ("routes", index), f"expected a name: with limits, {name!r} is already that of {other}, which has some"
            )
        taken: dict[str, str] = dict(of_all)
        for pool_name in route.split.pools if route.split is not None else [route.pool]:
            taken.update(limits_of.get(pool_name, {}))
        yield from _same_limits(("routes", index, "limits"), route.limits, taken)


def _same_limits(place: Path, limits: Iterable[LimitModel], taken: dict[str, str]) -> Iterator[_Problem]:
    """Names that occur twice, or are in `taken`, which has the owner of each."""
    for index, limit in enumerate(limits):
        if limit.name in taken:
            yield _Problem((*place, index, "name"), f"{limit.name!r} is already the name of {taken[limit.name]}")
        taken.setdefault(limit.name, _dotted((*place, index)))


def _of_pool(pool: PoolModel | FileModel, place: Path) -> Iterator[_Problem]:
    if place and pool.servers is None and (pool.discover is None or not pool.discover.file):
        yield _Problem(place, "expected the key servers, or discover with a file")
    ejection = pool.ejection
    if ejection is not None and ejection.max_time < ejection.base_time:
        expected = f"expected at least base_time, which is {ejection.base_time:g} s"
        yield _Problem((*place, "ejection", "max_time"), f"{expected}, not {ejection.max_time:g} s")


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
    if path and path[-1] == "[key]":
        return _Problem(path[:-1], f"expected {NAME_FORM} as the name of a pool, not {path[-2]!r}")
    if path and not key:
        return _Problem(path, f"expected {keys_of(section)}, not {shortened.repr(complaint['input'])}")
    if not path:
        return _Problem(path, f"expected the keys balancer and servers, not {shortened.repr(complaint['input'])}")
    expected = keys[key].description
    if kind == "missing":
        return _Problem(path, f"is missing; expected {expected}")
    return _Problem(path, f"expected {expected}, not {shortened.repr(complaint['input'])}")


def problem_in_list(complaint: Any, index: int) -> tuple[Path, str]:
    """A validation error of pydantic in an entry of a list of servers in a file of its own."""
    problem = _problem({**complaint, "loc": ("servers", index, *complaint["loc"])})
    return problem.path[1:], problem.text


def shown_problem(path: Path, text: str, document: Document, file_name: str) -> str:
    """A problem with its file, line and place."""
    return _line(_Problem(path, text), document, file_name)


def _line(problem: _Problem, document: Document, file_name: str) -> str:
    where = _dotted(problem.path)
    return f"{file_name}:{document.line(problem.path)}: {where + ': ' if where else ''}{problem.text}"


def _dotted(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
