"""A pool as servers.yaml describes it, as immutable objects, independent of the format of the file.

Durations are in seconds, shares are fractions of 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from twisted_lb.config.limits import LimitSpec

# The name of the pool in a file without `pools`.
ONLY_POOL: Final = "default"

# States that an operator can set for a server: requests and checks; no new requests; neither requests nor checks.
READY: Final = "ready"
DRAIN: Final = "drain"
DISABLED: Final = "disabled"
ADMIN_STATES: Final = (READY, DRAIN, DISABLED)


@dataclass(frozen=True)
class HealthCheck:
    """The health check of a server."""

    path: str = "/"
    interval: float = 5.0  # from the start of one check to the start of the next
    timeout: float = 2.0  # for a whole check
    passes: int = 2  # consecutive, after which a server that is down is up
    fails: int = 3  # consecutive, after which a server that is up is down
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
    """When failed requests eject a server, and for how long."""

    consecutive_failures: int = 5  # 0: disabled
    failure_share: float = 0.5  # of the requests in the window; 0: disabled
    window: float = 10.0
    minimum_requests: int = 20  # in the window, before the share is evaluated
    server_errors: bool = True  # whether a 5xx response counts for the share
    base_time: float = 10.0  # of the first ejection; each further one is twice as long
    max_time: float = 60.0
    max_share: float = 0.3  # of the servers that may be ejected; one may always be, but none with 0


@dataclass(frozen=True)
class Retries:
    """How often a request may be retried."""

    attempts: int = 3  # including the first; 1: no retries
    budget: float = 0.2  # retries as a share of the requests
    min_per_second: float = 10.0  # retries outside the budget, so that requests are retried at low traffic too


@dataclass(frozen=True)
class Queue:
    """The queue of requests while every server is full."""

    size: int = 1024  # requests; 0: none waits
    timeout: float = 5.0


# Texts, each with the name of the value that follows it, or "".
HeaderValue = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class HeaderRules:
    """Changes to the fields of a head: first some are removed, then others are added."""

    removed: tuple[str, ...] = ()
    added: tuple[tuple[str, HeaderValue], ...] = ()


@dataclass(frozen=True)
class TlsFiles:
    """What a TLS context for servers is made of; servers with equal ones share a context.

    The files were read with the configuration, and their contents belong to it: a configuration does not change when
    the files do.
    """

    ca_file: str = ""  # authorities, in PEM; "": those of the system
    cert_file: str = ""  # our certificate, then its chain, in PEM; "": none
    key_file: str = ""  # the key of the certificate, in PEM; "": it is in `cert_file`
    verify: bool = True  # whether the certificates of the servers are verified
    digest: str = ""  # of the contents
    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)  # by the paths above


@dataclass(frozen=True)
class ServerTls:
    """TLS to one server."""

    server_name: str  # a host name or an IP address, which the server's certificate has to be for
    files: TlsFiles = TlsFiles()


@dataclass(frozen=True)
class ServerSpec:
    """One server: `host` is a name or an address without brackets, `weight` 0 drains.

    A configured one may stand for several, see `discovery.expansion`; for SRV records the port is 0.
    """

    name: str
    url: str
    host: str
    port: int
    weight: int = 1
    maxconn: int = 0  # concurrent requests; 0: unlimited
    backup: bool = False
    slowstart: float = 0.0
    health_check: HealthCheck | None = None
    send_proxy: int = 0  # the version of the PROXY protocol that its connections begin with; 0: none
    tls: ServerTls | None = None  # None: http://
    admin_state: str = READY  # one of ADMIN_STATES
    expand: bool = True  # whether each address of its name is a server
    authority: str = ""  # for the Host field, where that is not of host and port


# The host of a server that stands for those of a list.
LISTED_HOST = "listed.invalid"


@dataclass(frozen=True)
class Discover:
    """Where servers are found, in addition to those in the file itself."""

    file: str = ""  # the absolute path of a list of servers; "": none
    max_ttl: float = 30.0  # seconds after which a name is looked up again, whatever its TTL
    template: ServerSpec | None = None  # the pool's settings for the servers in `file`; its `tls` is for https:// ones


@dataclass(frozen=True)
class ClassSpec:
    """A class of the user's own, as package.module:Class, and its options."""

    name: str
    options: Mapping[str, object]


@dataclass(frozen=True)
class PoolSpec:
    """The servers in the order of the file, the balancer, the pricing, and the handling of failures."""

    balancer: str
    options: Mapping[str, object]
    servers: tuple[ServerSpec, ...]
    name: str = ONLY_POOL
    ejection: Ejection = field(default_factory=Ejection)
    panic_threshold: float = 0.3
    retries: Retries = field(default_factory=Retries)
    queue: Queue = field(default_factory=Queue)
    maintenance: float = 0.0  # seconds of Retry-After; all requests are answered 503; 0: no maintenance
    request_headers: HeaderRules | None = None
    response_headers: HeaderRules | None = None
    pricing: str = ""  # package.module:Class; "": a request costs 1, or what the server reports
    pricing_options: Mapping[str, object] = field(default_factory=dict)
    discover: Discover = field(default_factory=Discover)
    limits: tuple[LimitSpec, ...] = ()
    hooks: ClassSpec | None = None  # of routes that have none of their own
