"""A page of users is read and shown in parts."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api.representations import shown_user
from twisted_lb.api.users_page import PART, users_page
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.users import Key, User, UserFilter, UserPage

NOW_US = 1_795_000_000_000_000
NOBODY_FILTERED = UserFilter()


def someone(number: int) -> User:
    return User(f"üser{number:04}", 5, 1.0, 0, keys=(Key(f"{number:064x}", label='"\\'),))


class Pages:
    """A store with so many users; a page is there when it is told to be."""

    def __init__(self, count: int) -> None:
        self.users = [someone(number) for number in range(count)]
        self.asked: list[tuple[str, int, UserFilter]] = []
        self.waiting: list[Deferred[UserPage]] = []
        self.at_once = True

    def user_page(self, after: str, count: int, filter: UserFilter) -> Deferred[UserPage]:
        self.asked.append((after, count, filter))
        if not self.at_once:
            page: Deferred[UserPage] = Deferred()
            self.waiting.append(page)
            return page
        return succeed(self.page(after, count))

    def page(self, after: str, count: int) -> UserPage:
        later = [user for user in self.users if user.name > after]
        return UserPage(later[:count], later[count - 1].name if len(later) > count else None)


class UsersPageTests(SynchronousTestCase):
    def page(self, store: Any, count: int, filter: UserFilter = NOBODY_FILTERED) -> Any:
        page = Deferred.fromCoroutine(users_page(store, "", count, filter, NOW_US))
        return json.loads(self.successResultOf(page))

    def test_parts(self) -> None:
        """All users of the page are there, once and in order, with the `next` of the last part; no part is large."""
        for there in (0, 1, PART, PART + 1, 2 * PART, 200, 201):
            for count in (1, PART - 1, PART, PART + 1, 2 * PART, 200):
                store = Pages(there)
                expected = store.page("", count)
                shown = json.loads(json.dumps([shown_user(user, NOW_US) for user in expected.users]))
                self.assertEqual(self.page(store, count), {"users": shown, "next": expected.more_after})
                self.assertLessEqual(max(asked for _, asked, _ in store.asked), PART)
                self.assertEqual(len(store.asked), max(1, -(-min(there, count) // PART)))

    def test_next_part_is_read_while_one_is_shown(self) -> None:
        """The store is asked for the next part before this one is shown."""
        store = Pages(2 * PART)
        store.at_once = False
        shown = []

        class Shown(list[User]):
            def __iter__(self) -> Any:
                shown.append(len(store.asked))
                return super().__iter__()

        page = Deferred.fromCoroutine(users_page(store, "", 200, UserFilter(), NOW_US))  # type: ignore[arg-type]
        first = store.page("", PART)
        store.waiting[0].callback(UserPage(Shown(first.users), first.more_after))
        self.assertEqual(shown, [2])
        self.assertNoResult(page)
        store.waiting[1].callback(store.page(first.more_after or "", PART))
        self.assertEqual(len(json.loads(self.successResultOf(page))["users"]), 2 * PART)

    def test_filter_is_one_call(self) -> None:
        """With a filter the store searches within its bound, once; a page without users has a `next` all the same."""
        filter = UserFilter(name="x")
        for count in (PART, 200):
            store = Pages(300)
            store.at_once = False
            page = Deferred.fromCoroutine(users_page(store, "a", count, filter, NOW_US))  # type: ignore[arg-type]
            store.waiting[0].callback(UserPage([], "m"))
            self.assertEqual(json.loads(self.successResultOf(page)), {"users": [], "next": "m"})
            self.assertEqual(store.asked, [("a", count, filter)])

    def test_store_that_goes_away(self) -> None:
        """Without a later part there is no page."""
        store = Pages(2 * PART)
        store.at_once = False
        page = Deferred.fromCoroutine(users_page(store, "", 200, UserFilter(), NOW_US))  # type: ignore[arg-type]
        store.waiting[0].callback(store.page("", PART))
        store.waiting[1].errback(StoreUnavailable("away"))
        self.failureResultOf(page, StoreUnavailable)
