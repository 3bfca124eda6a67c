"""The embedded store's pages of accounts: what they cost, and when there are none."""

from __future__ import annotations

from typing import Any

from tests.stores.contract import digest_of, new_path
from tests.stores.embedded_on_clock import StoreOnClock
from twisted_lb.interfaces import Account, Profile, StoreUnavailable
from twisted_lb.stores.sqlite import held
from twisted_lb.stores.sqlite.database import AccountDatabase


class PageTests(StoreOnClock):
    """What a page of accounts costs."""

    def test_a_page_reads_the_index_and_no_more(self) -> None:
        """The accounts of a page are looked up in the index of names: nothing is scanned, nothing is sorted."""
        statements: list[str] = []
        database = AccountDatabase(new_path(self))
        self.addCleanup(database.close)
        database._connection.set_trace_callback(statements.append)
        database.names("a", 3)
        database._connection.set_trace_callback(None)
        [plan] = database._connection.execute("EXPLAIN QUERY PLAN " + statements[0]).fetchall()
        self.assertRegex(plan[-1], r"^SEARCH account USING (COVERING )?INDEX \w+ \(name>\?\)$")

    def test_a_page_makes_profiles_of_its_accounts_alone(self) -> None:
        """Of 300 accounts a page of 3 asks the levels of 3, in one call of the disk."""
        for number in range(300):
            self.create(f"k{number:03}")
        asked: list[str] = []

        def recorded(account: Account, level: int, **rest: Any) -> Profile:
            asked.append(account.name)
            return Profile(account, level, **rest)

        self.patch(held, "Profile", recorded)
        calls = self.disk.calls
        page = self.successResultOf(self.store.page("user k100", 3))
        self.assertEqual((asked, page.more_after), (["user k101", "user k102", "user k103"], "user k103"))
        self.assertEqual(self.disk.calls, calls + 1)

    def test_an_account_that_is_being_stored_is_left_out(self) -> None:
        """A page that reads an account which is on disk, but whose creation is not answered, goes without it."""
        self.create("a")
        self.create("c")
        self.disk.held = True
        self.store.create(digest_of("b"), Account("user b", 5, 0.0))
        _, insert = self.disk.waiting[0]
        insert()
        self.disk.held = False
        page = self.successResultOf(self.store.page("", 3))
        self.assertEqual([profile.account.name for profile in page.profiles], ["user a", "user c"])

    def test_without_a_database_there_is_no_page(self) -> None:
        """A page of a store that has stopped fails with StoreUnavailable."""
        self.successResultOf(self.store.stop())
        self.failureResultOf(self.store.page("", 3), StoreUnavailable)
