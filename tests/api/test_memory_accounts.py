"""The fake store keeps the contract that it stands for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.api.memory_accounts import MemoryAccounts
from twisted_lb.interfaces import Account, IAccountStore, NameTaken, Profile


class MemoryAccountsTests(SynchronousTestCase):
    def test_interface(self) -> None:
        """The fake provides every verb of IAccountStore."""
        self.assertTrue(verifyObject(IAccountStore, MemoryAccounts()))

    def test_name_taken(self) -> None:
        """A second account of one name fails, and the first one stays."""
        accounts = MemoryAccounts()
        self.successResultOf(accounts.create("a", Account("user1", 5, 1.0)))
        self.failureResultOf(accounts.create("b", Account("user1", 9, 1.0)), NameTaken)
        self.assertEqual(accounts.profiles, {"a": Profile(Account("user1", 5, 1.0), 5_000_000)})

    def test_page(self) -> None:
        """Pages follow the bytes of the names, and the last one says that it is."""
        accounts = MemoryAccounts()
        for name in ("b", "a", "é"):
            self.successResultOf(accounts.create(name, Account(name, 5, 1.0)))
        page = self.successResultOf(accounts.page("", 2))
        self.assertEqual(([one.account.name for one in page.profiles], page.more_after), (["a", "b"], "b"))
        page = self.successResultOf(accounts.page("b", 2))
        self.assertEqual(([one.account.name for one in page.profiles], page.more_after), (["é"], None))
