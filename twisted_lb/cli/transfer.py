"""`tokenlb users export` and `import`: all users as JSON Lines, streamed.

An import is sent in pieces of whole lines.  The program accepts up to 4 MiB per request; the pieces are smaller, so
that an export at the other end of a pipe never has to wait for long.  A line may be sent again: users that exist are
not changed.  So an import that was interrupted is repeated as a whole.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

import click

from twisted_lb.cli.client import AdminClient
from twisted_lb.cli.display import show_json, show_notice, show_values
from twisted_lb.cli.failures import REFUSED, Failed, unreachable
from twisted_lb.cli.options import as_json, pass_client
from twisted_lb.cli.users import users as users

PIECE_BYTES: Final = 256 * 1024
MAX_LINE_BYTES: Final = 4 * 1024 * 1024 - 1
ERROR: Final = "error"


class Piece(NamedTuple):
    """Several lines, and the number of the first one."""

    first: int
    lines: list[bytes]


@users.command("export")
@pass_client
def export_users(client: AdminClient) -> None:
    """Write all users to standard output, one line of JSON each, with digests in place of keys."""
    for piece in client.stream("GET", "/export/users"):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@users.command("import")
@click.argument("file", type=click.File("rb"), default="-")
@pass_client
def import_users(client: AdminClient, file: IO[bytes]) -> None:
    """Create users from lines of an export, in a file or from standard input.

    Users that exist are not changed, so an import may be repeated. The exit status is 1 if a line was not stored.
    """
    counts = {"stored": 0, "unchanged": 0, ERROR: 0}
    errors: list[dict[str, Any]] = []
    for piece in pieces(file):
        for one in _import_piece(client, piece):
            counts[one["result"]] = counts.get(one["result"], 0) + 1
            if one["result"] == ERROR:
                found = {name: one.get(name) for name in ("line", "name", "detail")}
                if as_json():
                    errors.append(found)
                else:
                    name = f" ({one['name']})" if one.get("name") else ""
                    show_notice(f"line {one['line']}{name}: {one.get('detail')}")
    shown = {"stored": counts["stored"], "unchanged": counts["unchanged"], "errors": counts[ERROR]}
    if as_json():
        show_json({**shown, "errors": errors})
    else:
        show_values(shown)
    if counts[ERROR]:
        click.get_current_context().exit(REFUSED)


def pieces(file: IO[bytes]) -> Iterator[Piece]:
    """The whole lines of the file in pieces of up to PIECE_BYTES, or of one longer line.  Raises Failed."""
    first, lines, size = 1, list[bytes](), 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise Failed(f"line {first + len(lines)} is longer than {MAX_LINE_BYTES} bytes: this is not an export")
        if lines and size + len(line) > PIECE_BYTES:
            yield Piece(first, lines)
            first, lines, size = first + len(lines), [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield Piece(first, lines)


def _import_piece(client: AdminClient, piece: Piece) -> Iterator[dict[str, Any]]:
    """The result of each line, with its number in the file.  Raises Failed, whose message names the lines."""
    expected = sum(1 for line in piece.lines if line.strip())
    if not expected:
        return
    last = piece.first + len(piece.lines) - 1
    answered = 0
    try:
        for line in _lines(client.stream("POST", "/import/users", b"".join(piece.lines))):
            answered += 1
            yield _result(line, piece.first)
        if answered != expected:
            raise unreachable(f"{expected} lines were sent, and {answered} were answered")
    except Failed as failed:
        failed.message += f" (lines {piece.first} to {last}; the import may be repeated as a whole)"
        raise


def _result(line: bytes, first: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
        return {**found, "line": found["line"] + first - 1, "result": str(found["result"])}
    except (ValueError, TypeError, KeyError):
        raise unreachable("the answer is not that of an import") from None


def _lines(stream: Iterator[bytes]) -> Iterator[bytes]:
    held = io.BytesIO()
    for piece in stream:
        held.write(piece)
        if b"\n" in piece:
            *whole, rest = held.getvalue().split(b"\n")
            yield from whole
            held = io.BytesIO()
            held.write(rest)
    if held.getvalue():
        yield held.getvalue()
