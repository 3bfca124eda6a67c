"""Writes to the disk in one thread, and reports when that fails.

1. All calls that access the disk run in one thread, in order: a synced commit takes milliseconds, which is too long for
   the reactor.
2. Each second there is a round.  It writes the levels that have changed, in slices, so that neither the reactor nor a
   waiting account is delayed for long.  If no level has changed, it checks whether the files still exist, and
   occasionally makes a test write, so that a disk that cannot be written is detected before an account is created.
3. When a call fails the store is *down*: one message in the log, and requests are served from memory.  A level that
   could not be written stays dirty.  Accounts are refused immediately while another call is running, so that none waits
   for many.
4. Each round retries.  A lost database (see `database`) is replaced by a new one with all accounts after some seconds,
   since a file may be replaced in more than one step.
5. A call that does not return makes the store down as well; pending calls fail without saying whether they were
   stored.  At the end the thread is abandoned: the process does not wait for a disk that hangs.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from twisted_lb.interfaces import NotStored, StoreState, StoreUnavailable
from twisted_lb.repeated import Repeated
from twisted_lb.stores.sqlite.database import AccountDatabase, DatabaseLost
from twisted_lb.stores.sqlite.held import HeldKey, HeldUser, HeldUsers
from twisted_lb.stores.sqlite.notices import EmbeddedNotices
from twisted_lb.stores.sqlite.usage import UsageCounts

FLUSH_SECONDS = 1.0
# Levels per transaction: collecting them takes the reactor about 2 ms.
FLUSH_SLICE = 4096
USAGE_SLICE = 256  # subjects, likewise
IDLE_ROUNDS = 10  # without a write, until a test write
STUCK_ROUNDS = 5  # without the return of a call
MAX_WAITING = 1000  # accounts that wait for the thread
# Until a lost database is replaced; doubled while that fails.
ANEW_SECONDS = 3.0
LONGEST_ANEW_SECONDS = 60.0

MEANWHILE = "requests are served from memory, and no user can be created or changed"

# Runs a blocking call in another thread: (callable, arguments...) -> Deferred of its result.
RunBlocking = Callable[..., "Deferred[Any]"]

_Result = TypeVar("_Result")
_log = Logger()


class _DaemonThread(Thread):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "daemon": True})


class DatabaseWriter:
    """The thread of one database, and its state."""

    def __init__(
        self,
        database: AccountDatabase,
        held: HeldUsers,
        dirty: set[HeldUser],
        dirty_keys: set[HeldKey],
        usage: UsageCounts,
        reactor: Any,
        run_blocking: RunBlocking | None,
        notices: EmbeddedNotices,
    ) -> None:
        """`held` and `usage` are what is in memory; `run_blocking` replaces the thread, for tests.

        `dirty` and `dirty_keys` are those whose levels, or last uses, have changed.
        """
        self.errors = 0  # calls that failed
        self.outages = 0
        self._database = database
        # The user whom a call in the thread changes or removes: levels from before must not be written after it.
        self.busy: HeldUser | None = None
        self._held = held
        self._dirty = dirty
        self._dirty_keys = dirty_keys
        self._usage = usage
        self._notices = notices
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        self._run_blocking = run_blocking or self._in_thread
        if run_blocking is None:
            self._pool = ThreadPool(1, 1, "tokenlb-database")
            # A thread that hangs in a disk access must not keep the process alive.
            self._pool.threadFactory = _DaemonThread
            self._pool.start()
        self._rounds = Repeated(reactor, self._begin_round, "the round of the embedded store")
        self._round: Deferred[None] | None = None
        self._down = ""  # the reason, while it is down
        self._lost = False
        self._anew_at = 0.0
        self._anew_seconds = ANEW_SECONDS
        self._under_way = 0  # calls in the thread
        self._returned = self._returned_then = 0  # calls so far, and at the last round
        self._still_rounds = 0
        self._idle_rounds = 0
        self._waiting = 0  # calls of accounts in the thread
        self._answers: set[Deferred[Any]] = set()

    def start(self) -> None:
        """Begin the rounds."""
        self._rounds.start(FLUSH_SECONDS)

    def state(self) -> StoreState:
        """Whether the store can write."""
        return StoreState(False, f"{self._down}; {MEANWHILE}") if self._down else StoreState(True, "")

    # Accounts

    def write(self, call: Callable[..., None], *arguments: object) -> Deferred[Any]:
        """Write an account.  Fails with StoreUnavailable."""
        if self._waiting >= MAX_WAITING or self._lost or (self._down and self._under_way):
            return fail(NotStored(self._down or "too many accounts wait to be written"))
        self._waiting += 1
        return self.run(call, *arguments).addBoth(self._account_written)

    def _account_written(self, result: object) -> object:
        self._waiting -= 1
        if not isinstance(result, Failure):
            self._works()
        elif result.check(StoreUnavailable):
            self._failed(result.value)
        return result

    def answer(self, outcome: Deferred[_Result]) -> Deferred[_Result]:
        """The result of `outcome`, or StoreUnavailable when the disk does not respond in time."""
        answer: Deferred[_Result] = Deferred()

        def tell(result: Any) -> None:
            if answer in self._answers:
                self._answers.discard(answer)
                answer.callback(result)

        self._answers.add(answer)
        outcome.addBoth(tell)
        return answer

    # The thread

    def run(self, call: Callable[..., object], *arguments: object) -> Deferred[Any]:
        """Run a blocking call in the thread, after the earlier ones."""
        self._under_way += 1
        return self._run_blocking(call, *arguments).addBoth(self._call_returned)

    def _in_thread(self, call: Callable[..., object], *arguments: object) -> Deferred[Any]:
        assert self._pool is not None, "started with the database"
        return deferToThreadPool(self._reactor, self._pool, call, *arguments)

    def _call_returned(self, result: object) -> object:
        self._under_way -= 1
        self._returned += 1
        return result

    # The rounds

    def _begin_round(self) -> None:
        self._look_for_stuck_call()
        if self._round is None:
            self._round = Deferred.fromCoroutine(self._one_round())
            self._round.addBoth(self._round_over)

    def _round_over(self, result: object) -> None:
        self._round = None
        if isinstance(result, Failure):
            _log.failure("A round of the embedded store failed", failure=result)

    def _look_for_stuck_call(self) -> None:
        if self._is_stuck():
            seconds = self._still_rounds * FLUSH_SECONDS
            self._goes_down(f"the disk of {self._database.path} has not responded for {seconds:g} s")
            answers, self._answers = self._answers, set()
            for answer in answers:
                answer.errback(StoreUnavailable(self._down))

    def _is_stuck(self) -> bool:
        still = self._under_way > 0 and self._returned == self._returned_then
        self._returned_then = self._returned
        self._still_rounds = self._still_rounds + 1 if still else 0
        return self._still_rounds >= STUCK_ROUNDS

    async def _one_round(self) -> None:
        try:
            if self._lost:
                if self._reactor.seconds() < self._anew_at:
                    return
                self._anew_seconds = min(2 * self._anew_seconds, LONGEST_ANEW_SECONDS)
                self._anew_at = self._reactor.seconds() + self._anew_seconds
                await self._write_anew()
                self._works()
            elif await self._write_dirty():
                self._works()
            elif self._down or self._idle_rounds >= IDLE_ROUNDS:
                await self.run(self._database.try_to_write)
                self._works()
            else:
                # A file that exists need not be writable.
                await self.run(self._database.look)
                self._idle_rounds += 1
        except StoreUnavailable as error:
            self._failed(error)

    async def _write_dirty(self) -> bool:
        """Write what has changed; return whether anything has.  What could not be written stays dirty."""
        users = await self._write_slices(self._dirty, self._write_users, FLUSH_SLICE)
        keys = await self._write_slices(self._dirty_keys, self._write_keys, FLUSH_SLICE)
        usage = await self._write_slices(self._usage.dirty, self._write_usage, USAGE_SLICE)
        return users or keys or usage

    async def _write_slices(
        self, dirty: set[Any], write: Callable[[list[Any]], Deferred[Any]], size: int
    ) -> bool:
        taken = list(dirty)
        dirty.clear()
        written = 0
        try:
            while written < len(taken):
                now = taken[written : written + size]
                await write(now)
                written += len(now)
        finally:
            dirty.update(taken[written:])
        return bool(taken)

    def _write_users(self, users: list[HeldUser]) -> Deferred[Any]:
        self._dirty.update(user for user in users if user is self.busy)
        written = [user for user in users if self._may_write(user)]
        levels = [(user.level, user.stamp_us, user.digest) for user in written]
        shadows = [(user.shadow_text(), user.digest) for user in written if user.shadow is not None]
        limited = [user for user in written if user.quota is not None]
        if not limited:
            return self.run(self._database.write_levels, levels, shadows)
        quotas = [(user.quota.text(), user.digest) for user in limited if user.quota is not None]
        notices = self._notices.rows_of([user.digest for user in limited])
        stored = self.run(self._database.write_levels, levels, shadows, quotas, notices)
        return stored.addCallback(lambda _: self._notices.written(notices))

    def _write_keys(self, keys: list[HeldKey]) -> Deferred[Any]:
        self._dirty_keys.update(key for key in keys if key.user is self.busy)
        rows = [key.row() for key in keys if self._may_write(key.user) and self._held.key(key.digest) is key]
        return self.run(self._database.write_keys, rows)

    def _write_usage(self, subjects: list[str]) -> Deferred[Any]:
        return self.run(self._database.write_usage, *self._usage.rows(subjects))

    def _may_write(self, user: HeldUser) -> bool:
        return user is not self.busy and self._held.users.get(user.digest) is user

    async def _write_anew(self) -> None:
        """Write all users, as they are in memory, to a new database."""
        database, users = self._database, list(self._held.users.values())
        # A level that changes during this is written again afterwards.
        all_dirty: tuple[set[Any], ...] = (self._dirty, self._dirty_keys, self._usage.dirty)
        before = [dirty.copy() for dirty in all_dirty]
        for dirty in all_dirty:
            dirty.clear()
        try:
            await self.run(database.begin_anew)
            notices = self._notices.rows()
            await self.run(database.add_rows, [], [], notices)
            for at in range(0, len(users), FLUSH_SLICE):
                now = users[at : at + FLUSH_SLICE]
                keys = [row for user in now for row in user.key_rows()]
                await self.run(database.add_rows, [user.row() for user in now], keys)
            subjects = self._usage.subjects
            for at in range(0, len(subjects), USAGE_SLICE):
                counters, _ = self._usage.rows(subjects[at : at + USAGE_SLICE])
                await self.run(database.add_usage, counters)
            aside = await self.run(database.finish_anew)
            self._notices.written(notices)
        except BaseException:
            for dirty, written in zip(all_dirty, before):
                dirty.update(written)
            raise
        self._lost = False
        self._anew_seconds = ANEW_SECONDS
        _log.info(
            "All {count} accounts were written to a new database at {path}{kept}",
            count=len(users),
            path=database.path,
            kept=f"; the previous file is kept at {aside}" if aside else "",
        )

    # The state

    def _failed(self, error: Any) -> None:
        self.errors += 1
        if isinstance(error, DatabaseLost) and not self._lost:
            self._lost = True
            self._anew_at = self._reactor.seconds() + self._anew_seconds
        self._goes_down(str(error))

    def _goes_down(self, reason: str) -> None:
        was_up = not self._down
        self._down = reason
        if was_up:
            self.outages += 1
            then = "all accounts will be written to a new database soon" if self._lost else "it is retried every second"
            _log.error(
                "Accounts and levels cannot be written: {reason}; {meanwhile}; {then}",
                reason=reason,
                meanwhile=MEANWHILE,
                then=then,
            )

    def _works(self) -> None:
        """A write has succeeded."""
        self._idle_rounds = 0
        if self._down and not self._lost:
            self._down = ""
            _log.info("Accounts and levels can be written again")

    # The end

    def stop(self) -> Deferred[None]:
        """Write all changes and close the database.  If that fails, the log says what is lost."""
        self._rounds.stop()
        ended = Deferred.fromCoroutine(self._stop())

        def look() -> None:
            if self._is_stuck():
                ended.cancel()

        looking = Repeated(self._reactor, look, "the look at the disk")
        looking.start(FLUSH_SECONDS, now=True)
        return ended.addBoth(self._stopped, looking)

    def _stopped(self, result: object, looking: Repeated) -> object:
        looking.stop()
        if isinstance(result, Failure) and result.check(CancelledError):
            _log.critical(
                "The last changes could not be written: the disk of {path} does not respond; {lost}",
                path=self._database.path,
                lost=self._what_is_lost(),
            )
            return None
        if self._pool is not None:
            self._pool.stop()
        return result

    async def _stop(self) -> None:
        if self._round is not None:
            # Later slices of the round have not been passed to the thread yet.
            over: Deferred[None] = Deferred()
            self._round.addBoth(lambda _: over.callback(None))
            await over
        try:
            try:
                await self._last_write()
            except DatabaseLost:
                self._lost = True
                await self._last_write()
        except StoreUnavailable as error:
            _log.critical(
                "The last changes could not be written: {reason}; {lost}", reason=str(error), lost=self._what_is_lost()
            )
        try:
            await self.run(self._database.close)
        except StoreUnavailable as error:
            _log.error("The database was not closed cleanly: {reason}", reason=str(error))

    def _what_is_lost(self) -> str:
        if self._lost:
            return f"the {len(self._held.users)} accounts, which only this process had, are lost"
        return f"the tokens taken from {len(self._dirty)} buckets since they were last written are forgotten"

    async def _last_write(self) -> None:
        if self._lost:
            await self._write_anew()
        if not await self._write_dirty():
            await self.run(self._database.look)
