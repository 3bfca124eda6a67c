"""Reads and validates the whole configuration before anything is started.

The files are read here.  Values that only the parts themselves can validate (a Redis URL, an endpoint, a balancer) are
passed to those, so that all problems are reported together.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from twisted_lb.access_log.destinations import SYSLOG, is_file, problem_of
from twisted_lb.access_log.formats import UnknownFormat, check_format
from twisted_lb.app.demo import demo_address, demo_endpoint
from twisted_lb.app.listener_tls import ListenerTls, certificate_notices, read_listener_tls
from twisted_lb.app.self_service_notices import self_service_notices
from twisted_lb.balancers.registry import BalancerError, make_balancer
from twisted_lb.config.admin_tokens import AdminToken, admin_tokens, read_admin_tokens
from twisted_lb.config.environment import read_notices, read_settings, with_sources
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.pool import ClassSpec
from twisted_lb.config.server_tls import tls_notices
from twisted_lb.config.servers_file import Lines, place_of_route, read_with_lines
from twisted_lb.config.settings import Misconfigured, Settings
from twisted_lb.discovery.answers import NO_ANSWERS, Answers
from twisted_lb.discovery.expansion import expanded
from twisted_lb.discovery.list_file import NO_LISTS, read_lists
from twisted_lb.hooks.hooks import HooksError, make_hooks
from twisted_lb.limits.authentication import AuthenticatorError, make_authentication
from twisted_lb.limits.pricing import PricingError, make_pricing
from twisted_lb.network.listener import Endpoint, conflict, read_endpoint
from twisted_lb.network.system_files import read_name_servers
from twisted_lb.proxy.https_redirect import HTTPS_PORT
from twisted_lb.routing.notices import route_notices
from twisted_lb.steps import finish
from twisted_lb.stores.redis.url import RedisSecurity
from twisted_lb.stores.sqlite.check import data_dir_problem

DEFAULT_ENV_FILE = ".env"
# The settings that name a file or a directory.
FILES = (
    "admin_tokens_file",
    "data_dir",
    "servers_file",
    "redis_tls_ca_file",
    "redis_tls_cert_file",
    "redis_tls_key_file",
    "tls_cert_file",
    "tls_key_file",
    "tls_cert_dir",
    "tls_client_ca_file",
)


class Startup(NamedTuple):
    """A validated configuration.  `gateway` was read from `servers_text`; `notices` are logged, or shown by --check.

    `tls` is None where no certificate is set; `answers` are the lists of servers that the file names (`discovery`).
    """

    settings: Settings
    gateway: GatewaySpec
    servers_text: str
    demo: bool
    notices: tuple[str, ...] = ()
    tls: ListenerTls | None = None
    answers: Answers = NO_ANSWERS
    admin_tokens: tuple[AdminToken, ...] = ()

    @property
    def listed(self) -> GatewaySpec:
        """The gateway with the servers of the lists."""
        return expanded(self.gateway, self.answers).spec


def read_startup(
    options: Mapping[str, str | Sequence[str]],
    env_file: str | None,
    demo: bool,
    environment: Mapping[str, str],
) -> Startup:
    """Read .env and the servers file, and validate everything.

    `options` has the names of the settings.  Raises Misconfigured with all problems.
    """
    problems: list[str] = []
    env_text = ""
    # Only the default file may be missing.
    if env_file is not None or os.path.exists(DEFAULT_ENV_FILE):
        try:
            env_text = read_text(env_file or DEFAULT_ENV_FILE)
        except Misconfigured as error:
            problems += error.problems
    settings, wrong = read_settings(options, environment, env_text, env_file or DEFAULT_ENV_FILE)
    problems += wrong
    problems += _endpoint_problems(settings)
    try:
        read_name_servers(settings.resolver)
    except ValueError as error:
        expected = "expected addresses such as 127.0.0.1, 127.0.0.1:5353 or [::1]:53, separated by spaces"
        problems.append(f"RESOLVER: {str(error)!r} is not the address of a name server; {expected}")
    problems += _redis_problems(settings)
    problems += _https_problems(settings)
    if not settings.redis_url and (problem := data_dir_problem(settings.data_dir)):
        problems.append(f"DATA_DIR: {problem}")
    problems += _log_problems(settings)
    tokens = admin_tokens(settings.admin_token)
    if settings.admin_tokens_file:
        try:
            tokens += read_admin_tokens(read_text(settings.admin_tokens_file), settings.admin_tokens_file)
        except Misconfigured as error:
            problems += [f"ADMIN_TOKENS_FILE: {problem}" for problem in error.problems]
    gateway, servers_text = None, ""
    try:
        servers_text = read_text(settings.servers_file)
        gateway = check_gateway(servers_text, settings.servers_file)
    except Misconfigured as error:
        problems += error.problems
    look_beside(settings.servers_file)
    try:
        make_authentication(settings.authenticator)
    except AuthenticatorError as error:
        problems.append(f"AUTHENTICATOR: {error}")
    lists = NO_LISTS
    if gateway is not None:
        try:
            lists = read_lists(gateway)
        except Misconfigured as error:
            problems += error.problems
    if gateway is not None and demo:
        problems += _demo_problems(gateway, settings)
    # twistd may change the directory before the store is opened and the servers file is reloaded.
    paths = {name: os.path.abspath(path) for name in FILES if (path := getattr(settings, name))}
    for name in ("access_log", "audit_log"):
        if is_file(path := getattr(settings, name)):
            paths[name] = os.path.abspath(path)
    settings = replace(settings, **paths)
    tls, now = None, time.time()
    try:
        tls = read_listener_tls(settings, now)
    except Misconfigured as error:
        problems += error.problems
    if problems or gateway is None:
        raise Misconfigured(with_sources(problems, options, environment, env_text, env_file or DEFAULT_ENV_FILE))
    if settings.http_redirect == "https":
        settings = replace(settings, https_port=_https_port(settings))
    notices = read_notices(environment, env_text, env_file or DEFAULT_ENV_FILE)
    notices += self_service_notices(settings)
    notices += tls_notices(gateway, settings.servers_file, now)
    notices += finish(route_notices(gateway, settings.servers_file))
    notices += lists.notices
    if tls is not None:
        notices += certificate_notices(tls.files, now)
    return Startup(settings, gateway, servers_text, demo, tuple(notices), tls, lists.answers, tokens)


def _https_port(settings: Settings) -> int:
    """The port to which HTTP_REDIRECT redirects: HTTPS_PORT, that of the first TLS_LISTEN that has one, or the default.

    0: it is not known, because TLS_LISTEN has no port.
    """
    if settings.https_port:
        return settings.https_port
    for text in settings.tls_listen:
        try:
            port = read_endpoint(text).port
        except ValueError:
            # Reported elsewhere.
            continue
        if port:
            return port
    return 0 if settings.tls_listen else HTTPS_PORT


def _https_problems(settings: Settings) -> list[str]:
    """Settings for https that would have no effect, or redirect without end or to an unknown port."""
    problems = []
    https = settings.tls_listen or settings.trusted_proxies or settings.proxy_protocol_from
    if not settings.tls_listen:
        names = ("tls_cert_file", "tls_cert_dir", "tls_client_ca_file")
        problems += [
            f"{name.upper()}: it is set, but TLS_LISTEN is empty, and nothing else needs it"
            for name in names
            if getattr(settings, name)
        ]
    if not https:
        reason = "no request can come over https: set TLS_LISTEN, or TRUSTED_PROXIES where a proxy terminates TLS"
        problems += [f"HTTP_REDIRECT: {reason}"] if settings.http_redirect == "https" else []
        problems += [f"HSTS: {reason}"] if settings.hsts else []
    elif settings.http_redirect == "https" and not _https_port(settings):
        problems.append("HTTP_REDIRECT: no TLS_LISTEN has a port to redirect to; set HTTPS_PORT to the port of https")
    return problems


def look_beside(servers_file: str) -> None:
    """Make custom classes importable from the directory of the servers file, and from the working directory."""
    for directory in (os.path.dirname(os.path.abspath(servers_file)), os.getcwd()):
        if directory not in sys.path:
            sys.path.append(directory)


def read_text(file_name: str) -> str:
    """The text of a file.  Raises Misconfigured."""
    try:
        with open(file_name, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise Misconfigured([f"{file_name}: cannot be read: {error.strerror}"]) from None
    except ValueError:
        raise Misconfigured([f"{file_name}: cannot be read: it is not UTF-8 text"]) from None


def check_gateway(text: str, file_name: str) -> GatewaySpec:
    """The pools and routes in the text of a servers file, with plug-ins that can be created.

    Raises Misconfigured.
    """
    spec, lines = read_with_lines(text, file_name)
    check_classes(spec, file_name, lines)
    return spec


def check_classes(spec: GatewaySpec, file_name: str, lines: Lines) -> None:
    """Raise Misconfigured if a balancer, a pricing or hooks cannot be created; `lines` are those of their keys."""
    look_beside(file_name)
    problems = []

    def problem(owner: str, key: str, error: Exception) -> None:
        line, place = lines[owner, key]
        problems.append(f"{file_name}:{line}: {place}: {error}")

    seen: list[tuple[object, ...]] = []
    for pool in spec.pools:
        classes = (pool.balancer, pool.options, pool.pricing, pool.pricing_options)
        if classes in seen:
            # Most pools have the same classes.
            continue
        seen.append(classes)
        try:
            make_balancer(pool.balancer, pool.options)
        except BalancerError as error:
            problem(pool.name, "balancer", error)
        try:
            make_pricing(pool.pricing, pool.pricing_options)
        except PricingError as wrong:
            problem(pool.name, "pricing", wrong)
    hooks = [(pool.name, pool.hooks) for pool in spec.pools]
    hooks += [(place_of_route(index), route.hooks) for index, route in enumerate(spec.routes)]
    made: list[ClassSpec] = []
    for owner, one in hooks:
        if one is None or one in made:
            continue
        made.append(one)
        try:
            make_hooks(one.name, one.options)
        except HooksError as error:
            problem(owner, "hooks", error)
    if problems:
        # Keys at the top apply to all pools.
        raise Misconfigured(list(dict.fromkeys(problems)))


def security_of(settings: Settings) -> RedisSecurity:
    """The settings for connections to Redis, except its URL."""
    return RedisSecurity(
        settings.redis_tls_ca_file,
        settings.redis_tls_cert_file,
        settings.redis_tls_key_file,
        settings.redis_sentinel_password,
    )


def _redis_problems(settings: Settings) -> list[str]:
    """Problems of the URL, and settings that would have no effect with it."""
    security = security_of(settings)
    if settings.redis_url:
        # The client of Redis is not loaded by processes that have none.
        from twisted_lb.stores.redis.endpoints import check_redis

        try:
            check_redis(settings.redis_url, security)
        except ValueError as error:
            return [str(error)]
        return []
    names = [f"REDIS_TLS_{name.upper()}" for name in ("ca_file", "cert_file", "key_file") if getattr(security, name)]
    names += ["REDIS_SENTINEL_PASSWORD"] if security.sentinel_password else []
    return [f"{name}: it is set, but REDIS_URL is empty, and the embedded store does not need it" for name in names]


def _log_problems(settings: Settings) -> list[str]:
    problems = []
    if settings.access_log and (problem := problem_of(settings.access_log)):
        problems.append(f"ACCESS_LOG: {settings.access_log!r}: {problem}")
    if settings.audit_log:
        # A syslog daemon may lose lines.
        files_only = "expected a file, or - for standard output"
        problem = problem_of(settings.audit_log) if not settings.audit_log.startswith(SYSLOG) else files_only
        problems += [f"AUDIT_LOG: {settings.audit_log!r}: {problem}"] if problem else []
    try:
        check_format(settings.access_log_format)
    except UnknownFormat as error:
        problems.append(f"ACCESS_LOG_FORMAT: {settings.access_log_format!r}: {error}")
    return problems


def endpoints_of(settings: Settings) -> list[tuple[str, str]]:
    """All endpoints that the program listens on, with the names of their settings."""
    public = [("LISTEN", endpoint) for endpoint in settings.listen]
    secured = [("TLS_LISTEN", endpoint) for endpoint in settings.tls_listen]
    health = [("HEALTH_LISTEN", endpoint) for endpoint in settings.health_listen]
    return [*public, *secured, *health, ("ADMIN_LISTEN", settings.admin_listen)]


def _demo_problems(gateway: GatewaySpec, settings: Settings) -> list[str]:
    """Demo servers that cannot be started because another listener has their address."""
    names: dict[tuple[str, str], str] = {}
    problems = []
    others = []
    for name, text in endpoints_of(settings):
        try:
            others.append((name, read_endpoint(text)))
        except ValueError:
            # Reported elsewhere.
            continue
    for pool, server in ((pool.name, server) for pool in gateway.pools for server in pool.servers):
        address = demo_address(server.host)
        if address is None or server.tls is not None:
            continue
        place = demo_endpoint(address, server.port)
        # Pools may share servers.
        first = names.setdefault((pool, place), server.name)
        if first != server.name:
            problems.append(f"option --demo: {server.name} would listen on {place}, as {first} does")
        for name, other in others:
            if conflict(read_endpoint(place), other):
                where = f"where {name} does: {other.text}"
                problems.append(f"option --demo: {server.name} would listen on {place}, {where}")
    if names:
        return problems
    return [f"option --demo: {settings.servers_file} names no http:// server on a loopback address"]


def _endpoint_problems(settings: Settings) -> list[str]:
    problems = []
    found: list[tuple[str, Endpoint]] = []
    for name, text in endpoints_of(settings):
        try:
            endpoint = read_endpoint(text)
        except ValueError as error:
            problems.append(f"{name}: {text!r} is not an endpoint to listen on: {error}")
            continue
        for other_name, other in found:
            if conflict(endpoint, other):
                problems.append(f"{name}: {text!r} is where {other_name} {other.text!r} listens")
        found.append((name, endpoint))
    return problems
