"""The settings as immutable objects, independent of their sources (options, environment, .env).

`Settings` has all of them, and is known to `app/` only.  The data path gets `ProxySettings`, which contains no secret.

A new setting is one line in the group of the parts that read it; `Settings` and `ProxySettings` list their groups.  Its
reader is added to READERS in `config.environment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

# The groups have no slots of their own, so that a class can combine several.  Most have no methods either: those of the
# combined classes are made from all fields.  Durations are in seconds, sizes in bytes.


@dataclass(frozen=True, init=False, repr=False, eq=False)
class _Process:
    """Listeners, operators and processes."""

    __slots__ = ()

    listen: tuple[str, ...] = ("tcp:8080",)
    admin_listen: str = "tcp:9090:interface=127.0.0.1"
    health_listen: tuple[str, ...] = ()  # for /livez and /readyz only; admin_listen has them too
    admin_token: str = ""
    admin_tokens_file: str = ""  # more tokens, with names and scopes
    admin_writes: str = "live"  # changes hold until the servers file is reloaded, or "file": they are written to it
    audit_log: str = ""  # a path, or "-" for standard output; "": the program's log
    admin_max_connections: int = 256  # of operators and probes, to each of the two kinds of listener
    tls_listen: tuple[str, ...] = ()  # as `listen`, with TLS
    tls_min_version: str = "1.2"  # or "1.3"
    tls_ciphers: str = ""  # for TLS 1.2, in OpenSSL's format; empty: OpenSSL's default
    tls_client_ca_file: str = ""  # in PEM: verifies certificates of clients; empty: none are asked for
    tls_client_auth: str = "required"  # with tls_client_ca_file: "required" or "optional"
    # Certificates, in PEM: one with its key, which may be in the same file, and those in a directory.
    tls_cert_file: str = ""
    tls_key_file: str = ""
    tls_cert_dir: str = ""
    servers_file: str = "servers.yaml"
    workers: int = 1
    worker_timeout: float = 30.0  # without a heartbeat, after which a worker is replaced; 0: never
    drain_seconds: float = 30.0
    resolver: tuple[str, ...] = ()  # name servers; none: those of /etc/resolv.conf


@dataclass(frozen=True, init=False, repr=False, eq=False)
class _Stores:
    """The stores, and outages of Redis.  The URL of Redis may contain a password."""

    __slots__ = ()

    redis_url: str = ""
    # With rediss://, in PEM.  Empty: the CA certificates of the system, and no client certificate.
    redis_tls_ca_file: str = ""
    redis_tls_cert_file: str = ""
    redis_tls_key_file: str = ""
    redis_sentinel_password: str = ""
    redis_deadline: float = 0.1  # of a call to Redis
    on_store_error: str = "local"  # "local", "deny" or "allow"
    local_keys: int = 100_000  # that a process remembers for outages of Redis
    data_dir: str = "data"
    # Where notices about quotas are sent; empty: nowhere.  The URL may contain something secret.
    webhook_url: str = ""
    webhook_secret: str = ""  # with which they are signed


@dataclass(frozen=True, init=False, repr=False, eq=False)
class _Limits:
    """Users and buckets, which the stores implement."""

    __slots__ = ()

    default_capacity: int = 5
    default_rate_per_sec: float = 1.0
    # What users may do themselves with the user API.
    self_service_create: str = "open"  # create users: "open" to anybody, with the admin "token", or "off"
    self_service_change: bool = True  # change their policy, and their keys
    max_capacity: int = 1_000_000_000  # of a policy that a user sets
    max_rate_per_sec: float = 1_000_000.0
    # Buckets besides that of the key; a capacity of 0 disables one.
    global_capacity: int = 0
    global_rate_per_sec: float = 0.0
    address_capacity: int = 1000
    address_rate_per_sec: float = 10.0
    max_in_flight_per_key: int = 0  # 0: unlimited


@dataclass(frozen=True)
class KeySettings:
    """The keys of requests."""

    __slots__ = ()

    # Where a request may carry its key: names of fields, and of a query parameter; "": no parameter.
    key_fields: tuple[str, ...] = ("authorization", "x-api-key", "apikey")
    key_query_parameter: str = ""
    key_prefix: str = ""  # of new keys; "": they are UUIDs
    authenticator: str = ""  # a class that finds the key instead, as package.module:Class


@dataclass(frozen=True, init=False, repr=False, eq=False)
class _DataPath:
    """Clients' connections, servers' connections, and what happens in between.  No secrets: see ProxySettings."""

    __slots__ = ()

    # Requests with "Prefer: wait=N"
    max_wait: float = 60.0  # the maximum of N; 0: requests never wait
    max_waiting: int = 1000
    # Which families of rate-limit headers are sent: "x-ratelimit", "ratelimit", both or none.
    rate_limit_headers: tuple[str, ...] = ("x-ratelimit", "ratelimit")
    access_log: str = ""  # a path, "-" for standard output, or "syslog:[host:port]"; "": none
    access_log_format: str = "json"  # "json", "combined", or a template
    request_id: str = ""  # "off", "id" or "on"; "": "id" with an access log, and else "off"
    # Upstream
    connect_timeout: float = 5.0
    upstream_timeout: float = 30.0  # for the complete head of a response, and between two reads of its body
    hook_timeout: float = 5.0  # for the result of hooks that comes later
    upstream_idle_timeout: float = 60.0  # how long an unused connection is kept
    upstream_idle_connections: int = 512  # kept for each server
    upstream_max_age: float = 300.0  # of a connection, after which it is not reused; 0: unlimited
    # Both sides
    tunnel_timeout: float = 3600.0  # without a byte in either direction, after a switch of protocols; 0: unlimited
    # Downstream
    tls_handshake_timeout: float = 10.0  # for a complete handshake
    tls_max_handshakes: int = 1000  # at a time, in each process
    http_redirect: str = "off"  # "https": requests that did not come over https are redirected there
    https_port: int = 0  # to which they are redirected; 0: that of tls_listen
    hsts: str = ""  # the value of Strict-Transport-Security in responses over https; empty: none
    head_timeout: float = 10.0  # for a complete request head
    body_timeout: float = 30.0  # within which a request body must make progress
    min_body_rate: int = 100  # bytes per second that count as progress
    send_timeout: float = 30.0  # within which a client must read what is buffered for it
    half_close_timeout: float = 1.0  # for a response to begin after the client has closed its sending side
    # After the last response, while the client is still sending
    lingering_time: float = 30.0  # in total; 0: the connection is closed immediately
    lingering_timeout: float = 5.0  # without data from the client
    lingering_connections: int = 1024  # maximum number; 0: the connection is closed immediately
    keepalive_timeout: float = 75.0  # an idle connection
    keepalive_requests: int = 10_000  # requests on one connection
    max_refusals: int = 100  # consecutive ones on one connection; 0: unlimited
    max_head_bytes: int = 32 * 1024
    max_target_bytes: int = 8 * 1024
    max_header_fields: int = 100
    unusual_field_names: str = "drop"  # with other characters than letters, digits and "-": "drop" or "pass"
    max_body_bytes: int = 0  # 0: unlimited
    max_connections: int = 8192  # 0: unlimited
    max_connections_per_address: int | None = None  # 0: unlimited; None: see connections_of_an_address
    # Ranges of addresses in CIDR notation, or "unix:"
    trusted_proxies: tuple[str, ...] = ()  # whose X-Forwarded-For, Forwarded and so on are believed
    proxy_protocol_from: tuple[str, ...] = ()  # whose connections begin with a header of the PROXY protocol

    @property
    def request_ids(self) -> str:
        """Whether requests get ids, "id", and a trace context as well, "on"; or "off"."""
        return self.request_id or ("id" if self.access_log else "off")

    @property
    def connections_of_an_address(self) -> int:
        """The maximum for one address; by default a quarter of all, and at least one, is reserved for others."""
        if self.max_connections_per_address is not None:
            return self.max_connections_per_address
        return min(self.max_connections, max(1, self.max_connections - max(1, self.max_connections // 4)))


@dataclass(frozen=True, slots=True)
class ProxySettings(_DataPath, KeySettings):
    """The settings of the data path.

    Its objects live as long as a client's connection or a request, and some are given to classes of the user's own: a
    secret must not be within their reach.
    """


# A dataclass has the fields of its last base first.
@dataclass(frozen=True, slots=True)
class Settings(_DataPath, KeySettings, _Limits, _Stores, _Process):
    """All settings outside servers.yaml."""

    def for_proxy(self) -> ProxySettings:
        """The part that the data path gets."""
        return ProxySettings(**{field.name: getattr(self, field.name) for field in fields(ProxySettings)})


class Misconfigured(Exception):
    """Invalid configuration.  Each problem is one line with the place, the value, and what was expected."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
