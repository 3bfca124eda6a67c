"""Notices of the embedded store: in memory, and in the database until they are delivered.

A notice is written in the transaction that also writes what was used of the quota, and is due from then on.  So it is
neither lost nor made twice, however the process ends: if it ends before that, neither of them is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.limits.quota_count import QuotaCount
from twisted_lb.notices import Notice, notice_id
from twisted_lb.quotas import Quota

_DUE = 0


class EmbeddedNotices:
    """The methods of INoticeOutbox."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        # Removes one from the database; None: the store is not running.
        self.remove: Callable[[str], Deferred[None]] | None = None
        self.wanted = False
        self._now_us = now_us
        self._new: dict[str, dict[str, Notice]] = {}  # by the digests of their users: not written yet
        self._due: dict[str, tuple[Notice, int]] = {}  # written, and when they are due

    def load(self, rows: Sequence[tuple[str, str]]) -> None:
        """Load the rows of the database.  Raises ValueError for a row that is not a notice."""
        for found_id, content in rows:
            try:
                threshold, time_us, user, quota = json.loads(content)
                self._due[found_id] = Notice(found_id, threshold, time_us, user, Quota(*quota)), _DUE
            except TypeError as error:
                raise ValueError(f"not a notice: {error}") from None

    def clear(self) -> None:
        """Forget all."""
        self._new.clear()
        self._due.clear()

    def look(self, owner: str, name: str, quota: QuotaCount, now_us: int) -> None:
        """Something was used of a quota: make the notices for the thresholds that it has reached now."""
        if not quota.ends_us:
            # They name the period, which is not determined yet.
            return
        for threshold in quota.reached():
            if threshold > quota.told and self.wanted:
                made = Notice(notice_id(owner, quota.starts_us, threshold), threshold, now_us, name, quota.quota())
                self._new.setdefault(owner, {})[made.id] = made
                quota.told = threshold

    def forget(self, owner: str, name: str) -> None:
        """This user was removed: notices that are not written yet are dropped, and those that wait are not sent."""
        self._new.pop(owner, None)
        for one in [one for one, _ in self._due.values() if one.user == name]:
            self.remove_notice(one.id)

    def rows_of(self, owners: Collection[str]) -> list[tuple[str, str]]:
        """The rows of the notices about these users that are not written yet."""
        return [_row(one) for owner in owners for one in self._new.get(owner, {}).values()]

    def rows(self) -> list[tuple[str, str]]:
        """The rows of all notices."""
        return self.rows_of(list(self._new)) + [_row(one) for one, _ in self._due.values()]

    def written(self, rows: Sequence[tuple[str, str]]) -> None:
        """These rows are in the database now."""
        ids = {written_id for written_id, _ in rows}
        for owner in list(self._new):
            for one in list(self._new[owner].values()):
                if one.id in ids:
                    self._due[one.id] = one, _DUE
                    del self._new[owner][one.id]
            if not self._new[owner]:
                del self._new[owner]

    # INoticeOutbox

    def want_notices(self, webhook: str = "") -> None:
        """See INoticeOutbox."""
        self.wanted = True

    def refuse_notices(self) -> Deferred[None]:
        """See INoticeOutbox.  There is no other process."""
        self.wanted = False
        return succeed(None)

    def claim_notices(self, most: int, lease_seconds: float) -> Deferred[list[Notice]]:
        """See INoticeOutbox."""
        now_us = self._now_us()
        claimed = [one for one, due_us in self._due.values() if due_us <= now_us][:most]
        for one in claimed:
            self._due[one.id] = one, now_us + round(lease_seconds * 1_000_000)
        return succeed(claimed)

    def remove_notice(self, notice_id: str) -> Deferred[None]:
        """See INoticeOutbox."""
        self._due.pop(notice_id, None)
        if self.remove is None:
            return succeed(None)
        # If this fails, the notice is sent again after a restart.
        return self.remove(notice_id).addErrback(_not_removed)

    def delay_notice(self, notice_id: str, seconds: float) -> Deferred[None]:
        """See INoticeOutbox."""
        if notice_id in self._due:
            self._due[notice_id] = self._due[notice_id][0], self._now_us() + round(seconds * 1_000_000)
        return succeed(None)


def _not_removed(failure: Failure) -> None:
    failure.trap(StoreUnavailable)


def _row(notice: Notice) -> tuple[str, str]:
    return notice.id, json.dumps([notice.threshold, notice.time_us, notice.user, notice.quota])
