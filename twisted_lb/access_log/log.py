"""Collects records, turns them into lines in batches, and passes these to the writer.

1. A record waits for at most FLUSH_SECONDS.  Lines are made of BATCH records at a time, so that no iteration of the
   event loop takes long; a thread that made them would keep the event loop waiting for the interpreter's lock.
   They are passed on when there are PASS_BYTES: larger blocks would be new memory each time, with page faults.
2. The writer is a thread.  The bytes that wait for it are limited; lines beyond the limit are dropped, and counted.
3. When the writer has a problem, this is reported in the program's log, and so is the end of the problem.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.logger import Logger

from twisted_lb.access_log.format import Format
from twisted_lb.access_log.stamps import Stamps
from twisted_lb.access_log.writer import Writer
from twisted_lb.bounded_log import BoundedLog
from twisted_lb.request_record import RequestRecord

FLUSH_SECONDS: Final = 0.1
BATCH: Final = 64
PASS_BYTES: Final = 256 * 1024
REPORT_SECONDS: Final = 10.0

_log = Logger(__name__)
_errors = BoundedLog(_log)


class AccessLog:
    """The access log of one process."""

    __slots__ = (
        "_reactor",
        "_format",
        "_stamps",
        "_writer",
        "_records",
        "_lines",
        "_bytes",
        "_count",
        "_flush",
        "_reported",
    )

    def __init__(self, reactor: Any, format: Format, stamps: Stamps, writer: Writer) -> None:
        """`reactor` provides IReactorTime."""
        self._reactor = reactor
        self._format = format
        self._stamps = stamps
        self._writer = writer
        self._records: list[RequestRecord] = []
        self._lines: list[bytes] = []  # of batches; they wait for the next flush
        self._bytes = 0  # in them
        self._count = 0  # lines
        self._flush: Any = None  # the call of the next flush
        self._reported = _Reported()

    def request_finished(self, record: RequestRecord) -> None:
        """Have a line about this request written."""
        records = self._records
        records.append(record)
        if self._flush is None:
            self._flush = self._reactor.callLater(FLUSH_SECONDS, self._time_is_up)
        if len(records) >= BATCH:
            self._make_lines()

    def _make_lines(self) -> None:
        records, self._records = self._records, []
        try:
            self._add(self._format.lines(records), len(records))
        except Exception:
            self._make_lines_one_by_one(records)
        if self._bytes >= PASS_BYTES:
            self._pass_on()

    def _make_lines_one_by_one(self, records: list[RequestRecord]) -> None:
        """Make the lines one by one; those that cannot be made are logged and left out."""
        for record in records:
            try:
                self._add(self._format.line(record).encode("ascii", "replace"), 1)
            except Exception:
                _errors.failure("line", "A line of the access log could not be made")

    def _add(self, lines: bytes, count: int) -> None:
        self._lines.append(lines)
        self._bytes += len(lines)
        self._count += count

    def _pass_on(self) -> None:
        lines, self._lines = self._lines, []
        count, self._count = self._count, 0
        self._bytes = 0
        self._writer.put(b"".join(lines), count)

    def _time_is_up(self) -> None:
        self._flush = None
        self.flush()

    def flush(self) -> None:
        """Pass on what was collected, without waiting for more."""
        if self._records:
            self._make_lines()
        if self._lines:
            self._pass_on()
        self._stamps.set_clock()
        self._report()

    def stop(self) -> None:
        """Pass on what was collected; no more records come."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        self.flush()

    def _report(self) -> None:
        """Log when lines are lost or cannot be written, and when that is over."""
        writer, reported = self._writer, self._reported
        dropped = writer.dropped
        problem = writer.problem
        now = self._reactor.seconds()
        if dropped == reported.dropped and problem == reported.problem:
            return
        if now < reported.quiet_until:
            # It is logged a little later, together with what happens until then.
            return
        reported.quiet_until = now + REPORT_SECONDS
        lost, reported.dropped = dropped - reported.dropped, dropped
        reported.problem = problem
        if problem:
            text = "The access log cannot be written: {problem}; {lost} lines were dropped since the last such message"
            _log.error(text, problem=problem, lost=lost)
        elif lost:
            text = "{lost} lines of the access log were dropped: they could not be written in time"
            _log.error(text, lost=lost)
        else:
            _log.info("The access log is written again")

    def counts(self) -> dict[str, float]:
        """Counters since the start, by the names of the metrics."""
        return {"access_log_lines": self._writer.written, "access_log_dropped": self._writer.dropped}


class _Reported:
    """What was last reported in the program's log."""

    def __init__(self) -> None:
        self.dropped = 0
        self.problem = ""
        self.quiet_until = 0.0
