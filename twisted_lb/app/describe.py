"""The output of `twistd tokenlb --check`: the configuration as the program reads it.

It is made from a validated Startup, and shows no passwords or tokens.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO

from twisted_lb.app.certificate_watch import shown_expiry
from twisted_lb.app.limit_rules import ALL
from twisted_lb.app.listener_tls import certificate_lines
from twisted_lb.app.startup import Startup, endpoints_of
from twisted_lb.app.version import version_text
from twisted_lb.config.cors import Cors
from twisted_lb.config.environment import READERS
from twisted_lb.config.gateway import RouteSpec
from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.pool import DRAIN, ONLY_POOL, READY, Ejection, HeaderRules, PoolSpec, ServerSpec, ServerTls
from twisted_lb.config.server_tls import own_certificate
from twisted_lb.config.settings import Misconfigured, Settings
from twisted_lb.limits.request_limits import PER_KEY, PER_NETWORK
from twisted_lb.network.listener import read_endpoint, trial
from twisted_lb.stores.redis.url import parse_redis_url
from twisted_lb.webhook import host_of

# Shown in lines of their own, or secret.
SHOWN = {"listen", "tls_listen", "admin_listen", "health_listen", "servers_file", "redis_url", "data_dir", "workers"}
SHOWN |= {"admin_token", "redis_sentinel_password", "webhook_url", "webhook_secret"}


def description(startup: Startup) -> str:
    """The configuration as text."""
    settings, gateway = startup.settings, startup.listed
    if settings.redis_url:
        store = f"Redis at {parse_redis_url(settings.redis_url).place}"
    else:
        store = f"embedded, in {settings.data_dir}"
    with_token = settings.admin_token or settings.admin_tokens_file
    lines = {
        "program": version_text(),
        "public": ", ".join([*settings.listen, *(f"{endpoint} with TLS" for endpoint in settings.tls_listen)]),
        "admin": settings.admin_listen + (", with a token" if with_token else ""),
        "health": ", ".join(settings.health_listen) or "on the admin listener only",
        "store": store,
        "workers": str(settings.workers),
        **_webhook(settings),
        "settings": ", ".join(_other_settings(settings)) or "all others have their defaults",
        "servers in": settings.servers_file,
        "cors": _cors(gateway.cors),
    }
    shown = [f"{name:<11}{text}" for name, text in lines.items()]
    if startup.tls is not None:
        shown += [f"{'tls':<11}{line}" for line in certificate_lines(startup.tls.files, time.time())]
    shown += [f"{'notice':<11}{notice}" for notice in startup.notices]
    for pool in gateway.pools:
        shown += _pool(pool)
    if gateway.limits:
        shown.append(f"{'limits':<11}{shown_limits(gateway.limits)}")
    if gateway.has_routes:
        shown += ["routes", *map(_route, gateway.routes)]
    return "\n".join(["twisted_lb: the configuration is valid", *shown])


def try_listening(settings: Settings) -> list[str]:
    """Check whether the ports can be opened.  Raises Misconfigured.

    Ports in use, possibly by a running instance of this program, are not errors: a message for each is returned.
    """
    tried = [(name, text, trial(read_endpoint(text))) for name, text in endpoints_of(settings)]
    problems = [f"{name}: {text!r}: {found.detail}" for name, text, found in tried if found and not found.in_use]
    if problems:
        raise Misconfigured(problems)
    return [
        f"{name}: {text!r}: {found.detail}; the program cannot start until that one has stopped"
        for name, text, found in tried
        if found
    ]


def shown_whole(text: str, stream: TextIO) -> bool:
    """Print the text; return whether that succeeded.  A closed pipe (`| head -3`) is not an error."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        # Python would try to write the rest of the buffer at exit, and report an error.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except OSError as error:
        if stream is not sys.stderr:
            print(f"twisted_lb: the configuration is valid, but cannot be printed: {error.strerror}", file=sys.stderr)
        return False
    return True


def _webhook(settings: Settings) -> dict[str, str]:
    if not settings.webhook_url:
        return {}
    return {"webhook": host_of(settings.webhook_url) + (", signed" if settings.webhook_secret else "")}


def _other_settings(settings: Settings) -> list[str]:
    default = Settings()
    return [
        f"{name.upper()}={_text(getattr(settings, name))}"
        for name in READERS
        if name not in SHOWN and getattr(settings, name) != getattr(default, name)
    ]


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _named(word: str, options: Mapping[str, object]) -> str:
    # An option may be a secret: only its name is shown.
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


def _pool(pool: PoolSpec) -> list[str]:
    lines = {
        "balancer": _named(pool.balancer, pool.options),
        "pricing": _named(pool.pricing, pool.pricing_options) or "1 token per request, or as the server reports",
        "ejection": _ejection(pool.ejection),
        "panic": f"below {pool.panic_threshold:.0%} healthy servers",
        "retries": _retries(pool),
        "queue": f"{pool.queue.size} requests, {pool.queue.timeout:g} s",
    }
    if pool.discover.file:
        lines["discover"] = f"the servers in {pool.discover.file}"
    if pool.hooks is not None:
        lines["hooks"] = _named(pool.hooks.name, pool.hooks.options)
    for what, rules in (("requests", pool.request_headers), ("responses", pool.response_headers)):
        if rules is not None:
            lines[what] = f"with other headers: {_names(rules)}"
    if pool.limits:
        lines["limits"] = shown_limits(pool.limits)
    if pool.maintenance:
        lines["status"] = f"in maintenance: requests are answered 503, with {pool.maintenance:g} s in Retry-After"
    name = [] if pool.name == ONLY_POOL else [f"{'pool':<11}{pool.name}"]
    return [*name, *(f"{key:<11}{text}" for key, text in lines.items()), *map(_server, pool.servers)]


def _route(route: RouteSpec) -> str:
    parts = [f"{route.host or 'any host'}, {route.path or 'any path'}"]
    if route.methods:
        parts.append(" ".join(route.methods))
    # A value may be a secret: only the name is shown.
    parts += [name if value is None else f"{name}: ..." for name, value in route.headers]
    named = f" ({route.name})" if route.name != f"{route.host}{route.path or '/'}" else ""
    return f"  {', '.join(parts)} -> {', '.join([shown_end(route), *_terms(route)])}{named}"


def shown_end(route: RouteSpec) -> str:
    """Where its requests go."""
    if route.redirect is not None:
        place = "".join(text + (f"{{{name}}}" if name else "") for text, name in route.redirect.place)
        return f"{route.redirect.status} to {place}"
    if route.respond is not None:
        return f"{route.respond.status} with {len(route.respond.content)} bytes"
    if route.split:
        shares = ", ".join(f"{weight} to {name}" for name, weight in route.split)
        return f"pools by {route.split_by}: {shares}"
    return f"pool {route.pool}" if route.pool else "nowhere"


def _terms(route: RouteSpec) -> Iterator[str]:
    if route.maintenance:
        yield f"in maintenance ({route.maintenance:g} s)"
    if route.key != "required":
        yield f"key {route.key}"
    if route.cost is not None:
        yield f"cost {route.cost}"
    if route.limits:
        yield f"limits {shown_limits(route.limits)}"
    if route.timeout is not None:
        yield f"timeout {route.timeout:g} s"
    if route.attempts is not None:
        yield f"attempts {route.attempts}"
    if route.max_body is not None:
        yield f"bodies up to {route.max_body} bytes" if route.max_body else "bodies of any size"
    if route.strip_prefix:
        yield f"without {route.strip_prefix}"
    if route.hooks is not None:
        yield f"hooks {_named(route.hooks.name, route.hooks.options)}"
    if route.mirror is not None:
        yield f"{route.mirror.percent:g} % mirrored to {route.mirror.pool}"
    for what, rules in (("request", route.request_headers), ("response", route.response_headers)):
        if rules is not None:
            yield f"{what} headers {_names(rules)}"
    if route.allow:
        yield f"allows {' '.join(route.allow)}"
    if route.deny:
        yield f"denies {' '.join(route.deny)}"


def shown_limits(limits: Iterable[LimitSpec]) -> str:
    """Limits of a route, a pool, or all routes."""
    shown = []
    for limit in limits:
        each = "each " if limit.per in (PER_KEY, PER_NETWORK) else "the " if limit.per != ALL else ""
        rate = f"{limit.rate_per_sec:g} a second{', a shadow' if limit.shadow else ''}"
        shown.append(f"{limit.name} ({limit.capacity} for {each}{limit.per}, {rate})")
    return " and ".join(shown)


def _names(rules: HeaderRules) -> str:
    # A value may be a secret: only the names are shown.
    return " ".join(dict.fromkeys([*rules.removed, *(name for name, _ in rules.added)]))


def _retries(pool: PoolSpec) -> str:
    retries = pool.retries
    if retries.attempts == 1:
        return "none"
    free = f"or {retries.min_per_second:g} in a second"
    return f"{retries.attempts} attempts, {retries.budget:.0%} of the requests {free}"


def _cors(cors: Cors | None) -> str:
    if cors is None:
        return "preflights are passed to the servers"
    credentials = ", with credentials" if cors.allow_credentials else ""
    allowed = f"{', '.join(cors.allowed_origins)}{credentials}; methods {', '.join(cors.allowed_methods)}"
    headers = ", ".join(cors.allowed_headers) or "none"
    return f"{allowed}; headers {headers}; max age {cors.max_age:g} s"


def _tls(tls: ServerTls) -> str:
    files = tls.files
    if not files.verify:
        how = "not verified"
    else:
        how = f"verified as {tls.server_name} by {files.ca_file or 'the authorities of the system'}"
    if not files.cert_file:
        return f"TLS {how}"
    return f"TLS {how}, with {files.cert_file}, which {shown_expiry(own_certificate(files), time.time())}"


def _server(server: ServerSpec) -> str:
    parts = [server.name, server.url, f"weight {server.weight}{' (draining)' if not server.weight else ''}"]
    if server.maxconn:
        parts.append(f"maxconn {server.maxconn}")
    if server.backup:
        parts.append("backup")
    if server.slowstart:
        parts.append(f"slow start of {server.slowstart:g} s")
    if server.send_proxy:
        parts.append(f"PROXY protocol v{server.send_proxy}")
    if server.admin_state != READY:
        parts.append("draining" if server.admin_state == DRAIN else "disabled")
    if server.tls is not None:
        parts.append(_tls(server.tls))
    check = server.health_check
    if check is None:
        parts.append("no health check")
    else:
        parts.append(
            f"check {check.path} every {check.interval:g} s, timeout {check.timeout:g} s, status {check.statuses}, "
            f"{check.fails} fails, {check.passes} passes"
        )
    return f"  {', '.join(parts)}"
