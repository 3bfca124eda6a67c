"""What the command prints: tables for people, one JSON document for programs.

1. Names, labels and messages are not trusted: characters that control a terminal or the direction of its text, or that
   are not visible, are printed as escapes such as \\x1b.
2. On a terminal, tables are drawn by rich, in colours unless NO_COLOR is set.  Elsewhere a table is plain columns,
   one line per row and never truncated, for grep and awk.
3. JSON is printed as ASCII, so it has no such characters either.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click

# Control, format (such as right-to-left overrides), surrogate, unassigned, line and paragraph separator.
_ESCAPED: Final = frozenset(("Cc", "Cf", "Cs", "Cn", "Zl", "Zp"))
_STYLES: Final = {
    "up": "green",
    "active": "green",
    "ready": "green",
    "down": "red",
    "revoked": "red",
    "not ready": "red",
    "disabled": "yellow",
    "expired": "yellow",
    "draining": "yellow",
    "degraded": "yellow",
    "maintenance": "yellow",
}
# For a terminal, where there is less room: shorter titles, and times without fractions of a second.
_TITLES: Final = {"current_capacity": "level", "rate_per_sec": "rate/s", "latency_ms": "ms", "in_flight": "in\nflight"}
_FRACTION: Final = re.compile(r"^([0-9-]{10}T[0-9:]{8})\.[0-9]+Z$")
_LONG: Final = frozenset(
    ("name", "url", "label", "reason", "why_not", "other route", "why not", "created_at", "last_used")
)


def shown(value: object) -> str:
    """The text of a value in a table."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (Mapping, list)):
        return json.dumps(value)
    return escaped(f"{value:.15g}" if isinstance(value, float) else str(value))


def escaped(text: str) -> str:
    """The text, with escapes in place of characters that are not safe or not visible on a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(one) if unicodedata.category(one) in _ESCAPED else one for one in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def show_json(document: object) -> None:
    """Print one document to standard output."""
    click.echo(json.dumps(document, indent=2))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below the names of their columns."""
    cells = [[shown(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        _show_plain(columns, cells)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(_TITLES.get(column, column.replace("_", " ")), overflow="fold", no_wrap=column not in _LONG)
    for row in cells:
        table.add_row(*(Text(_FRACTION.sub(r"\1Z", cell), style=_STYLES.get(cell, "")) for cell in row))
    Console(file=sys.stdout).print(table)


def _show_plain(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    lines = [[column.upper().replace(" ", "_") for column in columns], *cells]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_values(values: Mapping[str, object]) -> None:
    """Print one line for each name and its value."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        click.echo(f"{name.ljust(width)}  {shown(value)}")


def show_notice(text: str) -> None:
    """Print a note to standard error: it is for people, and not part of the result."""
    click.echo(escaped(text), err=True)


def show_failure(message: str, exit_status: int, more: Mapping[str, Any], as_json: bool) -> None:
    """Print to standard error why there is no result."""
    if as_json:
        error = {"exit_status": exit_status, "message": message, **more}
        click.echo(json.dumps({"error": error}, indent=2), err=True)
    else:
        click.echo("\n".join(f"tokenlb: {escaped(line)}" for line in message.splitlines()), err=True)
