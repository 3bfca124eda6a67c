"""Reads the settings.  Options take precedence over the environment, then .env, then the defaults.

1. Each setting is a text at first, taken from the first of the three sources that has it.
2. An empty text means the default, so that `REDIS_URL=` before a command unsets the value in .env.
3. The reader of the setting converts the text to a value, or says what was expected.
4. Nothing is raised: all problems are returned together, and a setting with a problem has its default.

The only I/O is reading secrets in files (NAME_FILE): the environment and the text of .env are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from twisted_lb.config.address_ranges import EXPECTED, NotRanges, read_ranges
from twisted_lb.config.combinations import combination_problems
from twisted_lb.config.env_file import EnvFile, Given, read_env_file
from twisted_lb.config.readers import Reader, duration, number, on_or_off, one_of, size, whole
from twisted_lb.config.secret_files import SecretError, read_secret, secret_text
from twisted_lb.config.settings import Settings
from twisted_lb.config.unknown_names import is_slip, notices
from twisted_lb.key_format import PREFIX
from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_RATE_PER_SEC
from twisted_lb.own_fields import NO_KEY_FIELDS
from twisted_lb.wire.hsts import read_policy

HEADER_FAMILIES = ("x-ratelimit", "ratelimit")
UNUSUAL_NAMES = ("drop", "pass")
ADMIN_WRITES = ("live", "file")
REQUEST_IDS = ("off", "id", "on")
REDIRECTS = ("off", "https")
SELF_SERVICE_CREATE = ("open", "token", "off")
TLS_VERSIONS = ("1.2", "1.3")
TLS_CLIENT_AUTH = ("optional", "required")
STORE_ERROR_MODES = ("local", "deny", "allow")

_KEY_FIELD = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
# RFC 3986 section 2.3: these are never percent-encoded for a reason.
_PARAMETER = re.compile(r"[A-Za-z0-9._~-]{1,64}")


def _key_prefix(text: str) -> str:
    if PREFIX.fullmatch(text) is None:
        raise ValueError
    return text


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


def _key_fields(text: str) -> tuple[str, ...]:
    names = text.lower().replace(",", " ").split()
    if not names or not all(_KEY_FIELD.fullmatch(name) for name in names) or not NO_KEY_FIELDS.isdisjoint(
        name.encode() for name in names
    ):
        raise ValueError
    return tuple(dict.fromkeys(names))


def _parameter(text: str) -> str:
    if _PARAMETER.fullmatch(text) is None:
        raise ValueError
    return text


READERS: dict[str, Reader] = {
    "listen": Reader("a list of endpoints such as tcp:80 or tcp6:8080, separated by spaces", _endpoints),
    "admin_listen": Reader("one server endpoint such as tcp:9090:interface=127.0.0.1", _endpoint),
    "health_listen": Reader("a list of endpoints such as tcp:9091, separated by spaces", _endpoints),
    "tls_listen": Reader("a list of endpoints such as tcp:443 or tcp6:443, separated by spaces", _endpoints),
    "tls_min_version": one_of(*TLS_VERSIONS),
    # OpenSSL validates it.
    "tls_ciphers": Reader("any text", str),
    "tls_handshake_timeout": duration(),
    "tls_max_handshakes": whole(1, 1_000_000),
    "tls_client_ca_file": Reader("a file name", str),
    "tls_client_auth": one_of(*TLS_CLIENT_AUTH),
    "tls_cert_file": Reader("a file name", str),
    "tls_key_file": Reader("a file name", str),
    "tls_cert_dir": Reader("a directory", str),
    "http_redirect": one_of(*REDIRECTS),
    "https_port": whole(0, 65535),
    "hsts": Reader(
        "seconds such as 31536000, or a value such as max-age=31536000; includeSubDomains; preload", read_policy
    ),
    "servers_file": Reader("a file name", str),
    # The store validates it.
    "redis_url": Reader("any text", str),
    "redis_tls_ca_file": Reader("a file name", str),
    "redis_tls_cert_file": Reader("a file name", str),
    "redis_tls_key_file": Reader("a file name", str),
    "redis_sentinel_password": Reader("any text", str),
    "redis_deadline": duration(),
    "on_store_error": one_of(*STORE_ERROR_MODES),
    "local_keys": whole(1, 100_000_000),
    "data_dir": Reader("a directory", str),
    # They are validated together, without being shown.
    "webhook_url": Reader("any text", str),
    "webhook_secret": Reader("any text", str),
    "workers": whole(1, 256),
    "worker_timeout": duration(lowest=0),
    "key_fields": Reader(
        "a list of field names of letters, digits and '-', separated by spaces, such as authorization x-api-key "
        "apikey, except those with another meaning, such as Host, Cookie, Origin, Connection or X-Forwarded-For",
        _key_fields,
    ),
    "key_query_parameter": Reader("the name of a query parameter: 1 to 64 letters, digits and . _ - ~", _parameter),
    "key_prefix": Reader(
        "up to 32 letters, digits and '_' that begin with a letter and end with '_', such as acme_live_", _key_prefix
    ),
    # It is loaded when everything else is valid.
    "authenticator": Reader("a class as package.module:Class", str),
    "default_capacity": whole(1, MAX_CAPACITY),
    "default_rate_per_sec": number(0, MAX_RATE_PER_SEC),
    "self_service_create": one_of(*SELF_SERVICE_CREATE),
    "self_service_change": on_or_off(),
    "max_capacity": whole(1, MAX_CAPACITY),
    "max_rate_per_sec": number(0, MAX_RATE_PER_SEC),
    "global_capacity": whole(0, MAX_CAPACITY),
    "global_rate_per_sec": number(0, MAX_RATE_PER_SEC),
    "address_capacity": whole(0, MAX_CAPACITY),
    # With a rate of 0 the bucket of a network could never be discarded.
    "address_rate_per_sec": number(0.001, MAX_RATE_PER_SEC),
    "max_in_flight_per_key": whole(0, 1_000_000),
    "max_wait": duration(lowest=0),
    "max_waiting": whole(0, 1_000_000),
    "admin_token": Reader("any text", str),
    "admin_tokens_file": Reader("a file name", str),
    "admin_writes": one_of(*ADMIN_WRITES),
    # The audit log validates it.
    "audit_log": Reader("a file name, or - for standard output", str),
    "admin_max_connections": whole(1, 1_000_000),
    "rate_limit_headers": Reader("x-ratelimit, ratelimit, both separated by a space, or none", _header_families),
    # The access log validates them.
    "access_log": Reader("any text", str),
    "access_log_format": Reader("any text", str),
    "request_id": one_of(*REQUEST_IDS),
    "connect_timeout": duration(),
    "upstream_timeout": duration(),
    "hook_timeout": duration(),
    "upstream_idle_timeout": duration(),
    "upstream_idle_connections": whole(0, 1_000_000),
    "upstream_max_age": duration(lowest=0),
    # The resolver validates it.
    "resolver": Reader("any text", lambda text: tuple(text.split())),
    "tunnel_timeout": duration(lowest=0),
    "head_timeout": duration(),
    "body_timeout": duration(),
    "min_body_rate": whole(0, 1024**3),
    "send_timeout": duration(),
    "half_close_timeout": duration(),
    "lingering_time": duration(lowest=0),
    "lingering_timeout": duration(),
    "lingering_connections": whole(0, 1_000_000),
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
    "trusted_proxies": Reader(EXPECTED, read_ranges),
    "proxy_protocol_from": Reader(EXPECTED, read_ranges),
    "drain_seconds": duration(lowest=0),
}


# The settings that may also be in a file, which NAME_FILE names.
SECRETS: Final = ("redis_url", "redis_sentinel_password", "admin_token", "webhook_secret")


def read_settings(
    options: Mapping[str, str | Sequence[str]],
    environment: Mapping[str, str],
    env_file: str = "",
    env_file_name: str = ".env",
) -> tuple[Settings, list[str]]:
    """The settings, and a line for each problem.

    `options` uses the names of the settings (`connect_timeout`); `environment` and `env_file` (the
    text of .env) use them in upper case.
    """
    values: dict[str, Any] = {}
    from_file = _from_file(env_file, env_file_name)
    problems = from_file.problems
    given: dict[str, Given] = {}
    for name, reader in READERS.items():
        found = _given(name, options, environment, from_file.values)
        in_file = _given(f"{name}_file", {}, environment, from_file.values) if name in SECRETS else None
        if in_file is not None and in_file.text.strip():
            try:
                found = _from_secret_file(name, found, in_file)
            except SecretError as error:
                problems.append(_problem(f"{name}_file", in_file, str(error)))
                continue
        if found is None or not found.text.strip():
            continue
        given[name] = found
        try:
            values[name] = reader.read(found.text.strip())
        except NotRanges as error:
            problems.append(_problem(name, found, str(error)))
        except ValueError:
            problems.append(_problem(name, found, f"{found.text!r} is not {reader.expected}"))
    settings = Settings(**values)
    problems += [_problem(name, given[name], text) for name, text in combination_problems(settings, given)]
    return settings, problems


def with_sources(
    problems: Sequence[str],
    options: Mapping[str, str | Sequence[str]],
    environment: Mapping[str, str],
    env_file: str = "",
    env_file_name: str = ".env",
) -> list[str]:
    """The lines; where one begins with a setting, it says where that was given, as those of `read_settings` do."""
    values = _from_file(env_file, env_file_name).values
    sourced = []
    for problem in problems:
        name, colon, rest = problem.partition(": ")
        known = name.lower() in READERS or name.lower().removesuffix("_file") in SECRETS
        found = _given(name.lower(), options, environment, values) if colon and known else None
        sourced.append(f"{name} ({found.source}): {rest}" if found is not None else problem)
    return sourced


def _from_secret_file(name: str, found: Given | None, in_file: Given) -> Given:
    """The setting in a file.  Raises SecretError."""
    if found is not None and found.text.strip():
        raise SecretError(f"{name.upper()} ({found.source}) is set as well; set one of both")
    path = in_file.text.strip()
    try:
        return Given(secret_text(read_secret(path)), f"{path}, of {name.upper()}_FILE")
    except SecretError as error:
        raise SecretError(f"{path!r}: {error}") from None


def read_notices(environment: Mapping[str, str], env_file: str = "", env_file_name: str = ".env") -> list[str]:
    """A message for everything in .env and the environment that is valid, but may not be what the operator meant."""
    from_file = read_env_file(env_file, env_file_name, _names())
    return [*from_file.notices, *notices(from_file.values, environment, _names())]


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


def _names() -> list[str]:
    return [*(name.upper() for name in READERS), *(f"{name.upper()}_FILE" for name in SECRETS)]


def _from_file(text: str, file_name: str) -> EnvFile:
    """Parse .env; a name that is similar to a setting is a problem as well."""
    names = _names()
    file = read_env_file(text, file_name, names)
    for name, given in file.values.items():
        if name not in names and (meant := is_slip(name, names)):
            file.problems.append(f"{given.source}: {name} is not a setting; did you mean {meant}?")
    file.problems.sort(key=_line_of)
    return file


def _line_of(problem: str) -> int:
    return int(problem.partition(": ")[0].rpartition(" ")[2])
