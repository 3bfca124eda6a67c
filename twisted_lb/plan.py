"""What to run: the settings and the fleet, read and checked as a whole before anything is started.

The files are read here, and what only the parts themselves know (what is a Redis URL, an endpoint, a
balancer) is asked of them, so that a person sees every problem of a start at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from twisted.internet.endpoints import serverFromString

from twisted_lb.balancers.registry import BalancerError, make_balancer
from twisted_lb.config import FleetSpec, line_of, read_fleet
from twisted_lb.demo import demo_address
from twisted_lb.environment import read_settings
from twisted_lb.limits.pricing import PricingError, make_pricing
from twisted_lb.settings import Misconfigured, Settings
from twisted_lb.stores.redis_endpoints import check_redis
from twisted_lb.stores.redis_url import RedisSecurity

DEFAULT_ENV_FILE = ".env"
# The settings that name a file or a directory.
FILES = ("data_dir", "servers_file", "redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file")


class Plan(NamedTuple):
    """A checked start.  `fleet_text` is what `fleet` was read from."""

    settings: Settings
    fleet: FleetSpec
    fleet_text: str
    demo: bool


def read_plan(
    options: Mapping[str, str | Sequence[str]],
    env_file: str | None,
    demo: bool,
    environment: Mapping[str, str],
    reactor: Any,
) -> Plan:
    """Read .env and the servers file and check everything.

    `options` go by the names of the settings.  Raises Misconfigured with every problem there is.
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
    problems += _endpoint_problems(settings, reactor)
    problems += _redis_problems(settings)
    fleet, fleet_text = None, ""
    try:
        fleet_text = read_text(settings.servers_file)
        fleet = check_fleet(fleet_text, settings.servers_file)
    except Misconfigured as error:
        problems += error.problems
    if fleet is not None and demo and not any(demo_address(server.host) for server in fleet.servers):
        problems.append(f"option --demo: {settings.servers_file} names no server on a loopback address")
    if problems or fleet is None:
        raise Misconfigured(problems)
    # twistd may change the directory before the store is opened and the servers file is read again.
    paths = {name: os.path.abspath(path) for name in FILES if (path := getattr(settings, name))}
    return Plan(replace(settings, **paths), fleet, fleet_text, demo)


def look_beside(servers_file: str) -> None:
    """A balancer of the user's own may stand beside the servers file, or where the program is started."""
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


def check_fleet(text: str, file_name: str) -> FleetSpec:
    """The fleet that the text of a servers file describes, with a balancer and a pricing that can be made.

    Raises Misconfigured.
    """
    fleet = read_fleet(text, file_name)
    look_beside(file_name)
    problems = []
    try:
        make_balancer(fleet.balancer, fleet.options)
    except BalancerError as error:
        problems.append(f"{file_name}:{line_of(text, 'balancer')}: balancer: {error}")
    try:
        make_pricing(fleet.pricing, fleet.pricing_options)
    except PricingError as error:
        problems.append(f"{file_name}:{line_of(text, 'pricing')}: pricing: {error}")
    if problems:
        raise Misconfigured(problems)
    return fleet


def security_of(settings: Settings) -> RedisSecurity:
    """What beside its URL it takes to speak with Redis."""
    return RedisSecurity(
        settings.redis_tls_ca_file,
        settings.redis_tls_cert_file,
        settings.redis_tls_key_file,
        settings.redis_sentinel_password,
    )


def _redis_problems(settings: Settings) -> list[str]:
    """What is wrong with the URL, or contradicts it: a setting that could have no effect is a mistake."""
    security = security_of(settings)
    if settings.redis_url:
        try:
            check_redis(settings.redis_url, security)
        except ValueError as error:
            return [str(error)]
        return []
    names = [f"REDIS_TLS_{name.upper()}" for name in ("ca_file", "cert_file", "key_file") if getattr(security, name)]
    names += ["REDIS_SENTINEL_PASSWORD"] if security.sentinel_password else []
    return [f"{name}: it is set, but REDIS_URL is empty, and the embedded store does not need it" for name in names]


def _endpoint_problems(settings: Settings, reactor: Any) -> list[str]:
    problems = []
    listeners = [("LISTEN", endpoint) for endpoint in settings.listen]
    listeners += [("HEALTH_LISTEN", endpoint) for endpoint in settings.health_listen]
    for name, endpoint in [*listeners, ("ADMIN_LISTEN", settings.admin_listen)]:
        try:
            serverFromString(reactor, endpoint)
        # Each kind of endpoint parses its own arguments, and fails in its own way.
        except Exception as error:
            problems.append(f"{name}: {endpoint!r} is no server endpoint such as tcp:8080: {error}")
    return problems
