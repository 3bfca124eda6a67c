"""Endpoints for the Redis that REDIS_URL names: by host, by socket, through sentinels; with TLS or without."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint

from twisted_lb.stores.redis.sentinel import SentinelEndpoint
from twisted_lb.stores.redis.tls import CA_FILE, CERT_FILE, KEY_FILE, RedisTls
from twisted_lb.stores.redis.url import RedisAddress, RedisSecurity, parse_redis_url

# For each address of a host.  An attempt must end soon if packets are dropped, so that the next one can succeed.
CONNECT_SECONDS = 0.5


def endpoint_of(
    address: RedisAddress, reactor: Any, security: RedisSecurity = RedisSecurity()
) -> IStreamClientEndpoint:
    """The endpoint for `address`.

    Raises ValueError, naming setting and file, for a certificate or key that cannot be used, and for a setting
    that would have no effect.
    """
    tls = _tls(address, security)

    def to_host(host: str, port: int) -> IStreamClientEndpoint:
        plain = HostnameEndpoint(reactor, host, port, timeout=CONNECT_SECONDS)
        return plain if tls is None else wrapClientTLS(tls.options(host), plain)

    if address.path:
        return UNIXClientEndpoint(reactor, address.path, timeout=CONNECT_SECONDS)
    if address.sentinels:
        return SentinelEndpoint(address.sentinels, address.service, security.sentinel_password, to_host, reactor)
    return to_host(address.host, address.port)


def check_redis(url: str, security: RedisSecurity = RedisSecurity()) -> None:
    """Raise ValueError for a REDIS_URL, a certificate or a key that cannot be used; the text names the setting."""
    _tls(parse_redis_url(url), security)


def _tls(address: RedisAddress, security: RedisSecurity) -> RedisTls | None:
    if security.sentinel_password and not address.sentinels:
        raise ValueError("REDIS_SENTINEL_PASSWORD: it is set, but REDIS_URL does not begin with redis+sentinel://")
    if address.tls:
        return RedisTls(security)
    for setting, value in ((CA_FILE, security.ca_file), (CERT_FILE, security.cert_file), (KEY_FILE, security.key_file)):
        if value:
            # It was set because the connection should be encrypted, which it would not be.
            raise ValueError(f"{setting}: it is set, but REDIS_URL does not begin with rediss:// (or rediss+sentinel://)")
    return None
