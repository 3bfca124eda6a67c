"""Limits requests without a valid key (new users and guessed keys) by the network of the client.

The token is taken before the key is looked up, and refunded if the key is valid.  So keys cannot be guessed while the
network's bucket is empty, and clients with a valid key take no tokens from others.  No token is taken for a key that
was used from this network before.  If the bucket is empty, a key that is in use (see IAccountStore) is still admitted.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from twisted_lb.api.responses import Refusal
from twisted_lb.interfaces import IAccountStore, IBucketStore, ITokenReceiver, StoreUnavailable, Taken
from twisted_lb.limits.client_networks import KnownKeys, network_of
from twisted_lb.limits.rejection import STATUS, refusal

# Receives the result of the lookup of a key.
Settle = Callable[["Deferred[Any]"], None]


class Gate:
    """Admits everything: for an address limit that is disabled."""

    async def pay(self, request: Request) -> None:
        """Take one token from the bucket of the client's network.  Raises Refusal and StoreUnavailable."""

    async def pay_for_no_key(self, request: Request) -> None:
        """As `pay`, for a request that is refused in any case: without a store, no token is taken.  Raises Refusal."""

    async def pay_to_ask(self, request: Request, digest: str) -> Settle:
        """Take one token before a key is looked up.  Raises Refusal and StoreUnavailable.

        The returned function must be called with the Deferred of the lookup, before its result is awaited: the token is
        refunded if the key exists, or if the store is unavailable.
        """
        return _let_pass


def _let_pass(asked: Deferred[Any]) -> None:
    """No token was taken, so there is none to refund."""


class AddressGate(Gate):
    """Takes tokens from the bucket of the client's network."""

    def __init__(
        self,
        buckets: IBucketStore,
        accounts: IAccountStore,
        known_keys: KnownKeys,
        limit_fields: Callable[[Taken], bytes],
    ) -> None:
        """`limit_fields` makes the rate-limit header lines, each preceded by CRLF."""
        self._buckets = buckets
        self._accounts = accounts
        self.known_keys = known_keys
        self._limit_fields = limit_fields

    async def pay(self, request: Request) -> None:
        """See Gate."""
        await self._pay(_network(request))

    async def pay_for_no_key(self, request: Request) -> None:
        """See Gate."""
        try:
            await self._pay(_network(request))
        except StoreUnavailable:
            # The response is 401 in any case, so it reveals nothing about keys.
            pass

    async def pay_to_ask(self, request: Request, digest: str) -> Settle:
        """See Gate."""
        network = _network(request)
        if self.known_keys.knows(digest, network):
            return _let_pass
        try:
            await self._pay(network)
        except Refusal:
            if not await self._accounts.in_use(digest):
                raise
            return _let_pass

        def found(account: object) -> object:
            if account is not None:
                self._buckets.release_address(network, -1)
                self.known_keys.learn(digest, network)
            return account

        def not_told(failure: Failure) -> Failure:
            self._buckets.release_address(network, -1)
            return failure

        def settle(asked: Deferred[Any]) -> None:
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


@implementer(ITokenReceiver)
class _Asked:
    """Has a Deferred for the decision of the store; it is cancelled when the client disconnects."""

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
    """The values by name of header lines, each of which is preceded by CRLF."""
    pairs = (line.split(": ", 1) for line in lines.decode("ascii").split("\r\n")[1:])
    return {name: value for name, value in pairs}
