"""The store that any number of balancers share: accounts and buckets in Redis.

Strategy: all that reads a bucket and writes it is one Lua script, which Redis runs as a whole, on the
clock of Redis.  Takings go in batches (`redis_batch`), accounts one by one, all over one connection
(`redis_connection`).  While Redis cannot be reached everything fails at once, with the reason.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.interfaces import MICROTOKENS, Account, IAccountStore, IAsker, IBucketStore, NameTaken, Profile
from twisted_lb.limits.bucket import check_capacity, check_policy, check_rate
from twisted_lb.stores.redis_batch import TokenBatches
from twisted_lb.stores.redis_connection import RedisConnection
from twisted_lb.stores.redis_scripts import RedisScript, account_key, encode_command, name_key
from twisted_lb.stores.redis_url import RedisAddress, parse_redis_url

CONNECT_SECONDS = 2.0


@implementer(IBucketStore, IAccountStore)
class RedisStore:
    """Buckets and accounts in the Redis that `url` names."""

    def __init__(
        self, url: str, reactor: Any, deadline: float = 1.0, endpoint: IStreamClientEndpoint | None = None
    ) -> None:
        """`deadline` is in seconds, for every call.  `endpoint` replaces the one that `url` names, for tests.

        Raises ValueError, with a text that names REDIS_URL, for a URL that cannot be used.
        """
        address = parse_redis_url(url)
        self._connection = RedisConnection(
            endpoint or _endpoint(address, reactor),
            address.place,
            reactor,
            deadline,
            address.password,
        )
        self._greeting = _greeting(address)
        self._take = RedisScript("take_tokens", self._connection)
        self._create = RedisScript("create_account", self._connection)
        self._change = RedisScript("change_account", self._connection)
        self._read = RedisScript("read_account", self._connection)
        self._batches = TokenBatches(self._connection, self._take, reactor)

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
        scripts = (self._take, self._create, self._change, self._read)
        return self._connection.start([*self._greeting, *(script.load for script in scripts)])

    def stop(self) -> Deferred[None]:
        """Let the batches that are under way or due finish, so that no token given back is lost; then close."""
        return self._batches.idle().addCallback(lambda _: self._connection.stop())

    # IBucketStore

    def take(self, digest: str, asker: IAsker) -> None:
        """See IBucketStore.  Answers later, or within the call when Redis cannot be reached."""
        self._batches.take(digest, asker)

    def give_back(self, digest: str) -> None:
        """See IBucketStore.  While Redis cannot be reached the token is lost."""
        self._batches.give_back(digest)

    # IAccountStore

    def create(self, digest: str, account: Account) -> Deferred[None]:
        """See IAccountStore.  Fails with ValueError on a policy that no bucket can have, or a digest in use.

        After a StoreUnavailable the account may exist all the same: the reply is what was lost.
        """
        name, capacity, rate_per_sec = account
        try:
            check_policy(capacity, rate_per_sec)
            keys = account_key(digest), name_key(name)
        except ValueError:
            return fail(Failure())
        created = self._create.call(
            *keys, name.encode(), b"%d" % capacity, _rate_text(rate_per_sec), b"%d" % (capacity * MICROTOKENS), keys=2
        )
        return created.addCallback(_check_created, name)

    def profile(self, digest: str) -> Deferred[Profile | None]:
        """See IAccountStore."""
        return self._read.call(account_key(digest)).addCallback(_profile)

    def change(self, digest: str, capacity: int | None, rate_per_sec: float | None) -> Deferred[Profile | None]:
        """See IAccountStore.  Fails with ValueError on a policy that no bucket can have."""
        try:
            if capacity is not None:
                check_capacity(capacity)
            if rate_per_sec is not None:
                check_rate(rate_per_sec)
        except ValueError:
            return fail(Failure())
        return self._change.call(
            account_key(digest),
            b"" if capacity is None else b"%d" % capacity,
            b"" if rate_per_sec is None else _rate_text(rate_per_sec),
        ).addCallback(_profile)


def _endpoint(address: RedisAddress, reactor: Any) -> IStreamClientEndpoint:
    if address.path:
        return UNIXClientEndpoint(reactor, address.path, timeout=CONNECT_SECONDS)
    return HostnameEndpoint(reactor, address.host, address.port, timeout=CONNECT_SECONDS)


def _greeting(address: RedisAddress) -> list[bytes]:
    """The commands that make a new connection ours: password and database."""
    commands = []
    if address.password:
        user = [address.username.encode()] if address.username else []
        commands.append(encode_command(b"AUTH", *user, address.password.encode()))
    if address.db:
        commands.append(encode_command(b"SELECT", b"%d" % address.db))
    return commands


def _rate_text(rate_per_sec: float) -> bytes:
    """The shortest text that reads back as the same double, in Python and in Lua; never -0.0."""
    return repr(float(rate_per_sec) + 0.0).encode()


def _check_created(outcome: int, name: str) -> None:
    if outcome == 1:
        raise NameTaken(name)
    if outcome == 2:
        raise ValueError("an account has this key already")


def _profile(reply: list[Any] | None) -> Profile | None:
    if reply is None:
        return None
    name, capacity, rate, level = reply
    return Profile(Account(name.decode(), int(capacity), float(rate)), level)
