"""A page of the users that match a filter, from pages of all users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred

from twisted_lb.stores.user_checks import MAX_PAGE
from twisted_lb.users import User, UserFilter, UserPage

MAX_READ: Final = 1000  # users, for one page
EVERYBODY: Final = UserFilter()


async def filtered_page(
    read: Callable[[str, int], Deferred[UserPage]], after: str, count: int, filter: UserFilter
) -> UserPage:
    """See IUserStore.user_page; `read` returns a page without a filter."""
    if filter == EVERYBODY:
        return await read(after, count)
    found: list[User] = []
    for _ in range(0, MAX_READ, MAX_PAGE):
        page = await read(after, MAX_PAGE)
        for user in page.users:
            if filter.admits(user):
                if len(found) == count:
                    return UserPage(found, found[-1].name)
                found.append(user)
        if page.more_after is None:
            return UserPage(found, None)
        after = page.more_after
    return UserPage(found, after)
