"""Bounds what a client's network may try without a valid key: new users, and keys that are guessed.

Strategy: the token is taken before anything is told, and put back when the key turns out to be valid.  So nobody
can guess on while the network's bucket is empty, and whoever has a key is not in the way of others.  A key that
was seen from this network before costs nothing even for a moment, and one that is in use is not held up.
"""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from twisted_lb.api.answers import Refusal
from twisted_lb.interfaces import IAccountStore, IAsker, IBucketStore, Profile, StoreUnavailable, Taken
from twisted_lb.limits.addresses import FamiliarKeys, network_of
from twisted_lb.limits.refusal import STATUS, refusal

# Takes the store's answer whether somebody has a key.
Settle = Callable[[Deferred[Profile | None]], None]


class Gate:
    """Lets everything pass, as where addresses have no bucket."""

    async def pay(self, request: Request) -> None:
        """Take one token of the client's network.  Raises Refusal, or StoreUnavailable when nobody can tell."""

    async def pay_for_no_key(self, request: Request) -> None:
        """The same for a request that is refused anyway, whether the store can tell or not.  Raises Refusal."""

    async def pay_to_ask(self, request: Request, digest: str) -> Settle:
        """Take one token to find out whether somebody has this key.  Raises Refusal and StoreUnavailable.

        What is returned is to be called with the store's answer to that, before anybody waits for it: the token
        goes back when there is such a key, or when the store does not tell.
        """
        return _let_pass


def _let_pass(asked: Deferred[Profile | None]) -> None:
    """There is nothing to put back."""


class AddressGate(Gate):
    """Asks the bucket of the client's network."""

    def __init__(
        self,
        buckets: IBucketStore,
        accounts: IAccountStore,
        familiar: FamiliarKeys,
        limit_fields: Callable[[Taken], bytes],
    ) -> None:
        """`limit_fields` makes the rate-limit header lines, each with CRLF before it."""
        self._buckets = buckets
        self._accounts = accounts
        self.familiar = familiar
        self._limit_fields = limit_fields

    async def pay(self, request: Request) -> None:
        """See Gate."""
        await self._pay(_network(request))

    async def pay_for_no_key(self, request: Request) -> None:
        """See Gate."""
        try:
            await self._pay(_network(request))
        except StoreUnavailable:
            # It is answered 401 without the store, and nothing can be guessed that way.
            pass

    async def pay_to_ask(self, request: Request, digest: str) -> Settle:
        """See Gate."""
        network = _network(request)
        if self.familiar.knows(digest, network):
            return _let_pass
        try:
            await self._pay(network)
        except Refusal:
            if not await self._accounts.in_use(digest):
                raise
            return _let_pass

        def found(profile: Profile | None) -> Profile | None:
            if profile is not None:
                self._buckets.give_back_address(network)
                self.familiar.learn(digest, network)
            return profile

        def not_told(failure: Failure) -> Failure:
            self._buckets.give_back_address(network)
            return failure

        def settle(asked: Deferred[Profile | None]) -> None:
            asked.addCallbacks(found, not_told)

        return settle

    async def _pay(self, network: str) -> None:
        asked = _Asked()
        self._buckets.take_address(network, asked)
        taken = await asked.answer
        if not taken.admitted:
            why = refusal(taken)
            lines = self._limit_fields(taken) + why.fields
            raise Refusal(STATUS, why.detail, _fields(lines), why.members)


@implementer(IAsker)
class _Asked:
    """Makes a Deferred of what the store says; a client that leaves may cancel it."""

    def __init__(self) -> None:
        self.answer: Deferred[Taken] = Deferred()

    def bucket_answered(self, taken: Taken | None) -> None:
        assert taken is not None, "no key was asked about"
        self.answer.callback(taken)

    def bucket_unavailable(self, reason: str) -> None:
        self.answer.errback(StoreUnavailable(reason))


def _network(request: Request) -> str:
    return network_of(getattr(request.getClientAddress(), "host", ""))


def _fields(lines: bytes) -> Mapping[str, str]:
    """Header lines with CRLF before each, by their names."""
    pairs = (line.split(": ", 1) for line in lines.decode("ascii").split("\r\n")[1:])
    return {name: value for name, value in pairs}
