"""Reads the settings: an option beats the environment, which beats .env, which beats the default.

1. Each setting is a text at first; the first of the three sources that has it wins.
2. An empty text stands for the default, so that `REDIS_URL=` before a command unsets what .env says.
3. Its reader turns the text into a value, or says what was expected.
4. Nothing is raised on the way: all problems are returned together, and a setting with a problem has
   its default.

It is pure: the environment and the text of .env are arguments.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, NamedTuple

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_RATE_PER_SEC
from twisted_lb.settings import Settings

# An unknown name in .env may be another program's, unless it is this much like one of ours.
TYPO_LIKENESS = 0.85
LONGEST_SECONDS = 24 * 3600.0
SECONDS_IN = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES_IN = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
HEADER_FAMILIES = ("x-ratelimit", "ratelimit")
UNUSUAL_NAMES = ("drop", "pass")
STORE_ERROR_MODES = ("local", "deny", "allow")

# number = 1*DIGIT [ "." 1*DIGIT ]
_NUMBER_AND_UNIT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)")
_WHOLE = re.compile(r"[0-9]{1,18}")


class Reader(NamedTuple):
    """How one setting is read: `read` raises ValueError for a text that is not `expected`."""

    expected: str
    read: Callable[[str], object]


class Given(NamedTuple):
    """A setting's text, and where it was written."""

    text: str
    source: str


def duration(lowest: float = 0.001) -> Reader:
    """Seconds as a float, from a number with or without a unit."""

    def read(text: str) -> float:
        match = _NUMBER_AND_UNIT.fullmatch(text.lower())
        if match is None or match[2] not in SECONDS_IN:
            raise ValueError
        seconds = float(match[1]) * SECONDS_IN[match[2]]
        if not lowest <= seconds <= LONGEST_SECONDS:
            raise ValueError
        return seconds

    return Reader(f"a time from {lowest:g}s to 24h, in seconds or with a unit, such as 5, 500ms, 10s or 1m", read)


def size(lowest: int, highest: int) -> Reader:
    """Bytes as an int, from a number with or without a unit (1k is 1024 bytes)."""

    def read(text: str) -> int:
        match = _NUMBER_AND_UNIT.fullmatch(text.lower())
        if match is None or match[2] not in BYTES_IN:
            raise ValueError
        octets = float(match[1]) * BYTES_IN[match[2]]
        if not octets.is_integer() or not lowest <= octets <= highest:
            raise ValueError
        return int(octets)

    return Reader(f"a size from {lowest} to {highest}, in bytes or with a unit, such as 65536, 64k or 10m", read)


def whole(lowest: int, highest: int) -> Reader:
    """An int within these bounds."""

    def read(text: str) -> int:
        if _WHOLE.fullmatch(text) is None or not lowest <= int(text) <= highest:
            raise ValueError
        return int(text)

    return Reader(f"a whole number from {lowest} to {highest}", read)


def number(lowest: float, highest: float) -> Reader:
    """A finite float within these bounds."""

    def read(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not lowest <= value <= highest:
            raise ValueError
        return value

    return Reader(f"a number from {lowest} to {highest}", read)


def one_of(*words: str) -> Reader:
    """One of these words, in any case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return Reader(f"{', '.join(words[:-1])} or {words[-1]}", read)


def _endpoint(text: str) -> str:
    kind, colon, rest = text.partition(":")
    if not (kind.isidentifier() and colon and rest):
        raise ValueError
    return text


def _endpoints(text: str) -> tuple[str, ...]:
    return tuple(_endpoint(word) for word in text.split())


def _header_families(text: str) -> tuple[str, ...]:
    words = text.lower().split()
    if words == ["none"]:
        return ()
    if not set(words) <= set(HEADER_FAMILIES):
        raise ValueError
    return tuple(family for family in HEADER_FAMILIES if family in words)


READERS: dict[str, Reader] = {
    "listen": Reader("a list of endpoints such as tcp:80 or tcp6:8080, separated by spaces", _endpoints),
    "admin_listen": Reader("one server endpoint such as tcp:9090:interface=127.0.0.1", _endpoint),
    "health_listen": Reader("a list of endpoints such as tcp:9091, separated by spaces", _endpoints),
    "servers_file": Reader("a file name", str),
    # What a Redis URL is, the store knows.
    "redis_url": Reader("any text", str),
    "redis_tls_ca_file": Reader("a file name", str),
    "redis_tls_cert_file": Reader("a file name", str),
    "redis_tls_key_file": Reader("a file name", str),
    "redis_sentinel_password": Reader("any text", str),
    "redis_deadline": duration(),
    "on_store_error": one_of(*STORE_ERROR_MODES),
    "local_keys": whole(1, 100_000_000),
    "data_dir": Reader("a directory", str),
    "workers": whole(1, 256),
    "worker_timeout": duration(lowest=0),
    "default_capacity": whole(1, MAX_CAPACITY),
    "default_rate_per_sec": number(0, MAX_RATE_PER_SEC),
    "global_capacity": whole(0, MAX_CAPACITY),
    "global_rate_per_sec": number(0, MAX_RATE_PER_SEC),
    "address_capacity": whole(0, MAX_CAPACITY),
    # At a rate of 0 a network's bucket would have to be kept for ever.
    "address_rate_per_sec": number(0.001, MAX_RATE_PER_SEC),
    "max_in_flight_per_key": whole(0, 1_000_000),
    "max_wait": duration(lowest=0),
    "max_waiting": whole(0, 1_000_000),
    "admin_token": Reader("any text", str),
    "admin_max_connections": whole(1, 1_000_000),
    "rate_limit_headers": Reader("x-ratelimit, ratelimit, both with a space between, or none", _header_families),
    "connect_timeout": duration(),
    "upstream_timeout": duration(),
    "upstream_idle_timeout": duration(),
    "upstream_idle_connections": whole(0, 1_000_000),
    "head_timeout": duration(),
    "body_timeout": duration(),
    "min_body_rate": whole(0, 1024**3),
    "send_timeout": duration(),
    "half_close_timeout": duration(),
    "keepalive_timeout": duration(),
    "keepalive_requests": whole(1, 1_000_000_000),
    "max_refusals": whole(0, 1_000_000_000),
    "max_head_bytes": size(1024, 1024**2),
    "max_target_bytes": size(64, 1024**2),
    "max_header_fields": whole(1, 10_000),
    "unusual_field_names": one_of(*UNUSUAL_NAMES),
    "max_body_bytes": size(0, 1024**5),
    "max_connections": whole(0, 10_000_000),
    "max_connections_per_address": whole(0, 10_000_000),
    "drain_seconds": duration(lowest=0),
}


def read_settings(
    options: Mapping[str, str | Sequence[str]],
    environment: Mapping[str, str],
    env_file: str = "",
    env_file_name: str = ".env",
) -> tuple[Settings, list[str]]:
    """The settings, and a line for each problem.

    `options` go by the name of the setting (`connect_timeout`), `environment` and `env_file` (the
    text of .env) by its upper case.
    """
    values: dict[str, Any] = {}
    from_file, problems = _read_env_file(env_file, env_file_name)
    given: dict[str, Given] = {}
    for field in fields(Settings):
        found = _given(field.name, options, environment, from_file)
        if found is None or not found.text.strip():
            continue
        given[field.name] = found
        reader = READERS[field.name]
        try:
            values[field.name] = reader.read(found.text.strip())
        except ValueError:
            problems.append(_problem(field.name, found, f"{found.text!r} is not {reader.expected}"))
    settings = Settings(**values)
    if settings.workers > 1 and not settings.redis_url:
        need = "more than one worker needs REDIS_URL: the embedded store cannot be shared by several processes"
        problems.append(_problem("workers", given["workers"], need))
    if settings.global_capacity and not settings.global_rate_per_sec:
        need = "GLOBAL_RATE_PER_SEC has to be more than 0 then: the bucket would never be refilled"
        problems.append(_problem("global_capacity", given["global_capacity"], need))
    return settings, problems


def _problem(name: str, found: Given, text: str) -> str:
    return f"{name.upper()} ({found.source}): {text}"


def _given(
    name: str,
    options: Mapping[str, str | Sequence[str]],
    environment: Mapping[str, str],
    from_file: Mapping[str, Given],
) -> Given | None:
    option = options.get(name)
    if option is not None:
        text = option if isinstance(option, str) else " ".join(option)
        return Given(text, f"option --{name.replace('_', '-')}")
    if name.upper() in environment:
        return Given(environment[name.upper()], "environment")
    return from_file.get(name.upper())


def _read_env_file(text: str, file_name: str) -> tuple[dict[str, Given], list[str]]:
    """What .env says, and its problems: lines that are no setting, and names that look like a slip."""
    lines: dict[str, int] = {}
    problems = []
    names = [field.name.upper() for field in fields(Settings)]
    bindings = list(parse_stream(io.StringIO(text)))
    for binding in bindings:
        written = binding.original.string
        line = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
        if binding.error or (binding.key is not None and binding.value is None):
            problems.append(f"{file_name} line {line}: expected NAME=value")
        elif binding.key is not None:
            lines[binding.key] = line
            if binding.key not in names and (close := get_close_matches(binding.key.upper(), names, 1, TYPO_LIKENESS)):
                problems.append(f"{file_name} line {line}: {binding.key} is no setting; did you mean {close[0]}?")
    # What cannot be parsed is left out, because python-dotenv would print a warning about it.
    parsed = "".join(binding.original.string for binding in bindings if not binding.error)
    values = dotenv_values(stream=io.StringIO(parsed))
    return {
        name: Given(value, f"{file_name} line {lines[name]}") for name, value in values.items() if value is not None
    }, problems
