"""Whether a missing response is the server's failure, and which server is tried next: each case of the table."""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.pool.retry_policy import Attempt, Blame, Step, blame, next_step

# A server that ends a new connection before it has answered a whole GET.
DIED = Attempt(False, True, True, False, True, True, True)


class BlameTests(SynchronousTestCase):
    def test_cases(self) -> None:
        """Each failure has its owner."""
        for words, attempt, expected in [
            ("it ended a new connection", DIED, Blame.DIED),
            ("... within a response", DIED._replace(silent=False), Blame.DIED),
            ("... on a kept one, within a response", DIED._replace(silent=False, kept_connection=True), Blame.DIED),
            ("... before it had the whole request", DIED._replace(whole=False), Blame.NOBODY),
            ("... on a kept connection, without a word", DIED._replace(kept_connection=True), Blame.NOBODY),
            (
                "the same for a method that is not idempotent",
                DIED._replace(kept_connection=True, idempotent=False),
                Blame.NOBODY,
            ),
            ("... while the client did not read", DIED._replace(silent=False, client_slow=True), Blame.NOBODY),
            ("it did not answer in time", DIED._replace(closed=False, silent=False), Blame.FAILED),
            ("it took nothing of the request", DIED._replace(closed=False, silent=False, whole=False), Blame.FAILED),
            ("it spoke before it was asked", DIED._replace(closed=False, unsent=True), Blame.FAILED),
        ]:
            self.assertIs(blame(attempt), expected, words)


class StepTests(SynchronousTestCase):
    def test_same_server(self) -> None:
        """Only on a kept connection that said nothing, and only what cannot have been acted on, or may be twice."""
        kept = DIED._replace(kept_connection=True)
        self.assertIs(next_step(kept), Step.SAME_SERVER)
        self.assertIs(next_step(kept._replace(idempotent=False, unsent=True)), Step.SAME_SERVER)
        self.assertIs(next_step(kept._replace(idempotent=False)), Step.GIVE_UP)
        self.assertIs(next_step(kept._replace(silent=False)), Step.NEXT_SERVER)
        self.assertIs(next_step(kept._replace(sendable=False)), Step.GIVE_UP)

    def test_not_idempotent(self) -> None:
        """A request that is not idempotent, and of which a byte has left, is never sent again."""
        for flags in product((False, True), repeat=5):
            kept, closed, silent, whole, sendable = flags
            attempt = Attempt(kept, closed, silent, False, whole, sendable, False)
            self.assertIs(next_step(attempt), Step.GIVE_UP, attempt)

    def test_not_there_any_more(self) -> None:
        """What was received and is not kept cannot be sent again."""
        for flags in product((False, True), repeat=6):
            kept, closed, silent, unsent, whole, idempotent = flags
            attempt = Attempt(kept, closed, silent, unsent, whole, False, idempotent)
            self.assertIs(next_step(attempt), Step.GIVE_UP, attempt)
