"""The number of files that this process may have open: two for each exchange.

Systems start programs with a soft limit of 1024, for the sake of programs that use select(2), and a
hard limit far above.  Go's runtime raises the one to the other at every start; so do we.
"""

from __future__ import annotations

import resource

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


def shortage(limit: int, max_connections: int, operators: int = 0) -> str:
    """What to tell the operator when `max_connections` clients could need more than `limit` files, else nothing.

    `operators` is how many connections of operators and probes there may be, which need one each.
    """
    needed = 2 * max_connections + operators + SPARE
    if limit in (-1, resource.RLIM_INFINITY) or needed <= limit:
        return ""
    return (
        f"MAX_CONNECTIONS={max_connections} may need {needed} open files, but this process may have {limit}: "
        "raise the limit (ulimit -n, LimitNOFILE= of systemd), or lower MAX_CONNECTIONS"
    )
