"""All users with their keys as JSON Lines: export, and import into the same or another store.

The body of an import has a maximum size; a larger file is sent in several requests.  An import is idempotent: a user
that exists with the same values is left unchanged; if the values differ, the line is an error, and the user is not
changed.  Values that change with time, such as levels, are not compared.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.server import Request

from twisted_lb.api.audit import Attempt
from twisted_lb.api.bodies import BadBody, read_object
from twisted_lb.api.line_stream import ClientLeft, LineStream
from twisted_lb.api.operator_token import OperatorTokens
from twisted_lb.api.recorded_change import Outcome, RecordedChanges
from twisted_lb.api.representations import shown_user
from twisted_lb.api.responses import failure_answer
from twisted_lb.api.user_query import could_be_name
from twisted_lb.api.users import UserAdministration
from twisted_lb.bounded_log import BoundedLog
from twisted_lb.config.admin_tokens import KEYS
from twisted_lb.interfaces import NameTaken, NotStored, StoreUnavailable
from twisted_lb.user_names import MAX_NAME_CHARACTERS, normalized
from twisted_lb.user_records import user_from, user_record
from twisted_lb.users import KeyTaken, User, UserFilter

# The first segments of the paths that are served here.
PATHS: Final = (b"export", b"import")
MAX_IMPORT_BYTES: Final = 4 * 1024 * 1024
PAGE: Final = 100  # users that are read at a time
AT_A_TIME: Final = 64  # users that are stored concurrently; more would keep other requests waiting

STORED: Final = "stored"
UNCHANGED: Final = "unchanged"
ERROR: Final = "error"

log = BoundedLog(Logger())


class TransferApi:
    """See the module."""

    app = Klein()

    def __init__(
        self, reactor: Any, users: UserAdministration, tokens: OperatorTokens, changes: RecordedChanges
    ) -> None:
        self._reactor = reactor
        self._users = users
        self._store = users.store
        self._tokens = tokens
        self._changes = changes

    @app.route("/export/users", methods=["GET"])
    async def _export(self, request: Request) -> bytes:
        self._tokens.changer(request, KEYS)
        # Read before the response begins: if the store is unavailable, the response is an error.
        page = await self._store.user_page("", PAGE, UserFilter())
        stream = LineStream(self._reactor, request)
        try:
            while True:
                await stream.write(map(user_record, page.users))
                if page.more_after is None:
                    break
                page = await self._store.user_page(page.more_after, PAGE, UserFilter())
        except (ClientLeft, CancelledError):
            """The client has disconnected."""
        except Exception:
            log.failure("export", "The export of users was interrupted")
            stream.cut()
        else:
            stream.end()
        return b""

    @app.route("/import/users", methods=["POST"])
    def _import(self, request: Request) -> Deferred[bytes]:
        async def make(body: bytes, attempt: Attempt) -> Outcome:
            stream = LineStream(self._reactor, request)
            counts = dict.fromkeys((STORED, UNCHANGED, ERROR), 0)
            lines, pending = _lines(body), deque[Deferred[dict[str, Any]]]()
            try:
                while True:
                    for number, line in islice(lines, AT_A_TIME - len(pending)):
                        pending.append(Deferred.fromCoroutine(self._imported(number, line, attempt)))
                    if not pending:
                        break
                    # Written as soon as they are complete, in the order of the lines: the client sees that the import
                    # makes progress, even if the store is slow.
                    answers = [await pending.popleft()]
                    while pending and pending[0].called:
                        answers.append(await pending.popleft())
                    _count(counts, answers)
                    await stream.write(answers)
            except ClientLeft:
                # Users that are stored already are kept.
                _count(counts, [await one for one in pending])
            except BaseException:
                stream.cut()
                raise
            else:
                stream.end()
            return Outcome({}, counts if counts[STORED] else {}, b"")

        return self._changes.make(request, KEYS, "import_users", {}, make)

    async def _imported(self, number: int, line: bytes, attempt: Attempt) -> dict[str, Any]:
        """Import one line, and return its result as it is shown."""
        name: str | None = None
        try:
            user = _user_in(line)
            name = user.name
            result = await self._stored(user)
        except (ValueError, KeyTaken) as error:
            detail = "another user has one of these keys" if isinstance(error, KeyTaken) else str(error)
            return {"line": number, "name": name, "result": ERROR, "detail": detail}
        except NameTaken:
            detail = "a user of this name is being created or removed; send it again"
            return {"line": number, "name": name, "result": ERROR, "detail": detail}
        except NotStored:
            return {"line": number, "name": name, "result": ERROR, "detail": "the store cannot write it now"}
        except StoreUnavailable:
            detail = "the store is unavailable; send it again"
            return {"line": number, "name": name, "result": ERROR, "detail": detail}
        if result == STORED:
            attempt.part({"action": "import_user", "user": name}, shown_user(user, self._users.now_us()))
        return {"line": number, "name": name, "result": result}

    async def _stored(self, user: User) -> str:
        """STORED or UNCHANGED.  Raises ValueError, KeyTaken, NameTaken, NotStored and StoreUnavailable."""
        try:
            await self._store.create_user(user)
        except (NameTaken, KeyTaken) as error:
            present = await self._store.user(user.name)
            if present is None:
                raise
            if different := _differing(present, user):
                raise ValueError(f"there is a user of this name, with another {different}") from error
            return UNCHANGED
        return STORED

    @app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            yield number, line


def _count(counts: dict[str, int], answers: Iterable[dict[str, Any]]) -> None:
    for one in answers:
        counts[one["result"]] += 1


def _user_in(line: bytes) -> User:
    """The user that a line describes.  Raises ValueError."""
    try:
        user = user_from(read_object(line.strip()))
    except BadBody as error:
        # The text speaks of the body, which is this line.
        raise ValueError(str(error)) from None
    # Names that are older than today's rules are accepted if requests can name them.
    if not user.name or not could_be_name(user.name):
        raise ValueError(f"name: expected 1 to {MAX_NAME_CHARACTERS} printable characters")
    user.name.encode()
    return user


def _differing(present: User, user: User) -> str:
    """The first member that differs, apart from those that change with time; or ""."""
    first, second = _comparable(present), _comparable(user)
    return next((name for name in {**first, **second} if first.get(name) != second.get(name)), "")


def _comparable(user: User) -> dict[str, Any]:
    record = json.loads(json.dumps(user_record(user._replace(name=normalized(user.name)))))
    del record["level"], record["created_at"]
    quota = record.get("quota")
    if quota is not None:
        del quota["used"], quota["starts_us"], quota["ends_us"]
    record["quota"] = quota
    shadow = record.get("shadow")
    if shadow is not None:
        del shadow["level"]
    record["shadow"] = shadow
    for key in record["keys"]:
        del key["created_at"], key["last_used"]
        if key["bucket"] is not None:
            del key["bucket"]["level"]
    record["keys"].sort(key=lambda key: key["digest"])
    found: dict[str, Any] = record
    return found
