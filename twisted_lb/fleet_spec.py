"""The fleet as servers.yaml describes it, as immutable objects; how the file is read is not known here.

Durations are seconds, shares are parts of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class HealthCheck:
    """How a server is asked whether it is well."""

    path: str = "/"
    interval: float = 5.0  # from the start of one check to the start of the next
    timeout: float = 2.0  # for a whole check
    passes: int = 2  # in a row, until a server that is down is up
    fails: int = 3  # in a row, until a server that is up is down
    status: tuple[tuple[int, int], ...] = ((200, 399),)  # ranges, both ends included

    def expects(self, status: int) -> bool:
        """Whether a response of this status passes."""
        return any(low <= status <= high for low, high in self.status)

    @property
    def statuses(self) -> str:
        """The expected statuses, for people."""
        return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in self.status)


@dataclass(frozen=True)
class Ejection:
    """When the requests of clients show that a server is to be left alone for a while."""

    consecutive_failures: int = 5  # 0: not looked at
    failure_share: float = 0.5  # of the requests in the window; 0: not looked at
    window: float = 10.0
    minimum_requests: int = 20  # in the window, before their share says anything
    server_errors: bool = True  # whether a response of 5xx counts for the share
    base_time: float = 10.0  # the first ejection; each further one is twice as long
    max_time: float = 60.0
    max_share: float = 0.3  # of the servers may be ejected at a time; one may always, 0: none


@dataclass(frozen=True)
class Retries:
    """How often a request may be sent once more."""

    attempts: int = 3  # the first one included; 1: no retries
    budget: float = 0.2  # retries as a share of the requests
    min_per_second: float = 10.0  # retries that are free, so that little traffic can be retried too


@dataclass(frozen=True)
class Queue:
    """Where requests wait while every server has as many as it may."""

    size: int = 1024  # requests; 0: none waits
    timeout: float = 5.0


@dataclass(frozen=True)
class ServerSpec:
    """One server: `host` is a name or an address without brackets, `weight` 0 drains."""

    name: str
    url: str
    host: str
    port: int
    weight: int = 1
    maxconn: int = 0  # exchanges at a time; 0: any number
    backup: bool = False
    slowstart: float = 0.0
    health_check: HealthCheck | None = None


@dataclass(frozen=True)
class FleetSpec:
    """The servers in the order of the file, who chooses among them and who says what requests cost, and what is done
    about failures."""

    balancer: str
    options: Mapping[str, object]
    servers: tuple[ServerSpec, ...]
    ejection: Ejection = field(default_factory=Ejection)
    panic_threshold: float = 0.3
    retries: Retries = field(default_factory=Retries)
    queue: Queue = field(default_factory=Queue)
    pricing: str = ""  # package.module:Class; "": a request costs 1, or what the server says
    pricing_options: Mapping[str, object] = field(default_factory=dict)
