"""The parent of the workers: starting, restarting and stopping them."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.api.status import Report, shown_server
from twisted_lb.app.startup import Startup
from twisted_lb.app.workers.pipe import as_bytes
from twisted_lb.app.workers.remote_usage import UsageOfWorkers
from twisted_lb.app.workers.slot import (
    ANSWER_SECONDS,
    FIRST_DELAY_SECONDS,
    LONGEST_DELAY_SECONDS,
    STEADY_SECONDS,
)
from twisted_lb.app.workers.supervisor import GRACE_SECONDS, SHARE_SECONDS, USERS_SECONDS, Workers
from twisted_lb.backend import Backend
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Settings
from twisted_lb.interfaces import IUsageReport, StoreUnavailable
from twisted_lb.network.certificate import Certificate
from twisted_lb.usage import WindowCounts

FLEET = "servers: [{name: a, url: 'http://127.0.0.1:9001'}]"
KILLED = ProcessTerminated(signal=9)


class FakePort(tcp.Port):
    """A port without a socket."""

    def __init__(self, factory: Factory, descriptor: int) -> None:
        self.factory = factory
        self.descriptor = descriptor
        self.reading = True
        self.closed = False

    def fileno(self) -> int:
        return self.descriptor

    def stopReading(self) -> None:
        self.reading = False

    def stopListening(self) -> None:
        self.closed = True


class FakeProcess:
    """A worker's process, as the parent sees it."""

    def __init__(self, protocol: Any, arguments: list[str], descriptors: dict[int, Any]) -> None:
        self.protocol = protocol
        self.arguments = arguments
        self.descriptors = descriptors
        self.pid = 4711
        self.written = b""
        self.lifeline = True
        self.ended = False
        self.signals: list[str] = []

    def writeToChild(self, descriptor: int, data: bytes) -> None:
        assert descriptor == 0
        if not self.lifeline:
            # As Twisted's own.
            raise KeyError(descriptor)
        self.written += data

    def closeStdin(self) -> None:
        self.lifeline = False

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)

    def questions(self) -> list[dict[str, Any]]:
        """What it was asked so far."""
        return [words for line in self.written.splitlines()[1:] if "ask" in (words := json.loads(line))]

    def answer(self, answer: object, question: int = -1) -> None:
        """Answer the last question, or another one."""
        words = {"number": self.questions()[question]["number"], "answer": answer}
        self.protocol.childDataReceived(3, json.dumps(words).encode() + b"\n")

    def end(self, error: Exception) -> None:
        self.ended = True
        self.protocol.processEnded(Failure(error))


class FakeReactor(Clock):
    """Listens without sockets, and starts processes that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[FakePort] = []
        self.processes: list[FakeProcess] = []

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> FakePort:
        self.ports.append(FakePort(factory, 100 + port))
        return self.ports[-1]

    def spawnProcess(
        self, protocol: Any, executable: str, args: list[str], env: dict[str, str], childFDs: dict[int, Any]
    ) -> FakeProcess:
        self.processes.append(FakeProcess(protocol, args, childFDs))
        return self.processes[-1]


def shown(state: str, requests: int = 0) -> dict[str, Any]:
    """A server as a worker reports it."""
    backend = Backend("a", "127.0.0.1", 9001)
    backend.up, backend.requests = state == "up", requests
    return shown_server(backend, "default")


def said(
    *servers: dict[str, Any], ready: bool = True, degraded: bool = False, reason: str = "serving", **counts: float
) -> dict[str, Any]:
    """A worker's report."""
    return Report(ready, degraded, reason, list(servers), counts)._asdict()


class WorkersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        settings = Settings(listen=("tcp:1", "tcp:2"), workers=2, redis_url="redis://x", drain_seconds=30.0)
        self.startup = Startup(settings, read_gateway(FLEET, "x.yaml"), FLEET, False)
        self.workers = Workers(self.reactor, self.startup)

    def start(self) -> None:
        self.workers.privilegedStartService()
        self.workers.startService()

    def test_hung_worker(self) -> None:
        """One that gives no sign of life for WORKER_TIMEOUT is killed and replaced, and one that answers is not."""
        self.workers.startService()
        good, hung = self.reactor.processes
        for _ in range(20):
            self.reactor.advance(7.5)
            if not good.ended and good.questions():
                good.answer(True)
            if hung.signals and not hung.ended:
                hung.end(ProcessTerminated(signal=9))
        self.assertEqual((good.signals, hung.signals), ([], ["KILL"]))
        self.assertGreater(len(self.reactor.processes), 2)

    def test_parent_does_not_accept(self) -> None:
        """The parent binds each port once, and reads nothing from it."""
        self.start()
        self.assertEqual([port.reading for port in self.reactor.ports], [False, False])

    def test_inheritance(self) -> None:
        """Each worker gets a lifeline, three pipes to write to, and the open sockets in the order it is told."""
        self.start()
        self.assertEqual(len(self.reactor.processes), 2)
        for process in self.reactor.processes:
            self.assertEqual(process.descriptors, {0: "w", 1: "r", 2: "r", 3: "r", 4: 101, 5: 102})
            self.assertEqual(process.arguments[1:3], ["-m", "twisted_lb.app.workers.child"])
            told = json.loads(process.written)
            self.assertEqual([listener["descriptor"] for listener in told["listeners"]], [4, 5])
            self.assertEqual(told["reports"], 3)

    def test_instructions(self) -> None:
        """The line that a worker begins with gives it the parent's settings and pool."""
        self.start()
        line = self.reactor.processes[0].written
        self.assertEqual(line.count(b"\n"), 1)
        told = json.loads(line)
        self.assertEqual(told["settings"], json.loads(json.dumps(asdict(self.startup.settings))))
        self.assertEqual(told["servers"], FLEET)

    def test_restart(self) -> None:
        """A worker that dies is started again, after a delay that doubles up to its longest."""
        self.start()
        delay, started = FIRST_DELAY_SECONDS, 2
        for _ in range(9):
            self.reactor.processes[-1].end(KILLED)
            self.reactor.advance(delay - 0.01)
            self.assertEqual(len(self.reactor.processes), started)
            self.reactor.advance(0.02)
            started += 1
            self.assertEqual(len(self.reactor.processes), started)
            delay = min(2 * delay, LONGEST_DELAY_SECONDS)

    def test_steady_worker(self) -> None:
        """A worker that ran for long is started again after the first delay, whatever was before."""
        self.start()
        self.reactor.processes[1].end(KILLED)
        self.reactor.advance(FIRST_DELAY_SECONDS)
        self.reactor.advance(STEADY_SECONDS)
        self.reactor.processes[2].end(KILLED)
        self.reactor.advance(FIRST_DELAY_SECONDS)
        self.assertEqual(len(self.reactor.processes), 4)

    def test_stop(self) -> None:
        """To stop, the ports are closed, the lifelines too, and the service waits for every worker."""
        self.start()
        stopped = self.workers.stopService()
        self.assertEqual([port.closed for port in self.reactor.ports], [True, True])
        first, second = self.reactor.processes
        self.assertEqual((first.lifeline, second.lifeline), (False, False))
        first.end(ProcessDone(0))
        self.assertNoResult(stopped)
        second.end(ProcessDone(0))
        self.successResultOf(stopped)
        self.reactor.advance(1000)
        self.assertEqual((first.signals, len(self.reactor.processes)), ([], 2))

    def test_late_worker_is_killed(self) -> None:
        """A worker that is still there after the time to drain and some more is killed, and no other one."""
        self.start()
        stopped = self.workers.stopService()
        prompt, late = self.reactor.processes
        prompt.end(ProcessDone(0))
        self.reactor.advance(30 + GRACE_SECONDS - 0.1)
        self.assertEqual(late.signals, [])
        self.reactor.advance(0.2)
        self.assertEqual((prompt.signals, late.signals), ([], ["KILL"]))
        late.end(KILLED)
        self.successResultOf(stopped)

    def test_death_between(self) -> None:
        """A worker that is gone already when it is to be killed is no error."""
        self.start()
        self.workers.stopService()

        def gone(name: str) -> None:
            raise ProcessExitedAlready

        for process in self.reactor.processes:
            self.patch(process, "signalProcess", gone)
        self.reactor.advance(1000)

    def test_stop_during_the_delay(self) -> None:
        """A worker that waits to be started again is not started after the stop."""
        self.start()
        for process in list(self.reactor.processes):
            process.end(KILLED)
        self.successResultOf(self.workers.stopService())
        self.reactor.advance(1000)
        self.assertEqual(len(self.reactor.processes), 2)

    def report(self, *answers: dict[str, Any]) -> Report:
        """The report, when the workers that run have answered."""
        asked: Deferred[Report] = Deferred.fromCoroutine(self.workers.report())
        running = [one for one in self.reactor.processes if not one.ended and one.lifeline]
        for process, answer in zip_longest(running, answers, fillvalue=said()):
            process.answer(answer)
        return self.successResultOf(asked)

    def ready(self, *answers: dict[str, Any]) -> tuple[bool, bool, str]:
        return self.report(*answers)[:3]

    def test_readiness(self) -> None:
        """Traffic is welcome while one worker runs, and not while the program stops."""
        self.assertEqual(self.ready(), (False, False, "draining"))
        self.start()
        self.assertEqual(self.ready(), (True, False, "2 of 2 workers run"))
        self.reactor.processes[0].end(KILLED)
        self.assertEqual(self.ready(), (True, False, "1 of 2 workers run"))
        self.reactor.processes[1].end(KILLED)
        self.assertEqual(self.ready(), (False, False, "0 of 2 workers run"))
        self.workers.stopService()
        self.assertEqual(self.ready(), (False, False, "draining"))

    def test_workers_that_are_not_ready(self) -> None:
        """Traffic is not welcome when no worker is ready, and it is served badly when one is not."""
        self.start()
        no_server = said(ready=False, reason="no server is available")
        self.assertEqual(self.ready(no_server, no_server), (False, False, "no server is available"))
        some = (True, True, "2 of 2 workers run; no server is available")
        self.assertEqual(self.ready(no_server, said()), some)
        away = said(degraded=True, reason="Redis is away")
        self.assertEqual(self.ready(said(), away), (True, True, "2 of 2 workers run; Redis is away"))

    def test_silence(self) -> None:
        """Workers that have just been started are not ready; those that are busy are as they were before."""
        self.start()
        asked: Deferred[Report] = Deferred.fromCoroutine(self.workers.report())
        self.reactor.advance(ANSWER_SECONDS)
        expected = (False, False, "2 of 2 workers run; none has answered yet")
        self.assertEqual(self.successResultOf(asked)[:3], expected)
        asked = Deferred.fromCoroutine(self.workers.report())
        for process in self.reactor.processes:
            process.answer(said(shown("up")))
        self.assertTrue(self.successResultOf(asked).ready)
        asked = Deferred.fromCoroutine(self.workers.report())
        self.reactor.advance(ANSWER_SECONDS)
        self.assertEqual(self.successResultOf(asked)[:3], (True, False, "2 of 2 workers run"))

    def requests(self, report: Report) -> list[int]:
        return [server["requests"] for server in report.servers]

    def test_late_answer(self) -> None:
        """An answer that comes late is not taken for the next one."""
        self.start()
        first, second = self.reactor.processes
        asked: Deferred[Report] = Deferred.fromCoroutine(self.workers.report())
        first.answer(said(shown("up", requests=1)))
        self.assertNoResult(asked)
        self.reactor.advance(ANSWER_SECONDS)
        self.assertEqual(self.requests(self.successResultOf(asked)), [1])
        asked = Deferred.fromCoroutine(self.workers.report())
        second.answer(said(shown("up", requests=10)), 0)
        first.answer(said(shown("up", requests=100)))
        self.assertNoResult(asked)
        second.answer(said(shown("up", requests=1000)))
        self.assertEqual(self.requests(self.successResultOf(asked)), [1100])

    def test_counts_do_not_fall(self) -> None:
        """What a worker has counted stays in the sums while it is late, and when it has died; once."""
        self.start()
        answers = said(shown("up", 10), takes=10), said(shown("up", 100), takes=100)
        for _ in range(2):
            report = self.report(*answers)
            self.assertEqual((self.requests(report), report.counts), ([110], {"takes": 110}))
        asked: Deferred[Report] = Deferred.fromCoroutine(self.workers.report())
        self.reactor.processes[1].answer(said(shown("up", 101), takes=101))
        self.reactor.advance(ANSWER_SECONDS)
        report = self.successResultOf(asked)
        self.assertEqual((self.requests(report), report.counts), ([111], {"takes": 111}))
        self.reactor.processes[0].end(KILLED)
        for _ in range(2):
            report = self.report(said(shown("up", 101), takes=101))
            self.assertEqual((self.requests(report), report.counts), ([111], {"takes": 111}))
        self.reactor.advance(FIRST_DELAY_SECONDS)
        self.assertEqual(self.report(said(), said(takes=1)).counts, {"takes": 11})

    def test_question_of_a_worker_that_dies(self) -> None:
        """A worker that dies before it answers is not waited for."""
        self.start()
        asked: Deferred[Report] = Deferred.fromCoroutine(self.workers.report())
        for process in list(self.reactor.processes):
            process.end(KILLED)
        self.assertEqual(self.successResultOf(asked).servers, [])

    def ask_about_users(self, repeatable: bool) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.workers.ask_about_users("user", ["ann"], repeatable))

    def test_users(self) -> None:
        """What can be asked again is what the first worker says that can tell."""
        self.start()
        first, second = self.reactor.processes
        asked = self.ask_about_users(True)
        (question,) = first.questions()
        self.assertEqual((question["ask"], question["call"], question["arguments"]), ("users", "user", ["ann"]))
        self.assertEqual(second.questions(), [])
        first.answer(None)
        second.answer({"result": 1})
        self.assertEqual(self.successResultOf(asked), {"result": 1})

    def test_changes_of_users(self) -> None:
        """A change is asked of one worker only: it may have been made without an answer."""
        self.start()
        first, second = self.reactor.processes
        asked = self.ask_about_users(False)
        first.answer(None)
        self.assertIsNone(self.successResultOf(asked))
        self.assertEqual(second.questions(), [])

    def test_users_that_nobody_knows(self) -> None:
        """When no worker can tell, or none answers in time, there is no answer."""
        self.start()
        asked = self.ask_about_users(True)
        self.reactor.advance(USERS_SECONDS)
        self.reactor.processes[1].answer(None)
        self.assertIsNone(self.successResultOf(asked))

    def test_usage(self) -> None:
        """All workers tell the store what they have counted; then the first one that can is asked."""
        self.start()
        first, second = self.reactor.processes
        usage = UsageOfWorkers(self.workers.usage)
        self.assertTrue(verifyObject(IUsageReport, usage))
        asked = usage.counts_of(("key:a",))
        self.assertEqual([process.questions()[0]["ask"] for process in (first, second)], ["flush", "flush"])
        second.answer(True)
        self.assertEqual(len(first.questions()), 1)
        # One that cannot is no reason to tell nothing.
        first.answer(None)
        self.assertEqual((first.questions()[1]["ask"], first.questions()[1]["subjects"]), ("usage", ["key:a"]))
        first.answer(None)
        second.answer([[{"requests": 1}, {"requests": 2}]])
        self.assertEqual(self.successResultOf(asked), [WindowCounts({"requests": 1}, {"requests": 2})])

    def test_usage_that_nobody_knows(self) -> None:
        """When no worker can tell, the store is unavailable."""
        self.start()
        asked = UsageOfWorkers(self.workers.usage).counts_of(["key:a"])
        for what in ("flush", "usage"):
            for process in self.reactor.processes:
                self.assertEqual(process.questions()[-1]["ask"], what)
                process.answer(None)
        self.failureResultOf(asked, StoreUnavailable)

    def test_another_pool(self) -> None:
        """All workers are told of another pool, and one that is started later begins with it."""
        self.start()
        text = FLEET.replace("9001", "9002")
        fired: list[object] = []
        used = self.workers.use(text, files={"/a": b"\xff"})
        for process in self.reactor.processes:
            told = json.loads(process.written.splitlines()[1])
            self.assertEqual((told["servers"], as_bytes(told["files"])), (text, {"/a": b"\xff"}))
        used.addCallback(fired.append)
        self.reactor.processes[1].answer(True)
        self.assertEqual(fired, [])
        # The next process of this worker begins with it.
        self.reactor.processes[0].end(KILLED)
        self.assertEqual(len(fired), 1)
        self.workers.use(FLEET)
        self.reactor.advance(FIRST_DELAY_SECONDS)
        self.assertEqual(json.loads(self.reactor.processes[2].written)["servers"], FLEET)

    def test_answers(self) -> None:
        """All workers are told of the answers that have changed, and one that is started later of all of them."""
        self.start()
        first = self.reactor.processes[0]
        self.assertEqual(json.loads(first.written)["answers"], {})
        self.workers.use(None, answers={"a.test": ("10.0.0.1", "10.0.0.2"), "b.test": ("10.0.0.3",)})
        now = {"a.test": ("10.0.0.1",), "b.test": ("10.0.0.3",)}
        self.workers.use(None, answers=now)
        told = [json.loads(line) for line in first.written.splitlines()[1:]]
        self.assertEqual([list(words) for words in told], [["ask", "number", "answers"]] * 2)
        self.assertEqual(told[1]["answers"], {"a.test": ["10.0.0.1"]})
        first.end(KILLED)
        self.reactor.advance(FIRST_DELAY_SECONDS)
        later = json.loads(self.reactor.processes[2].written)
        self.assertEqual((later["servers"], later["answers"]), (FLEET, {name: list(one) for name, one in now.items()}))

    def test_start_waits_for_services(self) -> None:
        """Workers are started when SRV records were looked up, so that their first requests find servers."""
        self.workers.found = found = Deferred()
        self.start()
        self.assertEqual(self.reactor.processes, [])
        found.callback(None)
        self.assertEqual(len(self.reactor.processes), 2)

    def test_stop_before_the_start(self) -> None:
        """None is started after a stop."""
        self.workers.found = found = Deferred()
        self.start()
        stopped = self.workers.stopService()
        found.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.processes, [])

    def test_other_certificates(self) -> None:
        """All workers are told of other certificates, without those that they have, and a later one gets all."""
        one, two = (Certificate(name, (name,), 0.0, 1.0, name.encode()) for name in ("one", "two"))
        self.workers.use_certificates([one])
        self.start()
        first = self.reactor.processes[0]
        self.assertEqual(json.loads(first.written)["certificates"], [{"file": "one", "pem": "one"}])
        self.workers.use_certificates([two, one])
        told = json.loads(first.written.splitlines()[1])
        self.assertEqual(told, {"certificates": [{"file": "two", "pem": "two"}, {"file": "one", "pem": None}]})
        first.end(KILLED)
        self.reactor.advance(FIRST_DELAY_SECONDS)
        words = json.loads(self.reactor.processes[2].written)["certificates"]
        self.assertEqual(words, [{"file": "two", "pem": "two"}, {"file": "one", "pem": "one"}])

    def test_other_authorities(self) -> None:
        """All workers are told of other authorities for the certificates of clients."""
        self.start()
        self.workers.use_client_authorities("text")
        for process in self.reactor.processes:
            self.assertEqual(json.loads(process.written.splitlines()[1]), {"client_authorities": "text"})

    def test_ticket_secrets(self) -> None:
        """All workers are told of other secrets for tickets."""
        self.start()
        self.workers.use_ticket_secrets([b"\x01\xff", b"\x02"])
        for process in self.reactor.processes:
            self.assertEqual(json.loads(process.written.splitlines()[1]), {"ticket_secrets": ["01ff", "02"]})

    def test_keys_are_passed_on(self) -> None:
        """What one worker has come to know of keys the others are told, but not one that does not answer."""
        self.start()
        first, second = self.reactor.processes
        self.reactor.advance(SHARE_SECONDS)
        first.answer([["d", "ann", 5, 1.0, 5]])
        second.answer([])
        self.assertEqual(json.loads(second.written.splitlines()[-1]), {"keys": [["d", "ann", 5, 1.0, 5]]})
        self.assertNotIn(b'"keys": [', first.written)
        self.reactor.advance(SHARE_SECONDS)
        first.answer([["e", "ann", 5, 1.0, 5]])
        self.reactor.advance(ANSWER_SECONDS)
        self.assertNotIn(b'"e"', second.written)

    def test_keys_at_the_end(self) -> None:
        """A worker that has been asked to end, or is ending, is told of no more keys."""
        self.start()
        first, second = self.reactor.processes
        self.reactor.advance(SHARE_SECONDS)
        self.workers.stopService()
        first.answer([["d", "ann", 5, 1.0, 5]])
        second.answer([])
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertNotIn(b'"keys": [', second.written)
