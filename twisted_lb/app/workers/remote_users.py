"""The users and keys for the parent of several workers, which has no store: calls of IUserStore, made by a worker.

A call is its name and its arguments as JSON; its answer is {"result": ...}, or {"error": ..., "text": ...} with the
name of an exception of the interface.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from twisted_lb.interfaces import IUserStore, NameTaken, NotStored, StoreUnavailable
from twisted_lb.quotas import Quota
from twisted_lb.user_records import key_from, key_record, user_from, user_record
from twisted_lb.users import (
    Changed,
    Key,
    KeyBucket,
    KeyChange,
    KeyRefused,
    KeyRevoked,
    KeyTaken,
    NoShadow,
    Shadow,
    TooManyKeys,
    User,
    UserChange,
    UserFilter,
    UserPage,
)

# Asks a worker; the last argument is whether another one may be asked as well.  None: there is no answer.
Ask = Callable[[str, Sequence[object], bool], Awaitable[Any]]

_ERRORS: Final[dict[str, type[Exception]]] = {
    error.__name__: error
    for error in (
        NameTaken,
        KeyTaken,
        KeyRevoked,
        NoShadow,
        TooManyKeys,
        KeyRefused,
        NotStored,
        StoreUnavailable,
        ValueError,
    )
}


@implementer(IUserStore)
class UsersOfWorkers:
    """See the module, and IUserStore."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def user_page(self, after: str, count: int, filter: UserFilter) -> Deferred[UserPage]:
        """See IUserStore."""
        return self._call("user_page", [after, count, filter], _page_from, True)

    def user(self, name: str) -> Deferred[User | None]:
        """See IUserStore."""
        return self._call("user", [name], _user_or_none, True)

    def user_of_key(self, digest: str) -> Deferred[User | None]:
        """See IUserStore."""
        return self._call("user_of_key", [digest], _user_or_none, True)

    def find_key(self, key_id: str) -> Deferred[User | None]:
        """See IUserStore."""
        return self._call("find_key", [key_id], _user_or_none, True)

    def create_user(self, user: User) -> Deferred[None]:
        """See IUserStore."""
        return self._call("create_user", [user_record(user)], _plain)

    def change_user(self, name: str, change: UserChange) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._call("change_user", [name, change], _changed_from)

    def promote_shadow(self, name: str) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._call("promote_shadow", [name], _changed_from)

    def delete_user(self, name: str) -> Deferred[User | None]:
        """See IUserStore."""
        return self._call("delete_user", [name], _user_or_none)

    def create_key(self, name: str, key: Key) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._call("create_key", [name, key_record(key)], _changed_from)

    def change_key(self, name: str, key_id: str, change: KeyChange) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._call("change_key", [name, key_id, change], _changed_from)

    def rotate_key(
        self, name: str, key_id: str, grace_us: int, digest: str, keep_expiry: bool = False
    ) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._call("rotate_key", [name, key_id, grace_us, digest, keep_expiry], _changed_from)

    def refused_keys(self, digests: Sequence[str]) -> Deferred[list[str]]:
        """See IUserStore."""
        return self._call("refused_keys", [list(digests)], _plain, True)

    def _call(
        self, call: str, arguments: Sequence[object], read: Callable[[Any], Any], repeatable: bool = False
    ) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._answer(call, arguments, read, repeatable))

    async def _answer(
        self, call: str, arguments: Sequence[object], read: Callable[[Any], Any], repeatable: bool
    ) -> Any:
        answer = await self._ask(call, arguments, repeatable)
        if answer is None:
            raise StoreUnavailable("no worker could ask the store; see the log")
        if "error" in answer:
            raise _ERRORS[answer["error"]](answer["text"])
        return read(answer["result"])


async def _made(store: IUserStore, call: str, arguments: Sequence[Any]) -> dict[str, object]:
    readers = _ARGUMENTS.get(call, ())
    read = [reader(argument) for reader, argument in zip(readers, arguments, strict=True)] if readers else arguments
    try:
        return {"result": _shown(await getattr(store, call)(*read))}
    except tuple(_ERRORS.values()) as error:
        # The closest class that the parent knows.
        name = next(one.__name__ for one in type(error).__mro__ if one.__name__ in _ERRORS)
        return {"error": name, "text": str(error)}


def answered_call(store: IUserStore, call: str, arguments: Sequence[Any]) -> Deferred[dict[str, object]]:
    """The answer to a call, in the worker."""
    return Deferred.fromCoroutine(_made(store, call, arguments))


def _plain(value: Any) -> Any:
    return value


def _user_or_none(record: Any) -> User | None:
    return None if record is None else user_from(record)


def _changed_from(records: Any) -> Changed | None:
    return None if records is None else Changed(*map(user_from, records))


def _page_from(page: Any) -> UserPage:
    return UserPage([user_from(record) for record in page["users"]], page["more_after"])


def _key_change_from(values: Sequence[Any]) -> KeyChange:
    change = KeyChange(*values)
    return change if change.bucket is None else change._replace(bucket=KeyBucket(*change.bucket))


def _user_change_from(values: Sequence[Any]) -> UserChange:
    change = UserChange(*values)
    if change.shadow is not None:
        change = change._replace(shadow=Shadow(*change.shadow))
    return change if change.quota is None else change._replace(quota=Quota(*change.quota))


# How a worker reads the arguments of those calls whose arguments are not all plain values.
_ARGUMENTS: Final[dict[str, tuple[Callable[[Any], Any], ...]]] = {
    "user_page": (_plain, _plain, lambda values: UserFilter(*values)),
    "create_user": (user_from,),
    "change_user": (_plain, _user_change_from),
    "create_key": (_plain, key_from),
    "change_key": (_plain, _plain, _key_change_from),
}


def _shown(result: Any) -> object:
    """A result as JSON."""
    if isinstance(result, UserPage):
        return {"users": [user_record(user) for user in result.users], "more_after": result.more_after}
    if isinstance(result, Changed):
        return [user_record(user) for user in result]
    return user_record(result) if isinstance(result, User) else result
