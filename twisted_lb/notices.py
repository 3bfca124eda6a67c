"""Notices that a user has used most of a quota, or all of it.

Their ids are derived from what they are about: however often one is made or sent, it is the same to a receiver.
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

from twisted_lb.quotas import Quota


class Notice(NamedTuple):
    """A threshold was reached."""

    id: str
    threshold: int  # percent of the amount
    time_us: int  # microseconds since 1970, by the clock of the store
    user: str  # the name
    quota: Quota  # as it was then


def notice_id(owner: str, starts_us: int, threshold: int) -> str:
    """For the user with this digest of the first key, and the period that starts then."""
    return f"msg_{sha1(f'{owner} {starts_us} {threshold}'.encode()).hexdigest()}"
