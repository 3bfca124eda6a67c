"""Warns of a user API with which anybody can create users with any limits."""

from __future__ import annotations

from twisted_lb.api.self_service import OPEN
from twisted_lb.config.settings import Settings
from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_RATE_PER_SEC
from twisted_lb.network.listener import read_endpoint


def self_service_notices(settings: Settings) -> list[str]:
    """A line, if users can be created without bounds on an endpoint that other machines can reach."""
    unbounded = [
        name
        for name, value, most in (
            ("MAX_CAPACITY", settings.max_capacity, MAX_CAPACITY),
            ("MAX_RATE_PER_SEC", settings.max_rate_per_sec, MAX_RATE_PER_SEC),
        )
        if value >= most
    ]
    if settings.self_service_create != OPEN or not unbounded:
        return []
    public = [endpoint for endpoint in (*settings.listen, *settings.tls_listen) if _is_public(endpoint)]
    if not public:
        return []
    return [
        f"SELF_SERVICE_CREATE is open, and {' and '.join(unbounded)} not set: on {public[0]} anybody can create users"
        " with any limits; set both bounds, or SELF_SERVICE_CREATE=token or off"
    ]


def _is_public(text: str) -> bool:
    """Whether other machines may reach it.  A socket that was inherited may lead anywhere."""
    endpoint = read_endpoint(text)
    if endpoint.path:
        return False
    if endpoint.port is None:
        return True
    address = endpoint.address
    return address != "localhost" if isinstance(address, str) else not address.is_loopback
