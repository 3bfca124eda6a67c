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
from twisted_lb.config import FleetSpec, read_fleet
from twisted_lb.demo import demo_address
from twisted_lb.environment import read_settings
from twisted_lb.settings import Misconfigured, Settings
from twisted_lb.stores.redis_url import parse_redis_url

DEFAULT_ENV_FILE = ".env"


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
        env_text = _read(env_file or DEFAULT_ENV_FILE, problems) or ""
    settings, wrong = read_settings(options, environment, env_text, env_file or DEFAULT_ENV_FILE)
    problems += wrong
    # twistd may change the directory before the store is opened.
    settings = replace(settings, data_dir=os.path.abspath(settings.data_dir))
    problems += _endpoint_problems(settings, reactor)
    if settings.redis_url:
        try:
            parse_redis_url(settings.redis_url)
        except ValueError as error:
            problems.append(str(error))
    fleet_text = _read(settings.servers_file, problems)
    fleet = _fleet(fleet_text, settings.servers_file, problems) if fleet_text is not None else None
    if fleet is not None and demo and not any(demo_address(server.host) for server in fleet.servers):
        problems.append(f"option --demo: {settings.servers_file} names no server on a loopback address")
    if problems or fleet is None or fleet_text is None:
        raise Misconfigured(problems)
    return Plan(settings, fleet, fleet_text, demo)


def look_beside(servers_file: str) -> None:
    """A balancer of the user's own may stand beside the servers file, or where the program is started."""
    for directory in (os.path.dirname(os.path.abspath(servers_file)), os.getcwd()):
        if directory not in sys.path:
            sys.path.append(directory)


def _read(file_name: str, problems: list[str]) -> str | None:
    try:
        with open(file_name, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        problems.append(f"{file_name}: cannot be read: {error.strerror}")
    except ValueError:
        problems.append(f"{file_name}: cannot be read: it is not UTF-8 text")
    return None


def _endpoint_problems(settings: Settings, reactor: Any) -> list[str]:
    problems = []
    listeners = [("LISTEN", endpoint) for endpoint in settings.listen]
    for name, endpoint in [*listeners, ("ADMIN_LISTEN", settings.admin_listen)]:
        try:
            serverFromString(reactor, endpoint)
        # Each kind of endpoint parses its own arguments, and fails in its own way.
        except Exception as error:
            problems.append(f"{name}: {endpoint!r} is no server endpoint such as tcp:8080: {error}")
    return problems


def _fleet(text: str, file_name: str, problems: list[str]) -> FleetSpec | None:
    try:
        fleet = read_fleet(text, file_name)
    except Misconfigured as error:
        problems += error.problems
        return None
    look_beside(file_name)
    try:
        make_balancer(fleet.balancer, fleet.options)
    except BalancerError as error:
        problems.append(f"{file_name}: balancer: {error}")
        return None
    return fleet
