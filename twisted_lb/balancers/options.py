"""Checks the options that a balancer is given in servers.yaml.

Each function returns the value, or raises OptionError with one line that names the option, what was
expected, and what was given.
"""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite
from re import fullmatch
from reprlib import repr as shortened

# RFC 9110 section 5.6.2: names of fields and of cookies are tokens.
TOKEN = r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+"


class OptionError(ValueError):
    """A balancer cannot use this value of an option."""

    def __init__(self, option: str, expected: str, given: object) -> None:
        what = "nothing" if given is None else shortened(given)
        super().__init__(f"{option}: expected {expected}, not {what}")


def word(option: str, given: object, words: Collection[str]) -> str:
    """One of `words`."""
    if not isinstance(given, str) or given not in words:
        raise OptionError(option, f"one of {', '.join(sorted(words))}", given)
    return given


def token(option: str, given: object, what: str) -> str:
    """A name that can stand in a header."""
    if not isinstance(given, str) or not fullmatch(TOKEN, given):
        raise OptionError(option, f"{what} (letters, digits and any of -_.!#$%&'*+^`|~)", given)
    return given


def number(option: str, given: object, least: float, most: float, unit: str) -> float:
    """A finite number from `least` to `most`."""
    allowed = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not allowed or not isfinite(float(given)) or not least <= float(given) <= most:  # type: ignore[arg-type]
        raise OptionError(option, f"{unit} from {least:g} to {most:g}", given)
    return float(given)  # type: ignore[arg-type]


def flag(option: str, given: object) -> bool:
    """True or false."""
    if not isinstance(given, bool):
        raise OptionError(option, "true or false", given)
    return given
