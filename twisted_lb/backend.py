"""One server of the fleet: what balancers, health and proxy share.  It does nothing by itself."""

from __future__ import annotations

from math import exp

# The past's weight in the latency falls to 1/e in this time.
LATENCY_SECONDS = 10.0


class Backend:
    """A server: where it is, what is asked of it, and how it is now."""

    __slots__ = (
        "name",
        "host",
        "port",
        "authority",
        "weight",
        "maxconn",
        "backup",
        "slowstart",
        "in_flight",
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
    ) -> None:
        """`name` is unique in the fleet; `host` is a name or an address without brackets.

        `weight` 0 drains; `maxconn` is the most exchanges at a time, 0 for any number; a `backup` gets requests
        only while no other server is up; `slowstart` is how many seconds a new or recovered server takes to
        its full weight.
        """
        self.name = name
        self.host = host
        self.port = port
        # As it goes into a Host field.
        self.authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        self.weight = weight
        self.maxconn = maxconn
        self.backup = backup
        self.slowstart = slowstart
        self.in_flight = 0  # exchanges that have this server now
        self.up = True  # as health has it
        self.reason = "new"  # why it is up or down, for people
        self.ramp = 1.0  # the part of its weight that slow start grants it now
        self.latency = 0.0  # peak EWMA of the seconds to a response's first byte; 0: none seen yet
        self.latency_at = 0.0  # when it was brought up to date, on the reactor's clock
        self.requests = 0  # sent to it
        self.failures = 0  # of them without a whole response
        self.retries = 0  # requests that it got after another attempt had failed

    @property
    def available(self) -> bool:
        """Whether a balancer may choose it."""
        return self.up and self.weight > 0

    @property
    def full(self) -> bool:
        """Whether it has as many exchanges as it may."""
        return 0 < self.maxconn <= self.in_flight

    @property
    def effective_weight(self) -> float:
        """Its weight, as far as slow start grants it."""
        return self.weight * self.ramp

    def answered(self, seconds: float, now: float) -> None:
        """It took `seconds` to the first byte of a response; `now` is the reactor's clock.

        Peak EWMA (Finagle): a slow answer counts at once and in full, and is forgotten slowly.
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
