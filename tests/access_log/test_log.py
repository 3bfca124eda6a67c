"""From records to the writer: batches, bounds, and what is said of lines that are lost."""

from __future__ import annotations

from math import inf
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.access_log.records import WALL_CLOCK, record
from twisted_lb.access_log.formats import make_format
from twisted_lb.access_log.log import BATCH, FLUSH_SECONDS, PASS_BYTES, AccessLog
from twisted_lb.access_log.stamps import Stamps
from twisted_lb.access_log.writer import Writer


class FakeDestination:
    """Keeps what is written, piece by piece; takes `most` bytes at once, or raises `error`."""

    def __init__(self) -> None:
        self.lost = 0
        self.pieces: list[bytes] = []
        self.calls: list[str] = []
        self.most = 1 << 30
        self.errors: list[OSError] = []

    def open(self) -> None:
        self.calls.append("open")

    def write(self, data: bytes) -> int:
        if self.errors:
            raise self.errors.pop()
        self.pieces.append(data[: self.most])
        return min(len(data), self.most)

    def look(self) -> None:
        self.calls.append("look")

    def reopen(self) -> None:
        self.calls.append("reopen")

    def close(self) -> None:
        self.calls.append("close")


class FakeWriter(Writer):
    """Keeps the batches, and says what the test says."""

    def __init__(self) -> None:
        super().__init__(FakeDestination())
        self.batches: list[tuple[list[bytes], int]] = []
        self.gone = 0

    def put(self, lines: bytes, count: int) -> bool:
        self.batches.append((lines.splitlines(), count))
        return True

    @property
    def dropped(self) -> int:
        return self.gone


class AccessLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.writer = FakeWriter()
        self.log = self.made("{path}")

    def made(self, format: str) -> AccessLog:
        stamps = Stamps(self.clock.seconds, lambda: WALL_CLOCK)
        return AccessLog(self.clock, make_format(format, stamps), stamps, self.writer)

    def test_one_batch(self) -> None:
        """What comes within a short time is one batch, in order, however much it is."""
        for number in range(3 * BATCH + 5):
            self.log.request_finished(record(target=b"/%d" % number))
        self.assertEqual(self.writer.batches, [])
        self.clock.advance(FLUSH_SECONDS)
        [(lines, count)] = self.writer.batches
        self.assertEqual((lines, count), ([b"/%d" % number for number in range(3 * BATCH + 5)], 3 * BATCH + 5))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many_bytes(self) -> None:
        """Lines are passed on before the time is up when there are many bytes of them, all of them, and in order."""
        count = 3 * PASS_BYTES // 1000
        for number in range(count):
            self.log.request_finished(record(target=b"/%d/" % number + b"x" * 1000))
        self.assertEqual(len(self.writer.batches), 2)
        self.log.stop()
        lines = [line.split(b"/")[1] for batch, _ in self.writer.batches for line in batch]
        self.assertEqual(lines, [b"%d" % number for number in range(count)])
        self.assertEqual(sum(number for _, number in self.writer.batches), count)

    def test_stop(self) -> None:
        """At the end nothing is left behind."""
        self.log.request_finished(record())
        self.log.stop()
        self.assertEqual([count for _, count in self.writer.batches], [1])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_line_that_cannot_be_made(self) -> None:
        """A record of which no line can be made costs no other its line."""
        log = self.made("{time}")
        for started_at in (0.0, inf, 0.0):
            log.request_finished(record(started_at=started_at))
        self.clock.advance(1)
        self.assertEqual([count for _, count in self.writer.batches], [2])
        self.assertEqual(len(self.flushLoggedErrors(OverflowError)), 1)

    def test_reports(self) -> None:
        """The program's log says how many lines were lost, not too often, and when it is over."""
        said = self.said()
        self.writer.gone, self.writer.problem = 7, "No space left on device"
        self.serve(1)
        self.serve(1)
        self.writer.gone = 9
        self.serve(1)
        self.serve(20)
        self.writer.problem = ""
        self.serve(20)
        cannot = "The access log cannot be written: No space left on device; {} lines were dropped"
        self.assertEqual([one.partition(" since")[0] for one in said[:2]], [cannot.format(7), cannot.format(2)])
        self.assertEqual(said[2:], ["The access log is written again"])

    def said(self) -> list[str]:
        from twisted.logger import formatEvent, globalLogPublisher

        said: list[str] = []

        def observe(event: Any) -> None:
            if event.get("log_namespace") == "twisted_lb.access_log.log":
                said.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return said

    def serve(self, seconds: float) -> None:
        self.log.request_finished(record())
        self.clock.advance(seconds)


class WriterTests(SynchronousTestCase):
    """The thread's work, done in the test's own thread: `run` goes on until `stop`."""

    def writer(self, **more: Any) -> tuple[Writer, FakeDestination]:
        destination = FakeDestination()
        return Writer(destination, **more), destination

    def test_joined(self) -> None:
        """What waits is written at once, in order, and then the destination is closed."""
        writer, destination = self.writer()
        writer.put(b"1\n2\n", 2)
        writer.put(b"3\n", 1)
        writer.stop()
        writer.run()
        self.assertEqual((destination.pieces, destination.calls), ([b"1\n2\n3\n"], ["look", "close"]))
        self.assertEqual((writer.written, writer.dropped), (3, 0))

    def test_taken_in_part(self) -> None:
        """The rest of what is taken in part follows at once."""
        writer, destination = self.writer()
        destination.most = 3
        writer.put(b"one\ntwo\n", 2)
        writer.stop()
        writer.run()
        self.assertEqual((b"".join(destination.pieces), writer.written), (b"one\ntwo\n", 2))

    def test_bound(self) -> None:
        """What is beyond the bound is dropped, and counted; as soon as there is room, it goes on."""
        writer, destination = self.writer(max_waiting_bytes=4)
        writer.put(b"1\n2\n", 2)
        writer.put(b"3\n4\n", 2)
        self.assertEqual(writer.dropped, 2)
        writer.stop()
        writer.run()
        writer.put(b"5\n", 1)
        self.assertEqual((destination.pieces, writer.dropped), ([b"1\n2\n"], 2))

    def test_error(self) -> None:
        """After an error the same lines are tried again, and the problem is over."""
        writer, destination = self.writer()
        destination.errors = [OSError(28, "No space left on device")]
        writer.put(b"1\n", 1)
        writer.stop()
        writer.run()
        self.assertEqual((destination.pieces, writer.problem, writer.dropped), ([b"1\n"], "", 0))

    def test_end_in_time(self) -> None:
        """What cannot be written in the time for the end is counted as dropped."""
        now = iter(range(100))
        writer, destination = self.writer(now=lambda: float(next(now)))
        destination.errors = [OSError(28, "No space left on device")] * 100
        writer.put(b"1\n2\n", 2)
        writer.stop()
        writer.run()
        self.assertEqual((writer.written, writer.dropped, writer.problem), (0, 2, "No space left on device"))

    def test_reopen(self) -> None:
        """It is opened again where that was asked for, before the lines that come after."""
        writer, destination = self.writer()
        writer.reopen()
        writer.put(b"1\n", 1)
        writer.stop()
        writer.run()
        self.assertEqual(destination.calls, ["reopen", "look", "close"])

    def test_lost_by_destination(self) -> None:
        """Lines that the destination gives up by itself are dropped ones."""
        writer, destination = self.writer()

        def lossy(data: bytes) -> int:
            destination.lost += 1
            return len(data)

        destination.write = lossy  # type: ignore[method-assign]
        writer.put(b"1\n2\n", 2)
        writer.stop()
        writer.run()
        self.assertEqual((writer.written, writer.dropped), (1, 1))

    def test_thread(self) -> None:
        """It is a thread that does not keep the process alive."""
        writer, destination = self.writer()
        writer.start()
        writer.put(b"1\n", 1)
        writer.stop()
        writer._thread.join(10)
        self.assertEqual((writer.ended, destination.pieces, writer._thread.daemon), (True, [b"1\n"], True))
