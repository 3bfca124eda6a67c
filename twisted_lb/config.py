"""servers.yaml as an immutable description of the fleet, or all that is wrong with it.

1. The text becomes plain data, with the line of each key.
2. pydantic holds the data against the models below, strictly.
3. Each of its complaints becomes a line that names the file, the line, the key as a path, and what was expected.

It is pure: text in, description out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from reprlib import Repr
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from twisted_lb.settings import Misconfigured
from twisted_lb.yaml_lines import Document, NotYaml, Path, read_yaml

MAX_WEIGHT = 1000  # more would make round robin's ring long; nginx and HAProxy stop at 65535 and 256
MAX_SERVERS = 10_000
DEFAULT_BALANCER = "round_robin"
DEFAULT_PORT = 80

# http://host[:port]; a host of letters, digits, '-', '_' and '.', or an IPv6 address in brackets.
_URL = re.compile(r"http://(?:\[(?P<ipv6>[^\[\]/?#@]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?/?")
_LOOKS_LIKE_IPV4 = re.compile(r"[0-9.]+")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"

_shortened = Repr()
_shortened.maxstring = _shortened.maxother = 60


@dataclass(frozen=True)
class ServerSpec:
    """One server: `host` is a name or an address without brackets, `weight` 0 drains."""

    name: str
    url: str
    host: str
    port: int
    weight: int = 1


@dataclass(frozen=True)
class FleetSpec:
    """The servers in the order of the file, and the word and the options of the balancer that chooses among them."""

    balancer: str
    options: Mapping[str, object]
    servers: tuple[ServerSpec, ...]


def read_fleet(text: str, file_name: str) -> FleetSpec:
    """The fleet that `text` describes.  Raises Misconfigured with every problem of the file."""
    try:
        document = read_yaml(text)
    except NotYaml as error:
        raise Misconfigured([f"{file_name}:{error.line}: this is not YAML that can be used: {error}"]) from None
    problems = [*_keys_twice(document), *_names_twice(document.data)]
    file: _File | None = None
    try:
        file = _File.model_validate(document.data)
    except ValidationError as error:
        problems.extend(_problem(complaint) for complaint in error.errors())
    if file is None or problems:
        problems.sort(key=lambda problem: document.line(problem.path))
        raise Misconfigured([_line(problem, document, file_name) for problem in problems])
    word, options = file.balancer
    return FleetSpec(word, MappingProxyType(options), tuple(_spec(server) for server in file.servers))


def _location(url: str) -> tuple[str, int]:
    """Host and port of a server's URL.  Raises ValueError."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(_why_no_url(url))
    port = int(match["port"]) if match["port"] else DEFAULT_PORT
    if not 1 <= port <= 65535:
        raise ValueError(f"expected a port from 1 to 65535, not {port}")
    try:
        if match["ipv6"]:
            return str(IPv6Address(match["ipv6"])), port
        if _LOOKS_LIKE_IPV4.fullmatch(match["host"]):
            return str(IPv4Address(match["host"])), port
    except AddressValueError as error:
        raise ValueError(f"expected an IP address: {error}") from None
    return match["host"], port


def _why_no_url(url: str) -> str:
    expected = f"expected http://host[:port], not {_shortened.repr(url)}"
    try:
        parts = urlsplit(url)
    except ValueError:
        return expected
    if parts.scheme == "https":
        return "https:// to a server is not supported yet; expected http://host[:port]"
    if parts.scheme != "http" or not parts.netloc:
        return expected
    if "@" in parts.netloc:
        return "expected http://host[:port] without user and password"
    for what, there in (("path", parts.path.strip("/")), ("query", parts.query), ("fragment", parts.fragment)):
        if there:
            return f"expected http://host[:port] without a {what}: a request keeps the target that the client sent"
    return expected


def _checked_url(url: str) -> str:
    _location(url)
    return url


def _balancer(value: object) -> object:
    """A name, or a mapping of name and options, as the two."""
    if isinstance(value, str) and value:
        return value, {}
    if not isinstance(value, dict):
        raise ValueError(f"expected a name, or {{name: ..., and its options}}, not {_shortened.repr(value)}")
    options = dict(value)
    word = options.pop("name", None)
    if not isinstance(word, str) or not word:
        raise ValueError("expected the key 'name' with the name of a balancer")
    for key in options:
        if not isinstance(key, str) or not key.isidentifier():
            raise ValueError(f"expected names as the keys of options, not {_shortened.repr(key)}")
    return word, options


class _Server(BaseModel):
    """The descriptions are what an error says was expected."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(
        pattern=_NAME,
        description="a text of 1 to 64 letters, digits and . _ : -, such as server1",
    )
    url: Annotated[str, AfterValidator(_checked_url)] = Field(description="a text of the form http://host[:port]")
    weight: int = Field(1, ge=0, le=MAX_WEIGHT, description=f"a whole number from 0 (drain) to {MAX_WEIGHT}")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    balancer: Annotated[tuple[str, dict[str, Any]], BeforeValidator(_balancer)] = Field(
        (DEFAULT_BALANCER, {}), description="a name, or {name: ..., and its options}"
    )
    servers: list[_Server] = Field(
        min_length=1, max_length=MAX_SERVERS, description=f"a list of 1 to {MAX_SERVERS} servers"
    )


def _spec(server: _Server) -> ServerSpec:
    host, port = _location(server.url)
    return ServerSpec(server.name, server.url, host, port, server.weight)


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


def _problem(complaint: Any) -> _Problem:
    """A complaint of pydantic's in the words of the file."""
    path: Path = complaint["loc"]
    kind = complaint["type"]
    model, key = (_Server, path[2:]) if path[:1] == ("servers",) and len(path) > 1 else (_File, path)
    if kind in ("extra_forbidden", "invalid_key"):
        known = list(model.model_fields)
        close = get_close_matches(str(key[0]), known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        return _Problem(path, f"there is no such key; {hint}")
    if kind == "value_error":
        return _Problem(path, str(complaint["ctx"]["error"]))
    if not key or key[0] not in model.model_fields:
        what = "name, url and weight of a server" if path else "the keys balancer and servers"
        return _Problem(path, f"expected {what}, not {_shortened.repr(complaint['input'])}")
    expected = model.model_fields[str(key[0])].description
    if kind == "missing":
        return _Problem(path, f"is missing; expected {expected}")
    return _Problem(path, f"expected {expected}, not {_shortened.repr(complaint['input'])}")


def _line(problem: _Problem, document: Document, file_name: str) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.path).lstrip(".")
    return f"{file_name}:{document.line(problem.path)}: {where + ': ' if where else ''}{problem.text}"
