"""Clients without a valid key: their networks, the keys that are known to come from one, and their buckets.

A network is what one customer of an access provider has: an IPv4 address, or a /64 of IPv6 (RFC 6177), within
which a client can change its address at will.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

from twisted_lb.interfaces import Policy
from twisted_lb.limits.bucket import Bucket

# What has no IP address comes over a Unix socket of this machine.
LOCAL_NETWORK = "local"

# A key of whose bucket something was taken within this time is in use, and passes while its network's bucket is empty.
IN_USE_SECONDS = 30 * 86_400

# A key that comes from more networks than these is asked for with its network now and then.
MAX_NETWORKS_OF_A_KEY = 8

MAX_NETWORKS = 100_000


@lru_cache(maxsize=65_536)
def network_of(address: str) -> str:
    """The network of a client's IP address, as text such as "192.0.2.7" or "2001:db8:1:2::/64"."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return LOCAL_NETWORK
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((parsed, 64), strict=False))


class FamiliarKeys:
    """Which keys were seen valid from which networks.

    It holds a bounded number of keys in two generations: when the younger one is full, the older one is forgotten.
    A key that is forgotten is merely asked for together with its network once more.
    """

    def __init__(self, keys: int) -> None:
        """`keys` are remembered at most."""
        self._half = max(1, keys // 2)
        self._young: dict[str, tuple[str, ...]] = {}  # digest -> networks
        self._old: dict[str, tuple[str, ...]] = {}

    def knows(self, digest: str, network: str) -> bool:
        """Whether this key was seen valid from this network."""
        networks = self._young.get(digest)
        if networks is None:
            networks = self._old.get(digest)
            if networks is None:
                return False
            # It is in use, so it does not go with its generation.
            self._keep(digest, networks)
        return network in networks

    def learn(self, digest: str, network: str) -> None:
        """This key came from this network, and is valid."""
        networks = self._young.get(digest) or self._old.get(digest, ())
        if network not in networks:
            self._keep(digest, (network, *networks)[:MAX_NETWORKS_OF_A_KEY])

    def _keep(self, digest: str, networks: tuple[str, ...]) -> None:
        if len(self._young) >= self._half and digest not in self._young:
            self._old = self._young
            self._young = {}
        self._young[digest] = networks


class NetworkBuckets:
    """The buckets of networks, in memory.

    A bucket that is full is as good as none, so those that have become full are forgotten, the longest unused first.
    When there are MAX_NETWORKS, that one goes, full or not: whoever comes from more networks than that meets a new
    bucket each time, but may spend MAX_NETWORKS of them anyway, and must not be able to lock everybody else out.
    """

    def __init__(self, policy: Policy, most: int = MAX_NETWORKS) -> None:
        self.policy = policy
        self._most = most
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def level(self, network: str, now_us: int) -> int:
        """In microtokens.  Changes nothing."""
        return self._bucket(network, now_us).level_at(now_us)

    def take(self, network: str, now_us: int) -> tuple[bool, int]:
        """Take one token: whether it was there, and the level (microtokens) afterwards."""
        self._forget_full(now_us)
        bucket = self._bucket(network, now_us)
        admitted, level = bucket.take(1, now_us)
        if admitted:
            self._buckets[network] = bucket
            self._buckets.move_to_end(network)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        return admitted, level

    def give_back(self, network: str) -> None:
        """Put the token back."""
        bucket = self._buckets.get(network)
        if bucket is not None:
            bucket.give_back(1)

    def _bucket(self, network: str, now_us: int) -> Bucket:
        bucket = self._buckets.get(network)
        if bucket is None:
            capacity, rate_per_sec = self.policy
            bucket = Bucket(capacity, rate_per_sec, capacity * 1_000_000, now_us)
        return bucket

    def _forget_full(self, now_us: int) -> None:
        """Look at the two longest unused: with each taking at most one comes, so the full ones never pile up."""
        full = self.policy.capacity * 1_000_000
        for network in [network for network, _ in zip(self._buckets, range(2))]:
            if self._buckets[network].level_at(now_us) >= full:
                del self._buckets[network]
