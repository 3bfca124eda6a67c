"""What `twistd tokenlb --check` prints: the configuration as the program understands it.

It is made of a plan, which was checked as a whole, and shows no password and no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from twisted_lb.fleet_spec import Ejection, FleetSpec, ServerSpec
from twisted_lb.plan import Plan
from twisted_lb.settings import Settings
from twisted_lb.stores.redis_url import parse_redis_url

# Shown by themselves, or in words, or secret.
SHOWN = {"listen", "admin_listen", "health_listen", "servers_file", "redis_url", "data_dir", "workers", "admin_token"}
SHOWN |= {"redis_sentinel_password"}


def description(plan: Plan) -> str:
    """The plan in lines."""
    settings, fleet = plan.settings, plan.fleet
    if settings.redis_url:
        store = f"Redis at {parse_redis_url(settings.redis_url).place}"
    else:
        store = f"embedded, in {settings.data_dir}"
    lines = {
        "public": ", ".join(settings.listen),
        "admin": settings.admin_listen + (", with a token" if settings.admin_token else ""),
        "health": ", ".join(settings.health_listen) or "on the admin listener only",
        "store": store,
        "workers": str(settings.workers),
        "settings": ", ".join(_other_settings(settings)) or "all others have their defaults",
        "servers in": settings.servers_file,
        "balancer": _named(fleet.balancer, fleet.options),
        "pricing": _named(fleet.pricing, fleet.pricing_options) or "1 token a request, or what the server says",
        "ejection": _ejection(fleet.ejection),
        "panic": f"below {fleet.panic_threshold:.0%} healthy servers",
        "retries": _retries(fleet),
        "queue": f"{fleet.queue.size} requests, {fleet.queue.timeout:g} s",
    }
    shown = [f"{name:<11}{text}" for name, text in lines.items()]
    return "\n".join(["twisted_lb: the configuration is good", *shown, *map(_server, fleet.servers)])


def _other_settings(settings: Settings) -> list[str]:
    default = Settings()
    return [
        f"{field.name.upper()}={_text(getattr(settings, field.name))}"
        for field in fields(Settings)
        if field.name not in SHOWN and getattr(settings, field.name) != getattr(default, field.name)
    ]


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _named(word: str, options: Mapping[str, object]) -> str:
    # An option may be a secret: its name is enough.
    return ", ".join([word, *(f"{name}=..." for name in options)])


def _ejection(ejection: Ejection) -> str:
    reasons = []
    if ejection.consecutive_failures:
        reasons.append(f"after {ejection.consecutive_failures} failures in a row")
    if ejection.failure_share:
        reasons.append(
            f"at {ejection.failure_share:.0%} failures of {ejection.minimum_requests} requests"
            f" or more in {ejection.window:g} s"
        )
    if not reasons or not ejection.max_share:
        return "none"
    times = f"for {ejection.base_time:g} s to {ejection.max_time:g} s"
    return f"{' or '.join(reasons)}, {times}, at most {ejection.max_share:.0%} of the servers"


def _retries(fleet: FleetSpec) -> str:
    retries = fleet.retries
    if retries.attempts == 1:
        return "none"
    free = f"or {retries.min_per_second:g} in a second"
    return f"{retries.attempts} attempts, {retries.budget:.0%} of the requests {free}"


def _server(server: ServerSpec) -> str:
    parts = [server.name, server.url, f"weight {server.weight}{' (draining)' if not server.weight else ''}"]
    if server.maxconn:
        parts.append(f"maxconn {server.maxconn}")
    if server.backup:
        parts.append("backup")
    if server.slowstart:
        parts.append(f"slow start of {server.slowstart:g} s")
    check = server.health_check
    if check is None:
        parts.append("no health check")
    else:
        parts.append(
            f"check {check.path} every {check.interval:g} s, timeout {check.timeout:g} s, status {check.statuses}, "
            f"{check.fails} fails, {check.passes} passes"
        )
    return f"  {', '.join(parts)}"
