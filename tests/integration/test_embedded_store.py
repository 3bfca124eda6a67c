"""The embedded store on a real disk and in real processes: its thread, its lock, and kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.stores.contract import StoreContract, digest_of, new_path
from tests.stores.limits_contract import LimitsContract
from tests.stores.shared_contract import SharedContract
from tests.stores.users_contract import UsersContract
from twisted_lb.interfaces import MICROTOKENS, Account, Limits, StoreUnavailable
from twisted_lb.stores.sqlite.store import EmbeddedStore, steady_clock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Creates accounts one after another, changes every second one and takes a token from it, until it is
# killed; says each number when the store has answered.
WRITER = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from tests.stores.contract import Asker, digest_of
from twisted_lb.interfaces import Account
from twisted_lb.stores.sqlite.store import EmbeddedStore, steady_clock

store = EmbeddedStore(sys.argv[1], steady_clock(), reactor)

@inlineCallbacks
def write():
    store.start()
    number = 0
    while True:
        key = f"k{number}"
        yield store.create(digest_of(key), Account(f"user{number}", 5, 0.0))
        if number % 2:
            yield store.change(digest_of(key), 9, 0.5)
            store.take(digest_of(key), Asker())
        print(number, flush=True)
        number += 1

def failed(failure):
    print(failure.getErrorMessage(), file=sys.stderr, flush=True)
    reactor.stop()

reactor.callWhenRunning(lambda: write().addErrback(failed))
reactor.callLater(100, reactor.stop)
reactor.run()
"""


class OnDisk(TestCase):
    """A store with a thread and a clock of its own."""

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.data_dir = new_path(self)
        self.store = self.new_store()

    def new_store(self, limits: Limits = Limits()) -> EmbeddedStore:
        store = EmbeddedStore(self.data_dir, steady_clock(), self.reactor, limits=limits)
        store.start()
        self.addCleanup(store.stop)
        return store


class ContractTests(StoreContract, LimitsContract, SharedContract, UsersContract, OnDisk):
    """The contract of stores, with the database in its thread."""

    def begin_with(self, limits: Limits) -> None:
        self.data_dir = new_path(self)
        self.store = self.new_store(limits)

    def some_milliseconds(self) -> Deferred[None]:
        return deferLater(self.reactor, 0.005)


class ProcessTests(OnDisk):
    """Other processes, and their end."""

    def start_writer(self, data_dir: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, data_dir]
        writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(writer.communicate)
        self.addCleanup(writer.kill)
        return writer

    @inlineCallbacks
    def test_kill_9_loses_no_account_and_no_change(self) -> Any:
        """Every account and change that was answered before SIGKILL is there afterwards, and the lock is free."""
        self.data_dir = new_path(self)
        answered = -1
        for _ in range(2):
            writer = self.start_writer(self.data_dir)
            assert writer.stdout is not None
            for _ in range(25):
                answered = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.communicate()[0].split()
            answered = int(rest[-1]) if rest else answered
            store = self.new_store()
            for number in range(answered + 1):
                profile = yield store.profile(digest_of(f"k{number}"))
                expected = Account(f"user{number}", 9, 0.5) if number % 2 else Account(f"user{number}", 5, 0.0)
                self.assertEqual(profile.account, expected)
                # What was taken since the last flush is given once again, and never more than the capacity.
                self.assertIn(profile.level // MICROTOKENS, (4, 5, 6))
            yield store.stop()
            # The next writer starts from nothing.
            self.data_dir = new_path(self)

    def test_a_second_process_is_refused(self) -> None:
        """A process on a data directory that another one has ends with an error that names the directory."""
        _, errors = self.start_writer(self.data_dir).communicate(timeout=100)
        self.assertIn(f"the data directory {self.data_dir} is in use by another process", errors)

    @inlineCallbacks
    def test_a_stop_right_behind_a_creation_keeps_it(self) -> Any:
        """Accounts whose creation is under way when the store stops are stored before it has stopped."""
        created = [self.store.create(digest_of(f"k{n}"), Account(f"user{n}", 5, 0.0)) for n in range(20)]
        yield self.store.stop()
        yield gatherResults(created)
        again = self.new_store()
        for number in range(20):
            self.assertIsNotNone((yield again.profile(digest_of(f"k{number}"))))

    @inlineCallbacks
    def test_after_the_stop_accounts_are_unavailable(self) -> Any:
        """A creation after `stop` fails with StoreUnavailable."""
        yield self.store.stop()
        yield self.assertFailure(self.store.create(digest_of("k"), Account("ann", 5, 0.0)), StoreUnavailable)
