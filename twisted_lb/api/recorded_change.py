"""Changes over the admin API: checks the token, makes the change, and records it in the audit log.

A change is answered when it is in effect and its entry was handed to the audit log.  A client that disconnects before
that does not interrupt the change.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import Request

from twisted_lb.api.audit import Attempt, Auditing
from twisted_lb.api.operator_token import OperatorTokens
from twisted_lb.api.responses import Refusal, log, store_away
from twisted_lb.interfaces import NotStored, StoreUnavailable

NOT_STORED: Final = "The store could not write it."
NOT_KNOWN: Final = "Whether this was stored is not known."


class Outcome(NamedTuple):
    """A change that was made: the members that differ, which are none if nothing was changed, and the result."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    result: Any
    more: Mapping[str, Any] = {}  # for the audit log


# Makes the change that the body of the request describes.  Raises Refusal, and the exceptions of stores.
Make = Callable[[bytes, Attempt], Awaitable[Outcome]]


class RecordedChanges:
    """Makes changes, and records them."""

    def __init__(self, tokens: OperatorTokens, audit: Auditing) -> None:
        self._tokens = tokens
        self._audit = audit

    def make(self, request: Request, scope: str, action: str, about: Mapping[str, Any], make: Make) -> Deferred[Any]:
        """Fires with the result of the change.  Fails with Refusal and NotStored.

        `about` says what is to be changed, for the audit log.  Cancelling the Deferred does not cancel the change,
        which would leave it half made.
        """
        attempt = self._audit.attempt(request, action, about)
        request.responseHeaders.setRawHeaders("X-Request-ID", [attempt.request_id])
        result: Deferred[Any] = Deferred()

        def fire(outcome: Any) -> None:
            if not result.called:
                result.callback(outcome)
            elif isinstance(outcome, Failure) and not outcome.check(Refusal, NotStored, StoreUnavailable):
                # The client has left, so there is no response that would log it.
                log.failure("left", "A change over the admin API failed", outcome)

        Deferred.fromCoroutine(self._make(request, scope, attempt, make)).addBoth(fire)
        return result

    async def _make(self, request: Request, scope: str, attempt: Attempt, make: Make) -> Any:
        try:
            attempt.who = self._tokens.changer(request, scope)
            if problem := self._audit.problem():
                raise Refusal(503, f"The audit log cannot be written, so nothing was changed: {problem}.")
            made = await make(request.content.read() if request.content is not None else b"", attempt)
        except NotStored:
            attempt.refused(503, NOT_STORED)
            raise
        except StoreUnavailable:
            attempt.failed(503, NOT_KNOWN)
            raise store_away(f"{NOT_KNOWN} Check, and try again.") from None
        except Refusal as error:
            attempt.refused(error.status, error.detail)
            members = {**error.members, "request_id": attempt.request_id}
            raise Refusal(error.status, error.detail, error.fields, members) from None
        except BaseException:
            attempt.failed()
            raise
        attempt.applied(made.before, made.after, made.more)
        return made.result


def differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The members that differ, before and after; None for one that is absent.  Of `keys`, only those that differ."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    old, new = {name: before.get(name) for name in names}, {name: after.get(name) for name in names}
    if "keys" in new:
        old["keys"] = [key for key in before["keys"] if key not in after["keys"]]
        new["keys"] = [key for key in after["keys"] if key not in before["keys"]]
    return old, new
