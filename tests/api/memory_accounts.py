"""An account store in a dict, which the tests may hold up or break."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, execute
from zope.interface import implementer

from twisted_lb.interfaces import MICROTOKENS, Account, AccountPage, IAccountStore, NameTaken, Profile
from twisted_lb.user_names import normalized


@implementer(IAccountStore)
class MemoryAccounts:
    """Accounts by digest.  `error` fails every call; while `waiting` is a list, calls wait in it."""

    def __init__(self) -> None:
        self.profiles: dict[str, Profile] = {}
        self.unused: set[str] = set()  # digests of accounts that were not used for long
        self.error: Exception | None = None
        self.waiting: list[Callable[[], None]] | None = None
        self.calls = 0

    def create(self, digest: str, account: Account) -> Deferred[None]:
        return self._call(lambda: self._create(digest, account))

    def profile(self, digest: str) -> Deferred[Profile | None]:
        return self._call(lambda: self.profiles.get(digest))

    def in_use(self, digest: str) -> Deferred[bool]:
        return self._call(lambda: digest in self.profiles and digest not in self.unused)

    def change(self, digest: str, capacity: int | None, rate_per_sec: float | None) -> Deferred[Profile | None]:
        return self._call(lambda: self._change(digest, capacity, rate_per_sec))

    def page(self, after: str, count: int) -> Deferred[AccountPage]:
        return self._call(lambda: self._page(after, count))

    def go_on(self) -> None:
        """Do what waits, in order."""
        waiting, self.waiting = self.waiting or [], None
        for work in waiting:
            work()

    def _call(self, work: Callable[[], object]) -> Deferred:
        self.calls += 1
        if self.waiting is None:
            return execute(self._work, work)
        result = Deferred()
        self.waiting.append(lambda: execute(self._work, work).chainDeferred(result))
        return result

    def _work(self, work: Callable[[], object]) -> object:
        if self.error is not None:
            raise self.error
        return work()

    def _create(self, digest: str, account: Account) -> None:
        account = account._replace(name=normalized(account.name))
        if any(normalized(profile.account.name) == account.name for profile in self.profiles.values()):
            raise NameTaken(account.name)
        self.profiles[digest] = Profile(account, account.capacity * MICROTOKENS)

    def _change(self, digest: str, capacity: int | None, rate_per_sec: float | None) -> Profile | None:
        profile = self.profiles.get(digest)
        if profile is None:
            return None
        account = profile.account
        if capacity is not None:
            account = account._replace(capacity=capacity)
        if rate_per_sec is not None:
            account = account._replace(rate_per_sec=rate_per_sec)
        profile = Profile(account, min(profile.level, account.capacity * MICROTOKENS))
        self.profiles[digest] = profile
        return profile

    def _page(self, after: str, count: int) -> AccountPage:
        following = [one for one in self.profiles.values() if one.account.name.encode() > after.encode()]
        following.sort(key=lambda profile: profile.account.name.encode())
        found = following[:count]
        return AccountPage(found, found[-1].account.name if len(following) > count else None)
