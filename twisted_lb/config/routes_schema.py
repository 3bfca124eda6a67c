"""The schema of `routes` in servers.yaml as pydantic models; see `servers_schema`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from twisted_lb.config.gateway import Mirror
from twisted_lb.config.header_rules import HeaderRulesModel
from twisted_lb.config.limits_schema import RouteLimitModel, limits_field
from twisted_lb.config.pool import Retries
from twisted_lb.config.route_values import (
    HOST_FORM,
    PATH_FORM,
    PLACE_FORM,
    PREFIX_FORM,
    checked_host,
    checked_path,
    redirect_place,
    route_fields,
    route_methods,
    route_ranges,
    size_in_bytes,
    stripped_prefix,
)
from twisted_lb.config.sections import (
    HOOKS_FORM,
    NAME,
    NAME_FORM,
    HooksNamed,
    Maintenance,
    Section,
    keys_of,
    seconds,
    whole,
)
from twisted_lb.limits.bucket import MAX_COST

MAX_WEIGHT = 1_000_000
MAX_BODY = 1 << 20  # characters
# RFC 9110 section 5.5, in ASCII.
_FIELD_VALUE = r"^[!-~](?:[ -~]{0,253}[!-~])?$"


class RespondModel(Section):
    """respond: of a route."""

    status: int = Field(default=200, ge=200, le=599, description="a status from 200 to 599")
    body: str = Field(default="", max_length=MAX_BODY, description=f"a text of up to {MAX_BODY} characters")
    content_type: str = Field(
        default="text/plain; charset=utf-8", pattern=_FIELD_VALUE, description="a media type such as application/json"
    )


class RedirectModel(Section):
    """redirect: of a route."""

    to: Annotated[tuple[tuple[str, str], ...], BeforeValidator(redirect_place)] = Field(description=PLACE_FORM)
    status: Literal[301, 302, 303, 307, 308] = Field(default=308, description="301, 302, 303, 307 or 308")


class RouteRetriesModel(Section):
    """retries: of a route."""

    attempts: int = whole(1, 100, Retries.attempts)


class SplitModel(Section):
    """split: of a route."""

    pools: dict[str, Annotated[int, Field(ge=0, le=MAX_WEIGHT)]] = Field(
        min_length=1, description=f"a mapping of the names of pools and whole numbers from 0 to {MAX_WEIGHT}"
    )
    by: Literal["key", "client"] = Field(default="key", description="key or client")


class MirrorModel(Section):
    """mirror: of a route."""

    pool: str = Field(description="the name of a pool")
    percent: float = Field(default=Mirror.percent, ge=0, le=100, description="a number from 0 to 100")


def _pool_or_keys(value: object) -> Any:
    return {"pool": value} if isinstance(value, str) else value


class RouteModel(Section):
    """One of the routes."""

    name: str = Field(default="", pattern=NAME, description=NAME_FORM)
    host: Annotated[str, AfterValidator(checked_host)] = Field(default="", description=HOST_FORM)
    path: Annotated[str, AfterValidator(checked_path)] = Field(default="", description=PATH_FORM)
    methods: Annotated[tuple[str, ...], BeforeValidator(route_methods)] = ()
    headers: Annotated[tuple[tuple[str, str | None], ...], BeforeValidator(route_fields)] = ()
    pool: str = Field(default="", description="the name of a pool")
    split: SplitModel | None = Field(default=None, description=keys_of(SplitModel))
    respond: RespondModel | None = Field(default=None, description=keys_of(RespondModel))
    redirect: RedirectModel | None = Field(default=None, description=keys_of(RedirectModel))
    key: Literal["required", "optional", "none"] = Field(default="required", description="required, optional or none")
    cost: int | None = Field(default=None, ge=0, le=MAX_COST, description=f"a whole number from 0 to {MAX_COST}")
    timeout: Annotated[float | None, seconds(0.01)] = None
    retries: RouteRetriesModel | None = Field(default=None, description=keys_of(RouteRetriesModel))
    max_body: Annotated[int | None, BeforeValidator(size_in_bytes)] = None
    strip_prefix: Annotated[str, AfterValidator(stripped_prefix)] = Field(default="", description=PREFIX_FORM)
    allow: Annotated[tuple[str, ...], BeforeValidator(route_ranges)] = ()
    deny: Annotated[tuple[str, ...], BeforeValidator(route_ranges)] = ()
    maintenance: Maintenance = 0.0
    hooks: HooksNamed | None = Field(default=None, description=HOOKS_FORM)
    mirror: Annotated[MirrorModel | None, BeforeValidator(_pool_or_keys)] = Field(
        default=None, description=f"the name of a pool, or {keys_of(MirrorModel)}"
    )
    request_headers: HeaderRulesModel | None = Field(default=None, description=keys_of(HeaderRulesModel))
    response_headers: HeaderRulesModel | None = Field(default=None, description=keys_of(HeaderRulesModel))
    limits: list[RouteLimitModel] = limits_field()
