"""The limit of open files: each exchange needs two, and two more while its response goes through a pipe.

Systems start programs with a soft limit of 1024, for programs that use select(2), and a much higher hard limit.  Like
Go's runtime, this program raises the soft limit to the hard limit when it starts.
"""

from __future__ import annotations

import resource

from twisted_lb.network.splice import AVAILABLE, most_at_a_time

SPARE = 100  # listening sockets, the store, logs, libraries


def raise_open_files() -> int:
    """Raise the soft limit to the hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


# With the fields of a shortage.
TOO_FEW = (
    "MAX_CONNECTIONS={max_connections} may need {needed} open files, but this process may have {limit}: "
    "raise the limit (ulimit -n, LimitNOFILE= of systemd), or lower MAX_CONNECTIONS"
)


def shortage(limit: int, max_connections: int, others: int = 0) -> dict[str, int]:
    """The fields of TOO_FEW when `max_connections` clients could need more than `limit` files, else none.

    `others` is the maximum of other connections, which need one file each: those of operators and probes, and lingering
    ones.  The pipes of large responses (see `network.splice`) come on top, with two files each.
    """
    pipes = min(most_at_a_time(limit), max_connections) if AVAILABLE else 0
    needed = 2 * max_connections + 2 * pipes + others + SPARE
    if limit in (-1, resource.RLIM_INFINITY) or needed <= limit:
        return {}
    return {"max_connections": max_connections, "needed": needed, "limit": limit}
