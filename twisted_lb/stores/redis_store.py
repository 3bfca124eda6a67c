"""The store that any number of balancers share: accounts and buckets in Redis.

Strategy: all that reads a bucket and writes it is one Lua script, which Redis runs as a whole, on the
clock of Redis.  Takings go in batches (`redis_batch`), accounts one by one (`redis_accounts`), all over
one connection (`redis_connection`).  While that is away, takings are decided at once by the standby, and
accounts fail at once; when it is back, Redis is told what it missed (`redis_recovery`).
"""

from __future__ import annotations

import secrets
from typing import Any, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from twisted_lb.interfaces import (
    Account,
    AccountPage,
    IAccountStore,
    IAsker,
    IBucketStore,
    IStoreReport,
    Limits,
    Profile,
    StoreState,
)
from twisted_lb.limits.standby import Standby
from twisted_lb.stores.redis_accounts import RedisAccounts
from twisted_lb.stores.redis_batch import TokenBatches
from twisted_lb.stores.redis_connection import DEADLINE_SECONDS, RedisConnection
from twisted_lb.stores.redis_endpoints import endpoint_of
from twisted_lb.stores.redis_frame import BatchFrame
from twisted_lb.stores.redis_instances import LEASE_SECONDS, Instance
from twisted_lb.stores.redis_recovery import Recovery
from twisted_lb.stores.redis_scripts import RedisScript, encode_command
from twisted_lb.stores.redis_url import RedisAddress, RedisSecurity, parse_redis_url

# What becomes of requests while Redis is away, by the mode of the standby.
_MEANWHILE = {
    "local": "keys seen recently go on with their share of tokens in this process, other requests are answered 503",
    "allow": "keys seen recently pass without spending tokens, other requests are answered 503",
    "deny": "requests are answered 503",
}


def _random_id() -> bytes:
    return secrets.token_hex(8).encode()


@implementer(IBucketStore, IAccountStore, IStoreReport)
class RedisStore:
    """Buckets and accounts in the Redis that `url` names."""

    def __init__(
        self,
        url: str,
        reactor: Any,
        limits: Limits = Limits(),
        standby: Standby | None = None,
        deadline: float = DEADLINE_SECONDS,
        endpoint: IStreamClientEndpoint | None = None,
        security: RedisSecurity = RedisSecurity(),
        new_id: Callable[[], bytes] = _random_id,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """`deadline` is in seconds, for every call.  Without a `standby`, nothing is admitted while Redis is away.

        For tests: `endpoint` replaces the one that `url` names, `new_id` gives ids of instances, and one that is
        silent for `lease_seconds` is no more.  Raises ValueError, with a text that names REDIS_URL, for a URL that
        cannot be used, and naming the setting and the file for a certificate or a key that cannot be.
        """
        address = parse_redis_url(url)
        self.counts_in_flight = limits.in_flight > 0
        self._standby = standby or Standby("deny", reactor.seconds, 1, limits)
        self._outages = 0
        self._connection = connection = RedisConnection(
            endpoint or endpoint_of(address, reactor, security), address.place, reactor, deadline, address.password
        )
        connection.on_ready = self._up
        connection.on_down = self._down
        self._first_commands = _greeting(address)
        self._take = RedisScript("take_tokens", connection)
        announce, restore = RedisScript("announce", connection), RedisScript("restore_in_flight", connection)
        self._accounts = RedisAccounts(connection)
        self._resolve = RedisScript("resolve", connection)
        self._scripts = (self._take, announce, restore, self._resolve, *self._accounts.scripts)
        self._instance = Instance(connection, announce, self._standby, reactor, new_id, lease_seconds)
        # The first id of the instance is that of the process for good.
        self._last_key = b"tokenlb:last:" + self._instance.id
        self._frame = BatchFrame(limits, lease_seconds, self._instance.id)
        self._frame.set_instance(self._instance.id)
        self._batches = TokenBatches(
            connection, self._take, reactor, self._frame, self._instance, self._standby, limits
        )
        self._recovery = Recovery(connection, restore, self._batches, self._instance, self._standby)

    @property
    def script_calls(self) -> int:
        """How many calls of the script that takes tokens were sent."""
        return self._take.calls

    @property
    def takes(self) -> int:
        """How many takings went with them."""
        return self._batches.takes

    def start(self) -> Deferred[None]:
        """Begin to connect.  Fires when the first attempt has ended; one that is away is tried again until `stop`."""
        self._instance.start()
        return self._connection.start(self._greeting, self._first_calls)

    def stop(self) -> Deferred[None]:
        """Let the batches that are under way or due finish, so that no token given back is lost; then close."""
        stopped = self._batches.idle()
        stopped.addCallback(lambda _: self._instance.leave())
        return stopped.addCallback(lambda _: self._connection.stop())

    def _greeting(self) -> list[bytes]:
        """What a connection must answer before anything is asked of it."""
        return [*self._first_commands, *(script.load for script in self._scripts)]

    def _first_calls(self) -> list[bytes]:
        """What it must answer in the time of any call before it counts.  Both write, and both may be repeated."""
        fence = b"%d" % self._batches.next_number()
        return [self._resolve.command(self._last_key, fence), self._instance.greeting()]

    def _up(self, replies: list[Any]) -> None:
        *_, last, announced = replies
        self._instance.announced(announced)
        self._recovery.begin(last)

    def _down(self) -> None:
        self._outages += 1
        self._instance.renew()
        self._frame.set_instance(self._instance.id)

    # IBucketStore

    def take(self, digest: str, asker: IAsker, cost: int = 1, network: str = "") -> None:
        """See IBucketStore.  Answers later, or within the call when Redis cannot be reached."""
        self._batches.take(digest, asker, cost, network)

    def release(self, digest: str, tokens: int) -> None:
        """See IBucketStore.  While Redis cannot be reached, the standby keeps the account."""
        self._batches.release(digest, tokens)

    def take_address(self, network: str, asker: IAsker) -> None:
        """See IBucketStore.  While Redis cannot be reached, all are admitted."""
        self._batches.take_address(network, asker)

    def give_back_address(self, network: str) -> None:
        """See IBucketStore.  While Redis cannot be reached, the token is lost."""
        self._batches.give_back_address(network)

    # IStoreReport

    def state(self) -> StoreState:
        """See IStoreReport."""
        if self._connection.ready:
            return StoreState(True, "")
        return StoreState(False, f"{self._connection.reason}; {_MEANWHILE[self._standby.mode]}")

    def counts(self) -> dict[str, float]:
        """See IStoreReport."""
        return {
            "store_up": float(self._connection.ready),
            "store_outages": self._outages,
            **self._standby.counts,
            "script_calls": self.script_calls,
            "takes": self.takes,
            "instances": self._standby.instances,
        }

    # IAccountStore

    def create(self, digest: str, account: Account) -> Deferred[None]:
        """See RedisAccounts."""
        return self._accounts.create(digest, account)

    def profile(self, digest: str) -> Deferred[Profile | None]:
        """See RedisAccounts."""
        return self._accounts.profile(digest)

    def in_use(self, digest: str) -> Deferred[bool]:
        """See RedisAccounts."""
        return self._accounts.in_use(digest)

    def change(self, digest: str, capacity: int | None, rate_per_sec: float | None) -> Deferred[Profile | None]:
        """See RedisAccounts."""
        return self._accounts.change(digest, capacity, rate_per_sec)

    def page(self, after: str, count: int) -> Deferred[AccountPage]:
        """See RedisAccounts."""
        return self._accounts.page(after, count)


def _greeting(address: RedisAddress) -> list[bytes]:
    """The commands that make a new connection ours: password and database."""
    commands = []
    if address.password:
        user = [address.username.encode()] if address.username else []
        commands.append(encode_command(b"AUTH", *user, address.password.encode()))
    if address.db:
        commands.append(encode_command(b"SELECT", b"%d" % address.db))
    return commands
