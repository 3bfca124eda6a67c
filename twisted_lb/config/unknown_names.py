"""Names in .env and in the environment that resemble settings, so that a misspelt setting is not ignored silently.

.env belongs to this program, so every unknown name in it is reported.  The environment contains names of other
programs: of these, only names that begin like a setting, or differ from one by a letter or two, are reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from twisted_lb.config.env_file import Given

TYPO_LIKENESS = 0.85  # at least this: a misspelling
LIKENESS = 0.7  # at least this: a setting is suggested
LIKENESS_IN_FAMILY = 0.5  # the same when it begins with the same word
MOST_NOTICES = 20
# Docker compose reads these from the same .env.
_NOT_FOR_US = ("COMPOSE_", "DOCKER_")
# Common prefixes of a program's settings.
_OUR_NAMES = ("TOKENLB_", "TWISTED_LB_")
# The command `tokenlb` reads these from the environment.
_OF_THE_COMMAND = ("TOKENLB_URL", "TOKENLB_TOKEN")
# Prefixes that several settings share, and that are specific enough.
_BEGINNINGS = ("REDIS_", "ADMIN_", "UPSTREAM_", "RATE_LIMIT_", "KEEPALIVE_")
# Settings of other gateways, which people expect here.
_EXPECTED = {
    "LOG_LEVEL": "the log level cannot be set",
    "LOG_FORMAT": "the log format cannot be set",
}
# Kubernetes makes such names for each service: REDIS_SERVICE_HOST, REDIS_PORT, REDIS_PORT_6379_TCP_ADDR.
_OF_KUBERNETES = re.compile(r".*_(SERVICE_(HOST|PORT)(_.*)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?)")


def is_slip(name: str, settings: Sequence[str]) -> str:
    """The setting from which `name` differs by a letter or two, or ""."""
    name = name.upper()
    # Comparing is slow, and environments are large.
    ends = [one for one in settings if one[:2] == name[:2] or one[-3:] == name[-3:]]
    near = [one for one in ends if abs(len(one) - len(name)) <= 3]
    return next(iter(get_close_matches(name, near, 1, TYPO_LIKENESS)), "")


def notices(from_file: Mapping[str, Given], environment: Iterable[str], settings: Sequence[str]) -> list[str]:
    """A message for each reported name, except misspellings in .env, which are problems."""
    known = set(settings)
    lines = [
        _notice(name, given.source, settings)
        for name, given in from_file.items()
        if name not in known and not is_slip(name, settings) and not name.startswith(_NOT_FOR_US)
    ]
    lines += [
        _notice(name, "environment", settings)
        for name in sorted(environment)
        if name not in known and name not in from_file and _looks_like_ours(name, settings)
    ]
    if len(lines) > MOST_NOTICES:
        lines[MOST_NOTICES:] = [f"and {len(lines) - MOST_NOTICES} more unknown names"]
    return lines


def _looks_like_ours(name: str, settings: Sequence[str]) -> bool:
    if name in _OF_THE_COMMAND or _OF_KUBERNETES.fullmatch(name):
        return False
    if name in _EXPECTED or name.startswith((*_OUR_NAMES, *_BEGINNINGS)):
        return True
    return bool(_extended(name, settings) or is_slip(name, settings))


def _extended(name: str, settings: Sequence[str]) -> str:
    """The setting that `name` begins with, as in UPSTREAM_TIMEOUT_MS.  Not one word: systemd sets LISTEN_FDS."""
    return next((one for one in settings if "_" in one and name.startswith(f"{one}_")), "")


def _notice(name: str, source: str, settings: Sequence[str]) -> str:
    return f"{name} ({source}): this is not a setting, and is ignored; {_hint(name, settings)}"


def _hint(name: str, settings: Sequence[str]) -> str:
    bare = name.upper()
    for ours in _OUR_NAMES:
        bare = bare.removeprefix(ours)
    if bare in settings:
        return f"did you mean {bare}?"
    if bare in _EXPECTED:
        return _EXPECTED[bare]
    close = _extended(bare, settings) or _nearest(bare, settings)
    return f"the most similar setting is {close}" if close else ".env.example lists all settings"


def _nearest(name: str, settings: Sequence[str]) -> str:
    family = [one for one in settings if one.partition("_")[0] == name.partition("_")[0]]
    close = get_close_matches(name, family, 1, LIKENESS_IN_FAMILY) or get_close_matches(name, settings, 1, LIKENESS)
    return close[0] if close else ""
