"""Sends what transports have buffered, at the end of an iteration of any data path reactor."""

from __future__ import annotations

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.network.data_path_reactor import Unsent

_log = BoundedLog(Logger(__name__))


def flush_all(transports: list[Unsent]) -> None:
    """Flush each of them; one that raises is logged, and does not affect the others."""
    for transport in transports:
        try:
            transport.flush()
        except BaseException:
            written_to = getattr(transport, "transport", transport)
            _log.failure("write", "A write of a {connection} failed", connection=type(written_to).__name__)
