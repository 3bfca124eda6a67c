"""The settings as one immutable object; where they come from (options, environment, .env) is not known here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """All that an operator can set outside servers.yaml.  Durations are seconds, sizes are bytes."""

    listen: tuple[str, ...] = ("tcp:8080",)
    admin_listen: str = "tcp:9090:interface=127.0.0.1"
    health_listen: tuple[str, ...] = ()  # for /livez and /readyz only; admin_listen has them too
    servers_file: str = "servers.yaml"
    redis_url: str = ""
    # With rediss://: certificates in PEM; an empty text is the system's authorities, and no certificate of ours.
    redis_tls_ca_file: str = ""
    redis_tls_cert_file: str = ""
    redis_tls_key_file: str = ""
    redis_sentinel_password: str = ""
    redis_deadline: float = 0.1  # for an answer of Redis
    on_store_error: str = "local"  # "local", "deny" or "allow"
    local_keys: int = 100_000  # that a process remembers for when Redis is away
    data_dir: str = "data"
    workers: int = 1
    worker_timeout: float = 30.0  # without a sign of life, after which a worker is replaced; 0: never
    default_capacity: int = 5
    default_rate_per_sec: float = 1.0
    # Buckets beside the key's own; a capacity of 0 means that there is none.
    global_capacity: int = 0
    global_rate_per_sec: float = 0.0
    address_capacity: int = 1000
    address_rate_per_sec: float = 10.0
    max_in_flight_per_key: int = 0  # 0: any number
    # Requests with "Prefer: wait=N"
    max_wait: float = 60.0  # the most that N counts for; 0: none waits
    max_waiting: int = 1000
    admin_token: str = ""
    admin_max_connections: int = 256  # of operators and probes, to each of the two kinds of listener
    # Which families of rate-limit headers are sent: "x-ratelimit", "ratelimit", both or none.
    rate_limit_headers: tuple[str, ...] = ("x-ratelimit", "ratelimit")
    # Upstream
    connect_timeout: float = 5.0
    upstream_timeout: float = 30.0  # to the first byte of a response, and between bytes
    upstream_idle_timeout: float = 60.0  # how long an unused connection is kept
    upstream_idle_connections: int = 512  # kept for each server
    # Downstream
    head_timeout: float = 10.0  # to receive a whole request head
    body_timeout: float = 30.0  # within which a request body must make progress
    min_body_rate: int = 100  # bytes per second that count as progress
    send_timeout: float = 30.0  # within which a client must take what is buffered for it
    half_close_timeout: float = 1.0  # for a response to begin after the client has ended its sending side
    keepalive_timeout: float = 75.0  # an idle connection
    keepalive_requests: int = 10_000  # requests on one connection
    max_refusals: int = 100  # in a row on one connection; 0: any number
    max_head_bytes: int = 32 * 1024
    max_target_bytes: int = 8 * 1024
    max_header_fields: int = 100
    unusual_field_names: str = "drop"  # with other characters than letters, digits and "-": "drop" or "pass"
    max_body_bytes: int = 0  # 0: any size
    max_connections: int = 8192  # 0: any number
    max_connections_per_address: int | None = None  # 0: any number; None: see connections_of_an_address
    drain_seconds: float = 30.0

    @property
    def connections_of_an_address(self) -> int:
        """The most of one address; by default a quarter of all, and at least one, is kept for others."""
        if self.max_connections_per_address is not None:
            return self.max_connections_per_address
        return min(self.max_connections, max(1, self.max_connections - max(1, self.max_connections // 4)))


class Misconfigured(Exception):
    """What an operator wrote cannot be used.  One line for each fault says where, what, and what was expected."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
