"""Types of parameters: functions from the text on the command line to the value that is sent.  Raise BadParameter."""

from __future__ import annotations

import json
import re
import time
from typing import Any, Final

import click

NEVER: Final = "never"
# A unit is required: a number alone could be meant as a time.
_DURATION: Final = re.compile(r"[0-9][0-9.]*(?:ms|s|m|h|d)")
_FIELD: Final = re.compile(r"[!-~]{1,255}")


def text(value: str) -> str:
    """A text that is not empty."""
    if not value:
        raise click.BadParameter("it is empty")
    return label_text(value)


def label_text(value: str) -> str:
    """A text that may be empty."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8 text") from None
    return value


def field_text(value: str) -> str:
    """A text that can be the value of a header field."""
    if _FIELD.fullmatch(value) is None:
        raise click.BadParameter("it is not a text of 1 to 255 visible ASCII characters")
    return value


def json_object(value: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise click.BadParameter('it is not a JSON object, such as {"plan": "gold"}')
    return found


def moment_ahead(value: str) -> str:
    """A time as in RFC 3339, from such a time or a duration from now; or NEVER."""
    return value if value == NEVER else _moment(value, 1, f", nor {NEVER}")


def moment_ago(value: str) -> str:
    """A time as in RFC 3339, from such a time or a duration before now."""
    return _moment(value, -1, "")


def _moment(value: str, direction: int, more: str) -> str:
    from twisted_lb.timestamps import read_duration, read_rfc3339, rfc3339

    try:
        if _DURATION.fullmatch(value):
            return rfc3339(int(time.time()) * 1_000_000 + direction * read_duration(value))
        read_rfc3339(value)
    except (ValueError, OverflowError):
        expected = "neither a time such as 2026-12-31T00:00:00Z nor a duration such as 30d"
        raise click.BadParameter(expected + more) from None
    return value
