"""The store that any number of balancers share: accounts and buckets in Redis.

Every access that reads and writes a bucket is one Lua script, which Redis executes atomically, with its own clock.
Requests for tokens are sent in batches (`batches`), calls for accounts one by one (`accounts`), all over one connection
(`connection`).  While Redis is unavailable, requests for tokens are decided by the fallback, and calls for accounts
fail at once; afterwards Redis is charged for what was spent meanwhile (`recovery`).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from twisted_lb.interfaces import (
    Account,
    AccountPage,
    IAccountStore,
    IBucketStore,
    INoticeOutbox,
    IStoreReport,
    ITokenReceiver,
    IUsageStore,
    IUserStore,
    Limits,
    Profile,
    SharedBucket,
    StoreState,
)
from twisted_lb.limits.fallback import Fallback
from twisted_lb.limits.recent_quotas import LOCAL
from twisted_lb.notices import Notice
from twisted_lb.quotas import QuotaCharge
from twisted_lb.stores.redis.accounts import RedisAccounts
from twisted_lb.stores.redis.batch_encoding import BatchFrame
from twisted_lb.stores.redis.batches import TokenBatches
from twisted_lb.stores.redis.connection import DEADLINE_SECONDS, RedisConnection
from twisted_lb.stores.redis.endpoints import endpoint_of
from twisted_lb.stores.redis.eviction import EvictionAdvice
from twisted_lb.stores.redis.instances import LEASE_SECONDS, Instance
from twisted_lb.stores.redis.keys import last_call_key, shared_key
from twisted_lb.stores.redis.last_uses import LastUses
from twisted_lb.stores.redis.notices import RedisNotices
from twisted_lb.stores.redis.protocol import encode_command
from twisted_lb.stores.redis.recovery import Recovery
from twisted_lb.stores.redis.scripts import RedisScript, unavailable
from twisted_lb.stores.redis.url import RedisAddress, RedisSecurity, parse_redis_url
from twisted_lb.stores.redis.usage import RedisUsage
from twisted_lb.stores.redis.users import RedisUsers
from twisted_lb.usage import WindowCounts
from twisted_lb.users import Changed, Key, KeyChange, User, UserChange, UserFilter, UserPage

# Longer than a new instance waits for others to come back, which is NEW_SECONDS of `recovery`.
START_SECONDS = 2.0
# What happens to requests while Redis is unavailable, by the mode of the fallback.
_MEANWHILE = {
    "local": "keys seen recently go on with their share of tokens in this process, other requests are answered 503",
    "allow": "keys seen recently pass without spending tokens, other requests are answered 503",
    "deny": "requests are answered 503",
}


def _random_id() -> bytes:
    return secrets.token_hex(8).encode()


@implementer(IBucketStore, IAccountStore, IUserStore, IUsageStore, INoticeOutbox, IStoreReport)
class RedisStore:
    """Buckets and accounts in the Redis that `url` names."""

    def __init__(
        self,
        url: str,
        reactor: Any,
        limits: Limits = Limits(),
        fallback: Fallback | None = None,
        deadline: float = DEADLINE_SECONDS,
        endpoint: IStreamClientEndpoint | None = None,
        security: RedisSecurity = RedisSecurity(),
        new_id: Callable[[], bytes] = _random_id,
        lease_seconds: float = LEASE_SECONDS,
        advise: bool = False,
    ) -> None:
        """`deadline` is in seconds, for every call.  Without a `fallback`, nothing is admitted while Redis is
        unavailable.  `advise`: log a warning if the Redis that was reached may evict keys.

        For tests: `endpoint` replaces the one that `url` names, `new_id` returns ids of instances, and an instance that
        is silent for `lease_seconds` counts as gone.  Raises ValueError for a URL that cannot be used, with a text that
        names REDIS_URL, and for a certificate or a key that cannot be used, with the setting and the file.
        """
        address = parse_redis_url(url)
        self.counts_in_flight = limits.in_flight > 0
        self._fallback = fallback or Fallback("deny", reactor.seconds, 1, limits)
        self._outages = 0
        self._reactor = reactor
        self._starting: Deferred[None] | None = None  # the start waits for this
        self._reached = False  # since this process began
        self._connection = connection = RedisConnection(
            endpoint or endpoint_of(address, reactor, security), address.place, reactor, deadline, address.password
        )
        self._eviction = EvictionAdvice(connection, address.place) if advise else None
        connection.on_ready = self._up
        connection.on_down = self._down
        self._first_commands = _greeting(address)
        self._take = RedisScript("take_tokens", connection)
        announce, restore = RedisScript("announce", connection), RedisScript("restore_in_flight", connection)
        rejoin = RedisScript("rejoin", connection)
        self._accounts = RedisAccounts(connection)
        self._users = RedisUsers(connection)
        self._usage = RedisUsage(connection)
        self._notices = RedisNotices(connection)
        self._last_uses = LastUses(connection, self._fallback, reactor)
        self._resolve = RedisScript("resolve", connection)
        self._levels = RedisScript("read_shared", connection)
        self._scripts = (self._take, announce, rejoin, restore, self._resolve, self._levels, *self._accounts.scripts)
        if self._fallback.mode != LOCAL:
            # It has no shares, so no other instance has to wait for it after an outage (rejoin.lua).
            random_id, mode = new_id, self._fallback.mode.encode()
            new_id = lambda: b"%b.%b" % (random_id(), mode)  # noqa: E731
        self._instance = Instance(connection, announce, rejoin, self._fallback, reactor, new_id, lease_seconds)
        self._instance.on_outage = self._others_return
        # The first id of the instance is also the permanent id of the process.
        self._last_key = last_call_key(self._instance.id)
        self._frame = BatchFrame(limits, lease_seconds, self._instance.id)
        self._frame.set_instance(self._instance.id)
        self._batches = TokenBatches(
            connection,
            self._take,
            reactor,
            self._frame,
            self._instance,
            self._fallback,
            limits,
            self._accounts.look_up,
        )
        self._batches.on_outage = self._others_return
        self._recovery = Recovery(connection, restore, self._batches, self._instance, self._fallback, reactor)
        self._recovery.on_over = self._over

    @property
    def script_calls(self) -> int:
        """How many calls of the script that takes tokens were sent."""
        return self._take.calls

    @property
    def takes(self) -> int:
        """How many takings went with them."""
        return self._batches.takes

    def start(self) -> Deferred[None]:
        """Begin to connect.  Fires when the first attempt has ended; it is repeated until `stop` if it has failed.

        If a new instance waits for silent ones to come back (see `recovery`), it fires when that is over, at the latest
        after START_SECONDS: until then requests wait, or go to other processes, and are not refused.
        """
        self._instance.start()
        self._last_uses.start()
        return self._connection.start(self._greeting, self._first_calls).addCallback(self._wait_until_up)

    def _wait_until_up(self, _: None) -> Deferred[None] | None:
        if self._is_up() or not self._connection.ready:
            return None
        self._starting = Deferred()
        return self._starting.addTimeout(START_SECONDS, self._reactor, lambda result, seconds: None)

    def _started(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None and not starting.called:
            starting.callback(None)

    def stop(self) -> Deferred[None]:
        """Let the batches that are under way or due finish, so that no refund is lost; then close."""
        self._started()
        stopped = self._recovery.finish().addCallback(lambda _: self._batches.idle())
        stopped.addCallback(lambda _: self._last_uses.stop())
        stopped.addCallback(lambda _: self._instance.leave())
        return stopped.addCallback(lambda _: self._connection.stop())

    def _greeting(self) -> list[bytes]:
        """The commands that a connection must answer before any other is sent."""
        return [*self._first_commands, *(script.load for script in self._scripts)]

    def _first_calls(self) -> list[bytes]:
        """The calls to be answered, within the usual deadline, before it is ready.  They write, and can be repeated."""
        fence = b"%d" % self._batches.next_number()
        return [self._resolve.command(self._last_key, fence), self._recovery.greeting()]

    def _up(self, replies: list[Any]) -> None:
        *_, last, rejoined = replies
        self._recovery.begin(last, rejoined)
        if self._eviction is not None:
            self._eviction.look()

    def _over(self) -> None:
        self._reached = True
        self._notices.connected()
        self._started()

    def _down(self) -> None:
        self._outages += 1
        self._started()
        self._renew()

    def _others_return(self) -> None:
        if not self._instance.returning:
            self._renew()
            self._recovery.rejoin()

    def _renew(self) -> None:
        """Stop using Redis, and return under another id: what Redis holds about this instance is uncertain."""
        self._recovery.lost()
        self._instance.renew()
        self._frame.set_instance(self._instance.id)

    # IBucketStore

    def take(
        self,
        digest: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        network: str = "",
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        """See IBucketStore.  Answers later, or within the call while the fallback decides."""
        self._batches.take(digest, receiver, cost, network, limits)

    def take_without_key(self, limits: tuple[SharedBucket, ...], receiver: ITokenReceiver, cost: int = 1) -> None:
        """See IBucketStore."""
        self._batches.take_without_key(limits, receiver, cost)

    def release(
        self,
        digest: str,
        tokens: int,
        limits: tuple[SharedBucket, ...] = (),
        quota: QuotaCharge | None = None,
    ) -> None:
        """See IBucketStore.  While Redis is unavailable, the fallback charges it, and Redis is charged afterwards."""
        self._batches.release(digest, tokens, limits, quota)

    def take_address(
        self,
        network: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        served: bool = False,
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        """See IBucketStore.  While Redis is unavailable, this process has buckets of its own for networks."""
        self._batches.take_address(network, receiver, cost, served, limits)

    def release_address(self, network: str, tokens: int) -> None:
        """See IBucketStore.  While Redis is unavailable, this applies to this process's own bucket for the network."""
        self._batches.release_address(network, tokens)

    # IStoreReport

    def state(self) -> StoreState:
        """See IStoreReport.  A store whose balancers come back from an outage is not up yet."""
        if self._is_up():
            return StoreState(True, "")
        reason = self._connection.reason or self._batches.waits_for
        if not self._reached:
            return StoreState(False, f"{reason}; it was not reached yet, and no key is known", False)
        return StoreState(False, f"{reason}; {_MEANWHILE[self._fallback.mode]}")

    def counts(self) -> dict[str, float]:
        """See IStoreReport."""
        return {
            "store_up": float(self._is_up()),
            "store_outages": self._outages,
            **self._fallback.counts,
            "script_calls": self.script_calls,
            "takes": self.takes,
            "instances": self._fallback.instances,
        }

    def levels(self, buckets: Sequence[SharedBucket]) -> Deferred[list[int]]:
        """See IStoreReport."""
        if not buckets:
            return succeed([])
        keys = [shared_key(shared.key) for shared in buckets]
        policies = [(b"%d" % shared.rule.capacity, repr(shared.rule.rate_per_sec).encode()) for shared in buckets]
        arguments = [part for policy in policies for part in policy]
        levels: Deferred[list[int]] = self._levels.call(*keys, *arguments, keys=len(keys))
        return levels.addErrback(unavailable)

    def _is_up(self) -> bool:
        return self._connection.ready and not self._instance.returning

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

    # IUserStore: see RedisUsers

    def user_page(self, after: str, count: int, filter: UserFilter) -> Deferred[UserPage]:
        return self._users.user_page(after, count, filter)

    def user(self, name: str) -> Deferred[User | None]:
        return self._users.user(name)

    def user_of_key(self, digest: str) -> Deferred[User | None]:
        return self._users.user_of_key(digest)

    def find_key(self, key_id: str) -> Deferred[User | None]:
        return self._users.find_key(key_id)

    def create_user(self, user: User) -> Deferred[None]:
        return self._users.create_user(user)

    def change_user(self, name: str, change: UserChange) -> Deferred[Changed | None]:
        return self._users.change_user(name, change)

    def promote_shadow(self, name: str) -> Deferred[Changed | None]:
        return self._users.promote_shadow(name)

    def delete_user(self, name: str) -> Deferred[User | None]:
        return self._users.delete_user(name)

    def create_key(self, name: str, key: Key) -> Deferred[Changed | None]:
        return self._users.create_key(name, key)

    def change_key(self, name: str, key_id: str, change: KeyChange) -> Deferred[Changed | None]:
        return self._users.change_key(name, key_id, change)

    def rotate_key(
        self, name: str, key_id: str, grace_us: int, digest: str, keep_expiry: bool = False
    ) -> Deferred[Changed | None]:
        return self._users.rotate_key(name, key_id, grace_us, digest, keep_expiry)

    def refused_keys(self, digests: Sequence[str]) -> Deferred[list[str]]:
        return self._users.refused_keys(digests)

    # IUsageStore: see RedisUsage

    def add_counts(self, counts: Mapping[str, Mapping[str, int]]) -> Deferred[dict[str, Mapping[str, int]]]:
        return self._usage.add_counts(counts)

    def counts_of(self, subjects: Sequence[str]) -> Deferred[list[WindowCounts]]:
        return self._usage.counts_of(subjects)

    # INoticeOutbox: see RedisNotices

    def want_notices(self, webhook: str = "") -> None:
        """See INoticeOutbox.  Each claim tells all balancers; this tells them before the first request."""
        self._notices.want(webhook)

    def refuse_notices(self) -> Deferred[None]:
        return self._notices.refuse()

    def claim_notices(self, most: int, lease_seconds: float) -> Deferred[list[Notice]]:
        return self._notices.claim(most, lease_seconds)

    def remove_notice(self, notice_id: str) -> Deferred[None]:
        return self._notices.remove(notice_id)

    def delay_notice(self, notice_id: str, seconds: float) -> Deferred[None]:
        return self._notices.delay(notice_id, seconds)



def _greeting(address: RedisAddress) -> list[bytes]:
    """The first commands on a new connection: password and database."""
    commands = []
    if address.password:
        user = [address.username.encode()] if address.username else []
        commands.append(encode_command(b"AUTH", *user, address.password.encode()))
    if address.db:
        commands.append(encode_command(b"SELECT", b"%d" % address.db))
    return commands
