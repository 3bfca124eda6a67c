"""Selects the reactor of the data path: an epoll set, or Twisted's reactor on systems without epoll."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from twisted_lb.network import epoll
from twisted_lb.network.data_path_reactor import IDataPathReactor
from twisted_lb.network.stock import StockReactor

_log = Logger()


def data_path_reactor(reactor: Any, around: bool = False) -> IDataPathReactor:
    """The reactor of the data path of this process; `reactor` is Twisted's.

    `around`: an epoll set may be around that of Twisted's reactor (see `epoll`).
    """
    if epoll.AVAILABLE:
        return epoll.EpollReactor(reactor, around=around)
    name = type(reactor).__name__
    _log.info("This system has no epoll: the data path runs on {reactor}, which is slower", reactor=name)
    return StockReactor(reactor)
