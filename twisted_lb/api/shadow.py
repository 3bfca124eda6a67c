"""Shadow policies and limits as they are shown, with counts of what they would have refused."""

from __future__ import annotations

from collections.abc import Sequence

from twisted_lb.api.representations import shown_shadow
from twisted_lb.api.usage import WINDOWS
from twisted_lb.interfaces import IUsageReport
from twisted_lb.limits.shadow_counts import ASKED, REFUSING
from twisted_lb.usage import WindowCounts, shadow_subject
from twisted_lb.users import Shadow


async def shadow_with_counts(report: IUsageReport, owner: str, shadow: Shadow) -> dict[str, object]:
    """The shadow policy of a user; `owner` is the digest of the user's first key."""
    counts = await report.counts_of([shadow_subject(owner, shadow.capacity, shadow.rate_per_sec)])
    return {**shown_shadow(shadow), **shown_counts(counts)}


def shown_counts(counts: Sequence[WindowCounts]) -> dict[str, object]:
    """The sums over several subjects, for each window."""
    names = ASKED, REFUSING
    return {
        window: {name: sum(one[place].get(name, 0) for one in counts) for name in names}
        for place, window in enumerate(WINDOWS)
    }
