"""Lists of names, in messages and in settings."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def from_list(value: object) -> object:
    """A value that is a list, or one text separated by commas, which becomes a list; any other value stays as it is."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value
