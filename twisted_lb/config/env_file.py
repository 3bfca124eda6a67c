"""Parses .env: the settings in it, invalid lines, and values that an operator may have meant differently.

1. python-dotenv's grammar: `NAME=value`, comments, `export`, and quotes.  Unquoted, a value ends before ` #`; in double
   quotes a backslash begins an escape such as \\n; in single quotes the only escapes are \\\\ and \\'.
2. Nothing is expanded: `${NAME}` in a password is a part of the password.  A notice reports what other readers of such
   files would expand, unless it is in single quotes, where none of them does.
3. The last value of a repeated name is used, with a notice.

No I/O: text in, values out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from dotenv.parser import Binding, parse_stream

# What shells, python-dotenv and docker compose would replace.
_EXPANDED_ELSEWHERE = re.compile(r"\$\{[^}$]*\}")


class Given(NamedTuple):
    """The text of a setting, and its source."""

    text: str
    source: str


class EnvFile(NamedTuple):
    """The values by their names, and messages: `problems` prevent the start of the program, `notices` do not."""

    values: dict[str, Given]
    problems: list[str]
    notices: list[str]


def read_env_file(text: str, file_name: str, settings: Sequence[str]) -> EnvFile:
    """Parse the file; notices concern only the names in `settings`."""
    read = EnvFile({}, [], [])
    for binding in parse_stream(io.StringIO(text)):
        where = f"{file_name} line {_line(binding)}"
        if binding.error or (binding.key is not None and binding.value is None):
            read.problems.append(f"{where}: expected NAME=value")
        elif binding.key is not None and binding.value is not None:
            if binding.key in settings:
                read.notices.extend(_notices(binding, where, read.values.get(binding.key)))
            read.values[binding.key] = Given(binding.value, where)
    return read


def _line(binding: Binding) -> int:
    # Empty lines before a line belong to it.
    written = binding.original.string
    return binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")


def _notices(binding: Binding, where: str, before: Given | None) -> list[str]:
    notices = []
    if before is not None:
        notices.append(f"{where}: {binding.key} is set again; the value in {before.source} is ignored")
    in_single_quotes = binding.original.string.partition("=")[2].lstrip().startswith("'")
    if _EXPANDED_ELSEWHERE.search(binding.value or "") and not in_single_quotes:
        # The value itself may be a password.
        notices.append(
            f"{where}: {binding.key} contains ${{...}}, which is not expanded here"
            " (put the value into single quotes if this is intended)"
        )
    return notices
