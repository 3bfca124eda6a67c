"""Failures of commands, and their exit statuses.

Scripts rely on the exit statuses: they are documented in docs/cli.md, and must not be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

REFUSED: Final = 1  # the program refused the command, or the command failed
USAGE: Final = 2  # click's own, for a command line that is not valid
UNREACHABLE: Final = 3  # no response, or one that is not from an admin API
NOT_FOUND: Final = 4
NOT_PERMITTED: Final = 5  # no token, a wrong one, or one without the scope
CONFLICT: Final = 6
UNAVAILABLE: Final = 7  # for now: a repetition may succeed
# As shells report programs that were ended by SIGINT and SIGPIPE.
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

MIN_TOKEN: Final = 6  # characters; a shorter token could be a part of any text by chance

_OF_STATUS: Final = {401: NOT_PERMITTED, 403: NOT_PERMITTED, 404: NOT_FOUND, 409: CONFLICT, 503: UNAVAILABLE}


class Failed(Exception):
    """`message` is for a person; `more` are further members of the JSON document."""

    def __init__(self, message: str, exit_status: int = REFUSED, **more: Any) -> None:
        super().__init__(message)
        self.message = message
        self.exit_status = exit_status
        self.more: Mapping[str, Any] = {name: value for name, value in more.items() if value is not None}


def unreachable(message: str, **more: Any) -> Failed:
    """The failure if no admin listener has responded."""
    return Failed(message, UNREACHABLE, **more)


def refused(status: int, problem: Mapping[str, Any], retry_after: str | None, token: str) -> Failed:
    """The failure that a problem document describes; `token` is removed from its text."""
    detail = problem.get("detail") or problem.get("title")
    text = detail if isinstance(detail, str) else f"the program has answered {status}"
    if len(token) >= MIN_TOKEN:
        # Another program at this address may repeat the request.
        text = text.replace(token, "...")
    advice = ""
    if status == 401 and not token:
        advice = "Give a token: --token-file, TOKENLB_TOKEN, or ADMIN_TOKEN in .env."
    elif status == 401:
        advice = "The token is not one of this program."
    elif status == 503:
        when = f" in {retry_after} s" if retry_after is not None and retry_after.isdigit() else ""
        again = "" if "again" in text else f"Try again{when}. "
        advice = f"{again}`tokenlb status` shows what is unavailable."
    message = f"{text} {advice}".strip() if text.endswith((".", "!", "?")) or not advice else f"{text}. {advice}"
    request_id = problem.get("request_id")
    shown_id = request_id if isinstance(request_id, str) else None
    return Failed(message, _OF_STATUS.get(status, REFUSED), status=status, detail=text, request_id=shown_id)
