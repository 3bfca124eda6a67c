"""The schema of servers.yaml as pydantic models: names, types and bounds of its keys.

The descriptions are used in error messages, after "expected".  Absent keys have the defaults of `config.pool`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import core_schema

from twisted_lb.config.cors import Cors
from twisted_lb.config.cors_values import header_names, methods, origins
from twisted_lb.config.header_rules import HeaderRulesModel
from twisted_lb.config.limits_schema import GlobalLimitModel, PoolLimitModel, RouteLimitModel, limits_field
from twisted_lb.config.pool import (
    ADMIN_STATES,
    READY,
    Discover,
    Ejection,
    HealthCheck,
    PoolSpec,
    Queue,
    Retries,
    ServerSpec,
)
from twisted_lb.config.routes_schema import (
    MirrorModel,
    RedirectModel,
    RespondModel,
    RouteModel,
    RouteRetriesModel,
    SplitModel,
)
from twisted_lb.config.sections import (
    CLASS_FORM,
    HOOKS_FORM,
    NAME,
    NAME_FORM,
    HooksNamed,
    Maintenance,
    Named,
    Reading,
    Section,
    keys_of,
    named,
    seconds,
    share,
    whole,
)
from twisted_lb.config.server_url import SERVER_NAME, URL_FORM, checked_server_name, location, shortened

MAX_WEIGHT = 1000  # a larger one would make the ring of round robin long; nginx and HAProxy allow 65535 and 256
MAX_SERVERS = 10_000  # of a pool
MAX_POOLS = 10_000
MAX_ROUTES = 10_000
MAX_CONNECTIONS = 1_000_000
DEFAULT_BALANCER = "round_robin"
# Visible ASCII without '#': RFC 9112 section 3.2.1, with the query.
_PATH = r"^/[!\"$-~]{0,1023}$"
# Final statuses only (RFC 9110 section 15.2).
_STATUS = re.compile(r"(?P<low>[2-5][0-9]{2})(?: ?- ?(?P<high>[2-5][0-9]{2}))?")
_STATUSES = "a status such as 200, a range such as '200-399', or a list of them, from 200 to 599"


_URL_SCHEMA = {"type": "string", "pattern": r"^(srv\+)?https?://[!-~]+$"}


def _checked_url(url: str) -> str:
    location(url)
    return url


def _statuses(value: object) -> object:
    """Statuses and ranges of statuses as pairs of lowest and highest."""
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


_ONE_STATUS: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 200, "maximum": 599},
        {"type": "string", "pattern": "^[2-5][0-9]{2}( ?- ?[2-5][0-9]{2})?$"},
    ]
}
_STATUSES_SCHEMA = {"anyOf": [*_ONE_STATUS["anyOf"], {"type": "array", "minItems": 1, "items": _ONE_STATUS}]}


class HealthCheckModel(Section):
    """health_check: for all servers, or for one."""

    path: str = Field(
        default=HealthCheck.path,
        pattern=_PATH,
        description="a path such as /healthz, at most 1024 visible ASCII characters",
    )
    interval: Annotated[float, seconds(0.1)] = HealthCheck.interval
    timeout: Annotated[float, seconds(0.01)] = HealthCheck.timeout
    passes: int = whole(1, 1000, HealthCheck.passes)
    fails: int = whole(1, 1000, HealthCheck.fails)
    status: Annotated[tuple[tuple[int, int], ...], Reading(_statuses, _STATUSES_SCHEMA)] = HealthCheck.status


class EjectionModel(Section):
    """ejection:"""

    consecutive_failures: int = whole(0, 1_000_000, Ejection.consecutive_failures)
    failure_share: float = share(Ejection.failure_share)
    window: Annotated[float, seconds(0.1)] = Ejection.window
    minimum_requests: int = whole(1, 1_000_000, Ejection.minimum_requests)
    server_errors: bool = Field(default=Ejection.server_errors, description="true or false")
    base_time: Annotated[float, seconds(0.1)] = Ejection.base_time
    max_time: Annotated[float, seconds(0.1)] = Ejection.max_time
    max_share: float = share(Ejection.max_share)


class RetriesModel(Section):
    """retries:"""

    attempts: int = whole(1, 100, Retries.attempts)
    budget: float = share(Retries.budget)
    min_per_second: float = Field(
        default=Retries.min_per_second, ge=0, le=1_000_000, description="a number from 0 to 1000000"
    )


class QueueModel(Section):
    """queue:"""

    size: int = whole(0, 1_000_000, Queue.size)
    timeout: Annotated[float, seconds(0.001)] = Queue.timeout


class CorsModel(Section):
    """cors:"""

    allowed_origins: Annotated[tuple[str, ...], BeforeValidator(origins)] = Field(
        description="a list of origins such as https://app.example.com, or '*'"
    )
    allowed_methods: Annotated[tuple[str, ...], BeforeValidator(methods)] = Cors.allowed_methods
    allowed_headers: Annotated[tuple[str, ...], BeforeValidator(header_names)] = Cors.allowed_headers
    exposed_headers: Annotated[tuple[str, ...], BeforeValidator(header_names)] = Cors.exposed_headers
    allow_credentials: bool = Field(default=Cors.allow_credentials, description="true or false")
    max_age: Annotated[float, seconds(0)] = Cors.max_age


class TlsModel(Section):
    """tls: for all https:// servers, or for one."""

    ca_file: str = Field(default="", description="the path of a file of authorities in PEM, or '' for the system's")
    cert_file: str = Field(default="", description="the path of a certificate with its chain in PEM, or '' for none")
    key_file: str = Field(default="", description="the path of a private key in PEM")
    server_name: Annotated[str, AfterValidator(checked_server_name)] = Field(default="", description=SERVER_NAME)
    verify: bool = Field(default=True, description="true or false")


def _pass_or_keys(value: object) -> object:
    if value == "pass":
        return None
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"expected pass, or the keys of cors, not {shortened.repr(value)}")
    return value


# What `false` becomes.  These values are valid, so that no validator has to be built for them, and so are the defaults.
NO_CHECK = HealthCheckModel.model_construct()
NO_EJECTION = EjectionModel.model_construct(consecutive_failures=0, failure_share=0.0)


class _FalseIs(NamedTuple):
    """Read false as this section."""

    nothing: Section

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda value: self.nothing if value is False else value, handler(source)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [*handler(schema)["anyOf"], {"type": "boolean", "const": False}]}


def _switched(section: type[Section]) -> Any:
    return Field(default=None, description=f"{keys_of(section)}, or false for none")


# The versions of the PROXY protocol.
_PROXY_VERSIONS = {"v1": 1, "v2": 2, False: 0}
_SEND_PROXY = "v1, v2, or false for none"
_SEND_PROXY_SCHEMA = {"anyOf": [{"type": "string", "enum": ["v1", "v2"]}, {"type": "boolean", "const": False}]}


def _proxy_version(value: object) -> object:
    if not isinstance(value, (str, bool)) or value not in _PROXY_VERSIONS:
        raise ValueError(f"expected {_SEND_PROXY}, not {shortened.repr(value)}")
    return _PROXY_VERSIONS[value]


SendProxy = Annotated[int | None, Reading(_proxy_version, _SEND_PROXY_SCHEMA)]
_ADMIN_STATE = f"{', '.join(ADMIN_STATES[:-1])} or {ADMIN_STATES[-1]}"
HealthCheckOrFalse = Annotated[HealthCheckModel | None, _FalseIs(NO_CHECK)]


class ServerModel(Section):
    """One of the servers."""

    name: str = Field(
        default="",
        pattern=NAME,
        description=f"{NAME_FORM}, such as server1",
    )
    url: Annotated[str, AfterValidator(_checked_url), WithJsonSchema(_URL_SCHEMA)] = Field(
        description=f"a text of the form {URL_FORM}"
    )
    weight: int = Field(1, ge=0, le=MAX_WEIGHT, description=f"a whole number from 0 (drain) to {MAX_WEIGHT}")
    maxconn: int = Field(
        ServerSpec.maxconn,
        ge=0,
        le=MAX_CONNECTIONS,
        description=f"a whole number from 0 (any number) to {MAX_CONNECTIONS}",
    )
    backup: bool = Field(ServerSpec.backup, description="true or false")
    slowstart: Annotated[float, seconds(0)] = ServerSpec.slowstart
    send_proxy: SendProxy = Field(default=None, description=_SEND_PROXY)
    health_check: HealthCheckOrFalse = _switched(HealthCheckModel)
    tls: TlsModel | None = Field(default=None, description=keys_of(TlsModel))
    admin_state: Literal["ready", "drain", "disabled"] = Field(READY, description=_ADMIN_STATE)
    expand: bool = Field(default=ServerSpec.expand, description="true or false")


class DiscoverModel(Section):
    """discover:"""

    file: str = Field(default="", description="the path of a file with a list of servers, in JSON or YAML")
    max_ttl: Annotated[float, seconds(1)] = Discover.max_ttl


class PoolKeys(Section):
    """What a pool has besides its servers.  At the top of a file with pools, the keys are those of all pools."""

    balancer: Annotated[Named, named("a name", "the name of a balancer")] = Field(
        (DEFAULT_BALANCER, {}), description="a name, or {name: ..., and its options}"
    )
    pricing: Annotated[Named, named(CLASS_FORM, f"{CLASS_FORM} of your own")] = Field(
        ("", {}), description=f"{CLASS_FORM}, or {{name: ..., and its options}}"
    )
    hooks: HooksNamed | None = Field(default=None, description=HOOKS_FORM)
    send_proxy: SendProxy = Field(default=None, description=_SEND_PROXY)
    health_check: HealthCheckOrFalse = _switched(HealthCheckModel)
    ejection: Annotated[EjectionModel | None, _FalseIs(NO_EJECTION)] = _switched(EjectionModel)
    panic_threshold: float = share(PoolSpec.panic_threshold)
    retries: RetriesModel = Field(default=RetriesModel.model_construct(), description=keys_of(RetriesModel))
    queue: QueueModel = Field(default=QueueModel.model_construct(), description=keys_of(QueueModel))
    tls: TlsModel | None = Field(default=None, description=keys_of(TlsModel))
    maintenance: Maintenance = 0.0
    request_headers: HeaderRulesModel | None = Field(default=None, description=keys_of(HeaderRulesModel))
    response_headers: HeaderRulesModel | None = Field(default=None, description=keys_of(HeaderRulesModel))
    limits: list[PoolLimitModel] = limits_field()


_SERVERS = f"a list of 1 to {MAX_SERVERS} servers, each as {{url: ...}} or {{name: ..., url: ...}}"


class PoolModel(PoolKeys):
    """One of the pools."""

    servers: list[ServerModel] | None = Field(
        default=None, min_length=1, max_length=MAX_SERVERS, description=_SERVERS
    )
    discover: DiscoverModel | None = Field(default=None, description=keys_of(DiscoverModel))


class FileModel(PoolKeys):
    """The whole file: one pool, or `pools` and `routes`."""

    servers: list[ServerModel] | None = Field(
        default=None, min_length=1, max_length=MAX_SERVERS, description=_SERVERS
    )
    discover: DiscoverModel | None = Field(default=None, description=keys_of(DiscoverModel))
    pools: dict[Annotated[str, Field(pattern=NAME)], PoolModel] | None = Field(
        default=None, min_length=1, max_length=MAX_POOLS, description="a mapping of names and pools"
    )
    routes: list[RouteModel] | None = Field(
        default=None, min_length=1, max_length=MAX_ROUTES, description=f"a list of 1 to {MAX_ROUTES} routes"
    )
    cors: Annotated[CorsModel | None, BeforeValidator(_pass_or_keys)] = Field(
        default=None, description="pass, or the keys of cors"
    )
    global_limits: list[GlobalLimitModel] = limits_field()


# The keys whose value is a section, and what that is; servers and routes are elements of a list, pools have names.
_INNER: dict[tuple[type[Section], str], type[Section]] = {
    (FileModel, "pools"): PoolModel,
    (FileModel, "routes"): RouteModel,
    (FileModel, "cors"): CorsModel,
    (FileModel, "global_limits"): GlobalLimitModel,
    (RouteModel, "respond"): RespondModel,
    (RouteModel, "split"): SplitModel,
    (RouteModel, "mirror"): MirrorModel,
    (RouteModel, "redirect"): RedirectModel,
    (RouteModel, "retries"): RouteRetriesModel,
    (RouteModel, "limits"): RouteLimitModel,
    (ServerModel, "health_check"): HealthCheckModel,
    (ServerModel, "tls"): TlsModel,
}
for _model in (FileModel, PoolModel):
    _INNER[_model, "servers"] = ServerModel
    _INNER[_model, "discover"] = DiscoverModel
    _INNER[_model, "health_check"] = HealthCheckModel
    _INNER[_model, "ejection"] = EjectionModel
    _INNER[_model, "retries"] = RetriesModel
    _INNER[_model, "queue"] = QueueModel
    _INNER[_model, "tls"] = TlsModel
    _INNER[_model, "limits"] = PoolLimitModel
for _with_rules in (FileModel, PoolModel, RouteModel):
    _INNER[_with_rules, "request_headers"] = HeaderRulesModel
    _INNER[_with_rules, "response_headers"] = HeaderRulesModel
_MEMBERS = (ServerModel, PoolModel, RouteModel, RouteLimitModel, PoolLimitModel, GlobalLimitModel)


def section_of(path: tuple[str | int, ...]) -> tuple[type[Section], str]:
    """The section that contains `path`, and its key there; "" when the section itself is invalid."""
    model: type[Section] = FileModel
    rest = list(path)
    while len(rest) > 1:
        inner = _INNER.get((model, str(rest[0])))
        if inner is None:
            break
        if inner in _MEMBERS:
            rest = rest[1:]
        rest = rest[1:]
        model = inner
    return model, str(rest[0]) if rest else ""
