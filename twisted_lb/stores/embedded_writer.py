"""What is to reach the disk: one thread does it, and somebody is told when it does not.

1. All calls that touch the disk go to one thread, in order: a synced commit takes milliseconds, which is too long for
   the reactor.
2. Each second there is a round.  It writes the levels that have changed, in slices, so that neither the reactor nor a
   waiting account is held up for long.  Where none has, it looks whether the files are still there, and now and then
   writes what is there already: a disk that cannot be written is known before an account is.
3. When a call fails the store is *down*: one line in the log, and requests go on from memory.  A level that could not
   be written stays dirty.  Accounts are refused at once while another call is under way, so that none waits for many.
4. Each round tries again.  A database that is lost (see `embedded_database`) is written anew, with all accounts, after
   some seconds: whoever replaces a file does so in more than one step.
5. A call that does not return makes the store down as well, and those who wait for it are told that nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from twisted_lb.interfaces import NotStored, StoreState, StoreUnavailable
from twisted_lb.stores.embedded_database import AccountDatabase, DatabaseLost, Row

FLUSH_SECONDS = 1.0
# Levels that go into one transaction: gathering them takes the reactor about 2 ms.
FLUSH_SLICE = 4096
IDLE_ROUNDS = 10  # without a write, until one is tried
STUCK_ROUNDS = 5  # in which no call has returned
MAX_WAITING = 1000  # accounts that wait for the thread
# Until a lost database is written anew; doubled as long as that fails.
ANEW_SECONDS = 3.0
LONGEST_ANEW_SECONDS = 60.0

MEANWHILE = "requests are served from memory, and no user can be created or changed"

# Runs a blocking call elsewhere: (callable, arguments...) -> Deferred of its result.
RunBlocking = Callable[..., "Deferred[Any]"]

_Result = TypeVar("_Result")
_log = Logger()


class Held(Protocol):
    """A bucket with the account that it belongs to."""

    digest: str
    name: str
    capacity: int
    rate_per_sec: float
    level: int
    stamp_us: int


class DatabaseWriter:
    """The thread of one database, and how that does."""

    def __init__(
        self,
        database: AccountDatabase,
        buckets: Mapping[str, Held],
        dirty: set[Any],
        reactor: Any,
        run_blocking: RunBlocking | None = None,
    ) -> None:
        """`buckets` are those of all accounts, `dirty` those of them whose level has changed; both go on changing.

        `run_blocking` replaces the thread, for tests.
        """
        self.errors = 0  # calls that failed
        self.outages = 0
        self._database = database
        self._buckets = buckets
        self._dirty = dirty
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        self._run_blocking = run_blocking or self._in_thread
        if run_blocking is None:
            self._pool = ThreadPool(1, 1, "tokenlb-database")
            self._pool.start()
        self._rounds = LoopingCall(self._begin_round)
        self._rounds.clock = reactor
        self._round: Deferred[None] | None = None
        self._down = ""  # why, while it is
        self._lost = False
        self._anew_at = 0.0
        self._anew_seconds = ANEW_SECONDS
        self._under_way = 0  # calls with the thread
        self._returned = self._returned_then = 0  # calls so far, and at the last round
        self._still_rounds = 0
        self._idle_rounds = 0
        self._waiting = 0  # accounts with the thread
        self._answers: set[Deferred[Any]] = set()

    def start(self) -> None:
        """Begin the rounds."""
        self._rounds.start(FLUSH_SECONDS, now=False)

    def state(self) -> StoreState:
        """Whether what is to be written is written."""
        return StoreState(False, f"{self._down}; {MEANWHILE}") if self._down else StoreState(True, "")

    # Accounts

    def write(self, call: Callable[..., None], *arguments: object) -> Deferred[Any]:
        """Carry out a write of an account.  Fails with StoreUnavailable."""
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
        """What to tell of `outcome`: it, or StoreUnavailable when it does not come."""
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
        """Have the thread make a blocking call, after those before."""
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
        still = self._under_way > 0 and self._returned == self._returned_then
        self._returned_then = self._returned
        self._still_rounds = self._still_rounds + 1 if still else 0
        if self._still_rounds >= STUCK_ROUNDS:
            seconds = self._still_rounds * FLUSH_SECONDS
            self._goes_down(f"the disk of {self._database.path} has not answered for {seconds:g} s")
            answers, self._answers = self._answers, set()
            for answer in answers:
                answer.errback(StoreUnavailable(self._down))

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
                # That it is there says nothing of whether it can be written.
                await self.run(self._database.look)
                self._idle_rounds += 1
        except StoreUnavailable as error:
            self._failed(error)

    async def _write_dirty(self) -> bool:
        """Write the levels that have changed so far; whether there were any.  What could not be written stays dirty."""
        dirty = list(self._dirty)
        self._dirty.clear()
        written = 0
        try:
            while written < len(dirty):
                now = dirty[written : written + FLUSH_SLICE]
                levels = [(bucket.level, bucket.stamp_us, bucket.digest) for bucket in now]
                await self.run(self._database.write_levels, levels)
                written += len(now)
        finally:
            self._dirty.update(dirty[written:])
        return bool(dirty)

    async def _write_anew(self) -> None:
        """Write all accounts, as they are in memory, to a new database."""
        database, buckets = self._database, list(self._buckets.values())
        # A level that changes while it is at work is written again afterwards.
        dirty = set(self._dirty)
        self._dirty.clear()
        try:
            await self.run(database.begin_anew)
            for at in range(0, len(buckets), FLUSH_SLICE):
                await self.run(database.add_rows, [_row(bucket) for bucket in buckets[at : at + FLUSH_SLICE]])
            aside = await self.run(database.finish_anew)
        except BaseException:
            self._dirty.update(dirty)
            raise
        self._lost = False
        self._anew_seconds = ANEW_SECONDS
        _log.info(
            "All {count} accounts are written to a new database at {path}{kept}",
            count=len(buckets),
            path=database.path,
            kept=f"; what was found there is kept at {aside}" if aside else "",
        )

    # How it does

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
            then = "all accounts are written to a new database soon" if self._lost else "it is tried again every second"
            _log.error(
                "Accounts and levels cannot be written: {reason}; {meanwhile}; {then}",
                reason=reason,
                meanwhile=MEANWHILE,
                then=then,
            )

    def _works(self) -> None:
        """Something was written."""
        self._idle_rounds = 0
        if self._down and not self._lost:
            self._down = ""
            _log.info("Accounts and levels are written again")

    # The end

    def stop(self) -> Deferred[None]:
        """Write what is to be written, and close the database.  Says what is lost where that cannot be done."""
        self._rounds.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._round is not None:
            # Its later slices are not yet with the thread.
            over: Deferred[None] = Deferred()
            self._round.addBoth(lambda _: over.callback(None))
            await over
        try:
            await self._last_round()
        finally:
            if self._pool is not None:
                self._pool.stop()

    async def _last_round(self) -> None:
        try:
            try:
                await self._last_write()
            except DatabaseLost:
                self._lost = True
                await self._last_write()
        except StoreUnavailable as error:
            if self._lost:
                lost = f"the {len(self._buckets)} accounts, which only this process had, are lost"
            else:
                lost = f"what {len(self._dirty)} buckets have spent since they were last written is forgotten"
            _log.critical("The end could not be written: {reason}; {lost}", reason=str(error), lost=lost)
        try:
            await self.run(self._database.close)
        except StoreUnavailable as error:
            _log.error("The database did not close in good order: {reason}", reason=str(error))

    async def _last_write(self) -> None:
        if self._lost:
            await self._write_anew()
        if not await self._write_dirty():
            await self.run(self._database.look)


def _row(bucket: Held) -> Row:
    return Row(
        bucket.digest, bucket.name, bucket.capacity, bucket.rate_per_sec, bucket.level, bucket.stamp_us
    )
