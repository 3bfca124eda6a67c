"""One server of a pool: the state that balancers, health and proxy share."""

from __future__ import annotations

from math import exp
from typing import Final

from twisted_lb.config.pool import READY, ServerTls

# The weight of earlier measurements in the latency falls to 1/e in this time.
LATENCY_SECONDS: Final = 10.0


def place_of(host: str, port: int) -> str:
    """Host and port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Backend:
    """A server: its address, its settings, and its state."""

    __slots__ = (
        "name",
        "host",
        "port",
        "authority",
        "weight",
        "maxconn",
        "backup",
        "slowstart",
        "send_proxy",
        "tls",
        "admin_state",
        "in_flight",
        "tunnels",
        "up",
        "reason",
        "ramp",
        "latency",
        "latency_at",
        "requests",
        "failures",
        "retries",
    )

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        weight: int = 1,
        maxconn: int = 0,
        backup: bool = False,
        slowstart: float = 0.0,
        send_proxy: int = 0,
        tls: ServerTls | None = None,
        authority: bytes = b"",
        admin_state: str = READY,
    ) -> None:
        """`name` is unique in the pool; `host` is a name or an address without brackets.

        `weight` 0 drains the server; `maxconn` is the maximum of concurrent requests, 0 for unlimited; a `backup` gets
        requests only while no other server is up; `slowstart` is the time in seconds in which a new or recovered server
        reaches its full weight; `send_proxy` is the version of the PROXY protocol that its connections
        begin with, 0 for none; `tls` is None for http://; `authority` is sent to it as Host where a request has none,
        by default its host and port; `admin_state` is one of ADMIN_STATES.
        """
        self.name = name
        self.host = host
        self.port = port
        self.authority = authority or place_of(host, port).encode()
        self.weight = weight
        self.maxconn = maxconn
        self.backup = backup
        self.slowstart = slowstart
        self.send_proxy = send_proxy
        self.tls = tls
        self.admin_state = admin_state
        self.in_flight = 0  # present requests, including tunnels
        self.tunnels = 0  # of these, those that were switched to another protocol
        self.up = True  # healthy, or used in panic mode
        self.reason = "new"  # why it is up or down, as text
        self.ramp = 1.0  # above 0, up to 1: the share of its weight that slow start allows now
        self.latency = 0.0  # peak EWMA of the seconds to the first byte of a response; 0: not measured yet
        self.latency_at = 0.0  # when it was updated, on the reactor's clock
        self.requests = 0  # sent to it, and those for which it could not be reached
        self.failures = 0  # of these, caused by the server: see pool.retry_policy
        self.retries = 0  # of these, after another attempt had failed

    @property
    def url(self) -> str:
        """Its scheme, host and port."""
        return f"{'http' if self.tls is None else 'https'}://{place_of(self.host, self.port)}"

    @property
    def available(self) -> bool:
        """Whether a balancer may choose it."""
        return self.up and self.in_service

    @property
    def in_service(self) -> bool:
        """Whether it is meant to get new requests."""
        return self.weight > 0 and self.admin_state == READY

    @property
    def full(self) -> bool:
        """Whether it has `maxconn` requests."""
        return 0 < self.maxconn <= self.in_flight

    @property
    def effective_weight(self) -> float:
        """Its weight, reduced during slow start."""
        return self.weight * self.ramp

    def answered(self, seconds: float, now: float) -> None:
        """The first byte of a response came after `seconds`; `now` is the reactor's clock.

        Peak EWMA (Finagle): a slow response counts immediately and in full, and decays slowly.
        """
        latency = self.latency
        if seconds >= latency:
            self.latency = seconds
        else:
            self.latency = seconds + (latency - seconds) * exp((self.latency_at - now) / LATENCY_SECONDS)
        self.latency_at = now

    def __repr__(self) -> str:
        state = "up" if self.up else "down"
        return f"<Backend {self.name} {self.host}:{self.port} {state} weight={self.weight} in_flight={self.in_flight}>"
