"""Determines the admin listener that a command is for, and the token.

1. The URL: --url, TOKENLB_URL, or that of ADMIN_LISTEN, on which the program of this directory listens.
2. The token: --token or --token-file, TOKENLB_TOKEN, or ADMIN_TOKEN.
3. ADMIN_LISTEN and ADMIN_TOKEN are read as the program itself reads them: the environment before .env.
4. ADMIN_TOKEN belongs to the program of this directory: it is not sent to a URL of --url or TOKENLB_URL, unless that is
   on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import click

from twisted_lb.cli.client import Place
from twisted_lb.cli.failures import USAGE, Failed

DEFAULT_LISTEN: Final = "tcp:9090:interface=127.0.0.1"
DEFAULT_SECONDS: Final = 30.0
_SETTINGS: Final = ("ADMIN_LISTEN", "ADMIN_TOKEN", "ADMIN_TOKEN_FILE")
# RFC 9110 section 5.5: a field value without white space.
_TOKEN: Final = re.compile(r"[!-~]+")
# Twisted's endpoint strings: colons within a value are escaped by a backslash.
_PART: Final = re.compile(r"(?:[^:\\]|\\.)*")
_ESCAPE: Final = re.compile(r"\\(.)")


class Given(NamedTuple):
    """The options; None for those that are absent."""

    url: str | None = None
    token: str | None = None
    token_file: str | None = None
    env_file: str | None = None


def target(given: Given, environment: Mapping[str, str]) -> tuple[Place, str]:
    """The listener and the token, "" for none.  Raises UsageError and Failed."""
    url = given.url or environment.get("TOKENLB_URL")
    token = _given_token(given, environment)
    place = place_of_url(url) if url else None
    # If nothing in .env is needed, it is not read: it may belong to another user.
    if place is None or (not token and _here(place)):
        settings = _settings(given.env_file, environment)
        place = place or place_of_endpoint(settings.get("ADMIN_LISTEN", DEFAULT_LISTEN))
        token = token or _token_of(settings)
    if token and _TOKEN.fullmatch(token) is None:
        raise Failed("The token is not valid: it has characters that are not visible ASCII.", USAGE)
    return place, token


def place_of_url(url: str) -> Place:
    """The place of a URL such as https://lb.example:9090, or unix:/run/tokenlb.sock.  Raises UsageError."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path:
            raise click.UsageError("The URL unix: has no path of a socket.")
        return Place(url, "", 0, unix_path=path)
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        raise click.UsageError("The URL is not valid.") from None
    if scheme not in ("http", "https") or not host:
        like = "http://localhost:9090, https://lb.example or unix:/run/admin.sock"
        raise click.UsageError(f"The URL has to be like {like}.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # The message does not repeat the URL, which may contain a password.
        raise click.UsageError("The URL has more than a host, a port and a path; tokens are given by --token-file.")
    if not all("!" <= one <= "~" for one in parts.path):
        raise click.UsageError("The path of the URL is not percent-encoded.")
    tls = scheme == "https"
    return Place(url, host, port or (443 if tls else 80), parts.path.rstrip("/"), tls)


def place_of_endpoint(endpoint: str) -> Place:
    """The place at which an endpoint of ADMIN_LISTEN can be reached.  Raises UsageError."""
    words = [_ESCAPE.sub(r"\1", part) for part in _PART.findall(endpoint) if part]
    kind, parts = words[0] if words else "", words[1:]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    first = parts[0] if parts and "=" not in parts[0] else ""
    if kind == "unix":
        path = named.get("address", first)
        return Place(f"unix:{path}", "", 0, unix_path=path)
    port = named.get("port", first)
    if kind not in ("tcp", "tcp6") or not port.isascii() or not port.isdecimal():
        raise click.UsageError(f"Give --url: where to reach the ADMIN_LISTEN {endpoint} is not known.")
    host = named.get("interface", "")
    if host in ("", "0.0.0.0", "::"):
        host = "localhost" if kind == "tcp" else "::1"
    shown = f"[{host}]" if ":" in host else host
    return Place(f"http://{shown}:{port}", host, int(port))


def _here(place: Place) -> bool:
    if place.unix_path or place.host == "localhost":
        return True
    try:
        return ip_address(place.host).is_loopback
    except ValueError:
        return False


def _given_token(given: Given, environment: Mapping[str, str]) -> str:
    if given.token is not None and given.token_file is not None:
        raise click.UsageError("Give --token or --token-file, not both.")
    if given.token is not None:
        return given.token
    if given.token_file is not None:
        return _secret(given.token_file)
    return environment.get("TOKENLB_TOKEN", "")


def _settings(env_file: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """The values of those of _SETTINGS that are not empty.  Raises Failed."""
    path = Path(env_file or ".env")
    found: dict[str, str] = {}
    if env_file is not None or path.exists():
        from twisted_lb.config.env_file import read_env_file

        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise Failed(f"{path} cannot be read: {reason}", USAGE) from None
        found = {name: given.text for name, given in read_env_file(text, str(path), ()).values.items()}
    merged = {name: environment.get(name, found.get(name, "")).strip() for name in _SETTINGS}
    return {name: value for name, value in merged.items() if value}


def _token_of(settings: Mapping[str, str]) -> str:
    in_file = settings.get("ADMIN_TOKEN_FILE")
    return settings.get("ADMIN_TOKEN") or (_secret(in_file) if in_file else "")


def _secret(path: str) -> str:
    from twisted_lb.config.secret_files import SecretError, read_secret, secret_text

    try:
        return secret_text(read_secret(path))
    except SecretError as error:
        raise Failed(f"The token is not in {path}: {error}", USAGE) from None
