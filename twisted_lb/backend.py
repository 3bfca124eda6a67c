"""One server of the fleet: what balancers, health and proxy share.  It does nothing by itself."""

from __future__ import annotations


class Backend:
    """A server: where it is, what is asked of it, and how it is now."""

    __slots__ = ("name", "host", "port", "authority", "weight", "in_flight", "up")

    def __init__(self, name: str, host: str, port: int, weight: int = 1) -> None:
        """`name` is unique in the fleet; `host` is a name or an address without brackets; `weight` 0 drains."""
        self.name = name
        self.host = host
        self.port = port
        # As it goes into a Host field.
        self.authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        self.weight = weight
        self.in_flight = 0  # exchanges that have this server now
        self.up = True

    @property
    def available(self) -> bool:
        """Whether a balancer may choose it."""
        return self.up and self.weight > 0

    def __repr__(self) -> str:
        state = "up" if self.up else "down"
        return f"<Backend {self.name} {self.host}:{self.port} {state} weight={self.weight} in_flight={self.in_flight}>"
