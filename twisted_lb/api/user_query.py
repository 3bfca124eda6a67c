"""Parses the query of `GET /users`: the page, and the filters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted_lb.api.responses import Refusal
from twisted_lb.timestamps import TIME, read_rfc3339
from twisted_lb.user_names import MAX_NAME_CHARACTERS
from twisted_lb.users import ACTIVE, DISABLED, MAX_LABEL_CHARACTERS, REVOKED, UserFilter

USUAL_PAGE: Final = 100
LARGEST_PAGE: Final = 200
_PAGE_SIZE: Final = re.compile(r"[0-9]{1,3}")
_KEY_ID: Final = re.compile(r"(?:k|ke|key|key_[0-9a-f]{0,16})?")
_EXPECTED: Final = (
    "/users takes after=NAME and limit=N, and the filters name, key_id, label, state, disabled, used_since and "
    "unused_since, each once at most, and nothing else."
)


def page_asked_for(arguments: Mapping[bytes, Sequence[bytes]]) -> tuple[str, int, UserFilter]:
    """The `after`, the size of the page, and the filter.  Raises Refusal."""
    given: dict[str, str] = {}
    for name, values in arguments.items():
        text = name.decode("latin-1")
        if len(values) > 1 or (text not in ("after", "limit") and text not in _FILTERS):
            raise Refusal(400, _EXPECTED)
        try:
            given[text] = values[0].decode()
        except UnicodeDecodeError:
            what = "a name" if text == "after" else "text"
            raise Refusal(400, f"{text} is not {what} in percent-encoded UTF-8.") from None
    after = given.pop("after", "")
    # No user has such a name.  Other rules are not checked: there may be users created before those rules existed.
    if not could_be_name(after):
        raise Refusal(400, f"after is not a name of up to {MAX_NAME_CHARACTERS} printable characters.")
    limit = given.pop("limit", str(USUAL_PAGE))
    if _PAGE_SIZE.fullmatch(limit) is None or not 1 <= int(limit) <= LARGEST_PAGE:
        raise Refusal(400, f"limit is not a whole number from 1 to {LARGEST_PAGE}.")
    filters: dict[str, Any] = {}
    for text, value in given.items():
        expected, read = _FILTERS[text]
        try:
            filters[text] = read(value)
        except ValueError:
            raise Refusal(400, f"{text} is not {expected}.") from None
    return after, int(limit), UserFilter(**filters)


def could_be_name(text: str) -> bool:
    """Whether `text` may be a name in a request; so may "", which sorts before all names."""
    return len(text) <= MAX_NAME_CHARACTERS and not any(unicodedata.category(one) == "Cc" for one in text)


def _text(most: int) -> Callable[[str], str]:
    def read(text: str) -> str:
        if len(text) > most:
            raise ValueError
        return text

    return read


def _one_of(**values: object) -> Callable[[str], object]:
    def read(text: str) -> object:
        if text not in values:
            raise ValueError
        return values[text]

    return read


def _key_id(text: str) -> str:
    if _KEY_ID.fullmatch(text) is None:
        raise ValueError
    return text


# The filters: what is expected, for error messages, and the function that reads the value.
_FILTERS: Final[Mapping[str, tuple[str, Callable[[str], object]]]] = {
    "name": (f"a part of a name, of up to {MAX_NAME_CHARACTERS} characters", _text(MAX_NAME_CHARACTERS)),
    "key_id": ("the beginning of a key_id: key_ and up to 16 digits of 0-9a-f", _key_id),
    "label": (f"a part of a label, of up to {MAX_LABEL_CHARACTERS} characters", _text(MAX_LABEL_CHARACTERS)),
    "state": ("active, disabled or revoked", _one_of(**{one: one for one in (ACTIVE, DISABLED, REVOKED)})),
    "disabled": ("true or false", _one_of(true=True, false=False)),
    "used_since": (TIME, read_rfc3339),
    "unused_since": (TIME, read_rfc3339),
}
