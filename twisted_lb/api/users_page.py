"""A page of users as JSON, read and encoded in parts: while one is encoded, the store reads the next.

Neither the store nor the event loop is busy with a whole page at once, so that requests do not wait for it.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred

from twisted_lb.api.representations import shown_user
from twisted_lb.api.responses import json_text
from twisted_lb.interfaces import IUserStore
from twisted_lb.users import UserFilter, UserPage

PART: Final = 67  # users: a third of the largest page
EVERYBODY: Final = UserFilter()


async def users_page(store: IUserStore, after: str, count: int, filter: UserFilter, now_us: int) -> bytes:
    """The body of the response to `GET /users`, with `users` and `next`.  Fails as IUserStore.user_page does.

    With a filter there is one call: the store itself reads in parts, and ends the page when it has read enough users.
    """
    in_parts = filter == EVERYBODY
    size = PART if in_parts else count
    shown: list[str] = []
    reading: Deferred[UserPage] | None = store.user_page(after, min(size, count), filter)
    more_after: str | None = None
    while reading is not None:
        page = await reading
        count -= len(page.users)
        more_after = page.more_after
        going_on = in_parts and more_after is not None and count > 0
        reading = store.user_page(more_after, min(size, count), filter) if going_on and more_after is not None else None
        if page.users:
            shown.append(json_text([shown_user(user, now_us) for user in page.users])[1:-1])
    return f'{{"users":[{",".join(shown)}],"next":{json_text(more_after)}}}\n'.encode()
