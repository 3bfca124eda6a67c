"""Failures to connect because this machine lacks a resource, which are not failures of the server.

When the process may open no more files, or the machine has no local port left or no memory for a socket, no connection
can be opened to any server, so the failure says nothing about this one.
"""

from __future__ import annotations

import errno
import os
import socket

_SHORTAGES = {
    errno.EMFILE: "this process has as many open files as it may (ulimit -n)",
    errno.ENFILE: "this machine has as many open files as it may (fs.file-max)",
    errno.ENOBUFS: "this machine has no memory for another socket",
    errno.ENOMEM: "this machine has no memory for another socket",
    errno.EAGAIN: "this machine has no local port left (net.ipv4.ip_local_port_range)",
    errno.EADDRNOTAVAIL: "this machine has no local port left (net.ipv4.ip_local_port_range)",
    errno.EADDRINUSE: "this machine has no local port left (net.ipv4.ip_local_port_range)",
}


def shortage_of(error: BaseException | None, address: str = "", port: int = 0) -> str:
    """What this machine is short of, in words; empty if `error` has another cause.

    `error` comes from an attempt to connect to `address`: an OSError, or an error of twisted.internet with the number
    in `osError`, or an OSError in `socketError` (CannotListenError).
    """
    number = getattr(error, "osError", None)
    if not isinstance(number, int):
        number = getattr(getattr(error, "socketError", error), "errno", None)
    if number == errno.EADDRNOTAVAIL and not _has_way(address, port):
        # Not a shortage: `address` cannot be reached from here, for example because this machine has no IPv6 address.
        return ""
    return _SHORTAGES.get(number or 0, "")


def _has_way(address: str, port: int) -> bool:
    """Whether there is a local address from which `address` may be reached.  Sends nothing."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, port))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def described(error: BaseException) -> str:
    """An error of a socket in a few words."""
    number = getattr(error, "osError", None) or getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) else str(error) or type(error).__name__
