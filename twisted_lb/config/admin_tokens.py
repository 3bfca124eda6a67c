"""The tokens of operators: ADMIN_TOKEN, which may do everything, and those of ADMIN_TOKENS_FILE, each with its scopes.

    tokens:
      - name: prometheus
        sha256: 0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33... (64 digits: `printf %s "$TOKEN" | sha256sum`)
        scopes: [read]

The file has digests only: reading it is not enough to use a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from twisted_lb.config.server_url import shortened
from twisted_lb.config.settings import Misconfigured
from twisted_lb.config.yaml_lines import Document, NotYaml, Path, read_yaml
from twisted_lb.credentials import digest

READ: Final = "read"  # to see what the program is and does, and the users
KEYS: Final = "keys"  # to change users and keys, and to export them
SERVERS: Final = "servers"  # to change servers and pools
SCOPES: Final = (READ, KEYS, SERVERS)
ADMIN: Final = "admin"  # the name of ADMIN_TOKEN

MAX_TOKENS: Final = 100

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA_256: Final = re.compile(r"[0-9a-fA-F]{64}")
_EXPECTED: Final = {
    "name": f"a name of up to 64 letters, digits and . _ -, other than {ADMIN}",
    "sha256": "the SHA-256 of the token, 64 hexadecimal digits in quotes",
    "scopes": f"a list of one or more of {', '.join(SCOPES)}",
}


class AdminToken(NamedTuple):
    """One token."""

    name: str  # for the audit log
    digest: str  # SHA-256 in lower-case hexadecimal
    scopes: frozenset[str]


def admin_tokens(token: str) -> tuple[AdminToken, ...]:
    """The token of ADMIN_TOKEN, with all scopes; none if it is empty."""
    return (AdminToken(ADMIN, digest(token.encode()), frozenset(SCOPES)),) if token else ()


def read_admin_tokens(text: str, file_name: str) -> tuple[AdminToken, ...]:
    """The tokens in the text of ADMIN_TOKENS_FILE.  Raises Misconfigured with every problem."""
    try:
        document = read_yaml(text)
    except NotYaml as error:
        raise Misconfigured([f"{file_name}:{error.line}: invalid YAML: {error}"]) from None
    problems = list(_problems(document))
    if problems:
        raise Misconfigured([f"{file_name}:{document.line(path)}: {_dotted(path)}{why}" for path, why in problems])
    data = document.data
    assert isinstance(data, dict)
    return tuple(AdminToken(one["name"], one["sha256"].lower(), frozenset(one["scopes"])) for one in data["tokens"])


def _problems(document: Document) -> Iterator[tuple[Path, str]]:
    data = document.data
    if not isinstance(data, dict) or set(data) != {"tokens"}:
        yield (), "expected one key, tokens"
        return
    for path, first in document.twice:
        yield path, f"it is there twice, first in line {first}"
    tokens = data["tokens"]
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= MAX_TOKENS:
        yield ("tokens",), f"expected a list of 1 to {MAX_TOKENS} tokens"
        return
    seen: dict[object, set[object]] = {"name": set(), "sha256": set()}
    for number, token in enumerate(tokens):
        place: Path = ("tokens", number)
        if not isinstance(token, dict) or set(token) != set(_EXPECTED):
            yield place, f"expected the keys {', '.join(_EXPECTED)}"
            continue
        for key, expected in _EXPECTED.items():
            value = token[key]
            if not _is_valid(key, value):
                shown = "" if key == "sha256" else f", not {shortened.repr(value)}"
                yield (*place, key), f"expected {expected}{shown}"
            elif key in seen:
                if value in seen[key]:
                    yield (*place, key), "another token has it too"
                seen[key].add(value)


def _is_valid(key: str, value: object) -> bool:
    if key == "scopes":
        return isinstance(value, list) and bool(value) and all(one in SCOPES for one in value)
    if not isinstance(value, str):
        return False
    if key == "name":
        return _NAME.fullmatch(value) is not None and value != ADMIN
    return _SHA_256.fullmatch(value) is not None


def _dotted(path: Path) -> str:
    shown = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in path).lstrip(".")
    return f"{shown}: " if shown else ""
