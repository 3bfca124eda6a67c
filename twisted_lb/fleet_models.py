"""What servers.yaml may hold, as pydantic models: names, types and bounds of its keys.

The descriptions are what an error says was expected.  What is not in the file keeps the default of
`fleet_spec`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from reprlib import Repr
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from twisted_lb.environment import duration
from twisted_lb.fleet_spec import Ejection, FleetSpec, HealthCheck, Queue, Retries, ServerSpec

MAX_WEIGHT = 1000  # more would make round robin's ring long; nginx and HAProxy stop at 65535 and 256
MAX_SERVERS = 10_000
MAX_CONNECTIONS = 1_000_000
DEFAULT_BALANCER = "round_robin"
DEFAULT_PORT = 80
CLASS_FORM = "package.module:Class"

# A name, and the options that stand beside it.
Named = tuple[str, dict[str, Any]]

# http://host[:port]; a host of letters, digits, '-', '_' and '.', or an IPv6 address in brackets.
_URL = re.compile(r"http://(?:\[(?P<ipv6>[^\[\]/?#@]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?/?")
_LOOKS_LIKE_IPV4 = re.compile(r"[0-9.]+")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"
# Visible ASCII without '#': RFC 9112 section 3.2.1, with the query.
_PATH = r"^/[!\"$-~]{0,1023}$"
# Final statuses only: an interim response says nothing yet (RFC 9110 section 15.2).
_STATUS = re.compile(r"(?P<low>[2-5][0-9]{2})(?: ?- ?(?P<high>[2-5][0-9]{2}))?")
_STATUSES = "a status such as 200, a range such as '200-399', or a list of them, from 200 to 599"

shortened = Repr()
shortened.maxstring = shortened.maxother = 60


def location(url: str) -> tuple[str, int]:
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
    expected = f"expected http://host[:port], not {shortened.repr(url)}"
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
    location(url)
    return url


def _named(name: str, whose: str) -> BeforeValidator:
    """A name, or a mapping of name and options, as the two; errors expect `name`, or the key 'name' with `whose`."""

    def read(value: object) -> object:
        if isinstance(value, str) and value:
            return value, {}
        if not isinstance(value, dict):
            raise ValueError(f"expected {name}, or {{name: ..., and its options}}, not {shortened.repr(value)}")
        options = dict(value)
        word = options.pop("name", None)
        if not isinstance(word, str) or not word:
            raise ValueError(f"expected the key 'name' with {whose}")
        for key in options:
            if not isinstance(key, str) or not key.isidentifier():
                raise ValueError(f"expected names as the keys of options, not {shortened.repr(key)}")
        return word, options

    return BeforeValidator(read)


def _seconds(lowest: float) -> BeforeValidator:
    """A time as it is written in .env, or a number of seconds."""
    reader = duration(lowest)

    def read(value: object) -> object:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            try:
                return reader.read(str(value).strip())
            except ValueError:
                pass
        raise ValueError(f"expected {reader.expected}, not {shortened.repr(value)}")

    return BeforeValidator(read)


def _statuses(value: object) -> object:
    """Statuses and ranges of them as pairs of lowest and highest."""
    ranges = []
    for one in value if isinstance(value, list) else [value]:
        match = None if isinstance(one, bool) else _STATUS.fullmatch(str(one).strip())
        low, high = (int(match["low"]), int(match["high"] or match["low"])) if match else (1, 0)
        if low > high:
            raise ValueError(f"expected {_STATUSES}, not {shortened.repr(one)}")
        ranges.append((low, high))
    if not ranges:
        raise ValueError(f"expected {_STATUSES}, not {shortened.repr(value)}")
    return tuple(ranges)


def _whole(lowest: int, highest: int, default: int) -> Any:
    return Field(default, ge=lowest, le=highest, description=f"a whole number from {lowest} to {highest}")


def _share(default: float) -> Any:
    return Field(default, ge=0, le=1, description="a number from 0 to 1")


class Section(BaseModel):
    """A mapping in the file."""

    model_config = ConfigDict(extra="forbid", strict=True)


class HealthCheckModel(Section):
    """health_check: for all servers, or for one."""

    path: str = Field(
        default=HealthCheck.path,
        pattern=_PATH,
        description="a path such as /healthz, at most 1024 visible ASCII characters",
    )
    interval: Annotated[float, _seconds(0.1)] = HealthCheck.interval
    timeout: Annotated[float, _seconds(0.01)] = HealthCheck.timeout
    passes: int = _whole(1, 1000, HealthCheck.passes)
    fails: int = _whole(1, 1000, HealthCheck.fails)
    status: Annotated[tuple[tuple[int, int], ...], BeforeValidator(_statuses)] = HealthCheck.status


class EjectionModel(Section):
    """ejection:"""

    consecutive_failures: int = _whole(0, 1_000_000, Ejection.consecutive_failures)
    failure_share: float = _share(Ejection.failure_share)
    window: Annotated[float, _seconds(0.1)] = Ejection.window
    minimum_requests: int = _whole(1, 1_000_000, Ejection.minimum_requests)
    server_errors: bool = Field(default=Ejection.server_errors, description="true or false")
    base_time: Annotated[float, _seconds(0.1)] = Ejection.base_time
    max_time: Annotated[float, _seconds(0.1)] = Ejection.max_time
    max_share: float = _share(Ejection.max_share)


class RetriesModel(Section):
    """retries:"""

    attempts: int = _whole(1, 100, Retries.attempts)
    budget: float = _share(Retries.budget)
    min_per_second: float = Field(
        default=Retries.min_per_second, ge=0, le=1_000_000, description="a number from 0 to 1000000"
    )


class QueueModel(Section):
    """queue:"""

    size: int = _whole(0, 1_000_000, Queue.size)
    timeout: Annotated[float, _seconds(0.001)] = Queue.timeout


# What `false` becomes.
NO_CHECK = HealthCheckModel()
NO_EJECTION = EjectionModel(consecutive_failures=0, failure_share=0)


def _false_is(nothing: Section) -> BeforeValidator:
    def read(value: object) -> object:
        return nothing if value is False else value

    return BeforeValidator(read)


def _switched(what: str) -> Any:
    return Field(default=None, description=f"the keys of {what}, or false for none")


HealthCheckOrFalse = Annotated[HealthCheckModel | None, _false_is(NO_CHECK)]


class ServerModel(Section):
    """One of the servers."""

    name: str = Field(
        pattern=_NAME,
        description="a text of 1 to 64 letters, digits and . _ : -, such as server1",
    )
    url: Annotated[str, AfterValidator(_checked_url)] = Field(description="a text of the form http://host[:port]")
    weight: int = Field(1, ge=0, le=MAX_WEIGHT, description=f"a whole number from 0 (drain) to {MAX_WEIGHT}")
    maxconn: int = Field(
        ServerSpec.maxconn,
        ge=0,
        le=MAX_CONNECTIONS,
        description=f"a whole number from 0 (any number) to {MAX_CONNECTIONS}",
    )
    backup: bool = Field(ServerSpec.backup, description="true or false")
    slowstart: Annotated[float, _seconds(0)] = ServerSpec.slowstart
    health_check: HealthCheckOrFalse = _switched("a health check")


class FileModel(Section):
    """The whole file."""

    balancer: Annotated[Named, _named("a name", "the name of a balancer")] = Field(
        (DEFAULT_BALANCER, {}), description="a name, or {name: ..., and its options}"
    )
    pricing: Annotated[Named, _named(CLASS_FORM, f"{CLASS_FORM} of your own")] = Field(
        ("", {}), description=f"{CLASS_FORM}, or {{name: ..., and its options}}"
    )
    servers: list[ServerModel] = Field(
        min_length=1, max_length=MAX_SERVERS, description=f"a list of 1 to {MAX_SERVERS} servers"
    )
    health_check: HealthCheckOrFalse = _switched("a health check")
    ejection: Annotated[EjectionModel | None, _false_is(NO_EJECTION)] = _switched("ejection")
    panic_threshold: float = _share(FleetSpec.panic_threshold)
    retries: RetriesModel = Field(default=RetriesModel(), description="the keys of retries")
    queue: QueueModel = Field(default=QueueModel(), description="the keys of queue")


_INNER: dict[tuple[type[Section], str], type[Section]] = {
    (FileModel, "servers"): ServerModel,
    (FileModel, "health_check"): HealthCheckModel,
    (FileModel, "ejection"): EjectionModel,
    (FileModel, "retries"): RetriesModel,
    (FileModel, "queue"): QueueModel,
    (ServerModel, "health_check"): HealthCheckModel,
}


def section_of(path: tuple[str | int, ...]) -> tuple[type[Section], str]:
    """The section in which `path` stands, and its key there; "" when the section itself is wrong."""
    model: type[Section] = FileModel
    rest = list(path)
    while len(rest) > 1:
        inner = _INNER.get((model, str(rest[0])))
        if inner is None:
            break
        # A server stands at a position in a list.
        rest = rest[2:] if inner is ServerModel else rest[1:]
        model = inner
    return model, str(rest[0]) if rest else ""


def _plain(section: Section, kind: Callable[..., Any]) -> Any:
    return kind(**{one.name: getattr(section, one.name) for one in fields(kind)})  # type: ignore[arg-type]


def fleet_parts(file: FileModel) -> dict[str, Any]:
    """What the file says beside the balancer, the pricing and the servers, by the names of FleetSpec's fields."""
    return {
        "ejection": _plain(file.ejection or EjectionModel(), Ejection),
        "panic_threshold": file.panic_threshold,
        "retries": _plain(file.retries, Retries),
        "queue": _plain(file.queue, Queue),
    }


def server_spec(server: ServerModel, general: HealthCheckModel | None) -> ServerSpec:
    """The server, with what `general` says of its check and it does not say itself."""
    host, port = location(server.url)
    check = _check(server.health_check, general)
    return ServerSpec(
        server.name, server.url, host, port, server.weight, server.maxconn, server.backup, server.slowstart, check
    )


def _check(own: HealthCheckModel | None, general: HealthCheckModel | None) -> HealthCheck | None:
    if own is NO_CHECK:
        return None
    keys: dict[str, Any] = {}
    present = [section for section in (general, own) if section is not None and section is not NO_CHECK]
    for section in present:
        keys.update({name: getattr(section, name) for name in section.model_fields_set})
    return HealthCheck(**keys) if present else None
