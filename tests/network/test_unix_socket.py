"""The path of a Unix socket: obstacles are reported and never removed; what an ended process has left is removed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.network.unix_socket import PathNotUsable, claim, obstacle


def ended_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class UnixSocketCase(SynchronousTestCase):
    def setUp(self) -> None:
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        self.path = self.directory / "s"
        self.lock = self.directory / "s.lock"

    def listen(self, backlog: int = 9) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(str(self.path))
        listening.listen(backlog)
        return listening

    def found(self, lock: bool = True) -> str:
        """What is in the way, in words; "" when nothing is."""
        before = sorted(os.listdir(self.directory))
        found = obstacle(str(self.path), lock)
        self.assertEqual(sorted(os.listdir(self.directory)), before, "looking has changed something")
        return found.detail if found else ""

    def assert_in_the_way(self, detail: str, lock: bool = True) -> None:
        """It is found by a look and by a start, in the same words, and is there afterwards."""
        before = sorted(os.listdir(self.directory))
        self.assertEqual(self.found(lock), detail)
        self.assertEqual(str(self.assertRaises(PathNotUsable, claim, str(self.path), lock)), detail)
        self.assertEqual(sorted(os.listdir(self.directory)), before)


class PathTests(UnixSocketCase):
    def test_nothing(self) -> None:
        """Where nothing is, nothing is in the way, and the lock file is made; without a lock nothing is."""
        self.assertEqual(self.found(), "")
        self.assertIsNone(claim(str(self.path), False))
        self.assertEqual(os.listdir(self.directory), [])
        lock = claim(str(self.path), True)
        self.assertEqual(os.readlink(self.lock), str(os.getpid()))
        assert lock is not None
        lock.unlock()
        self.assertEqual(os.listdir(self.directory), [])

    def test_directory(self) -> None:
        """A directory is in the way, also one that is named with a slash at its end."""
        self.path.mkdir()
        self.assert_in_the_way(f"{self.path} is a directory")
        self.path = Path(f"{self.path}/")
        self.assert_in_the_way(f"{self.path} is a directory")

    def test_file(self) -> None:
        """A regular file is in the way, and is not removed."""
        self.path.write_text("precious")
        self.assert_in_the_way(f"{self.path} is a regular file")
        self.assertEqual(self.path.read_text(), "precious")

    def test_other_kinds(self) -> None:
        """So is a named pipe."""
        os.mkfifo(self.path)
        self.assert_in_the_way(f"{self.path} is not a socket")

    def test_symbolic_links(self) -> None:
        """So is a symbolic link, also one to nothing, and one to a socket on which nobody listens."""
        end = "; a socket cannot be bound to one"
        self.path.symlink_to("nowhere")
        self.assert_in_the_way(f"{self.path} is a symbolic link to nowhere, which does not exist{end}")
        self.path.unlink()
        self.listen().close()
        self.path.rename(self.directory / "other")
        self.path.symlink_to("other")
        self.assert_in_the_way(f"{self.path} is a symbolic link to other{end}")

    def test_left_behind(self) -> None:
        """A socket on which nobody listens any more is removed, with a lock file and without."""
        for lock in (False, True):
            self.listen().close()
            self.assertEqual(self.found(lock), "")
            claim(str(self.path), lock)
            self.assertFalse(self.path.exists())

    def test_in_use(self) -> None:
        """A socket on which a process listens is in use, by that process, whatever the lock file says."""
        comm = Path("/proc/self/comm").read_text().strip()
        self.listen()
        for lock_of in (None, os.getpid(), ended_process()):
            if lock_of:
                self.lock.symlink_to(str(lock_of))
            self.assert_in_the_way(f"{self.path} is in use by process {os.getpid()} ({comm})", bool(lock_of))
            self.lock.unlink(missing_ok=True)
        found = obstacle(str(self.path), True)
        assert found is not None
        self.assertTrue(found.in_use)

    def test_full_queue(self) -> None:
        """So it is when its queue is full, so that it takes no connection."""
        self.listen(0)
        for _ in range(3):
            client = socket.socket(socket.AF_UNIX)
            self.addCleanup(client.close)
            client.setblocking(False)
            try:
                client.connect(str(self.path))
            except BlockingIOError:
                break
        else:
            self.fail("the queue has no end")
        self.assert_in_the_way(f"{self.path} is in use by another process")

    def test_datagrams(self) -> None:
        """A socket for datagrams is in use as well: it takes no connection, ever."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(self.path))
            self.assert_in_the_way(f"{self.path} is in use by another process")


class DirectoryTests(UnixSocketCase):
    def test_missing(self) -> None:
        """A socket needs a directory: none, a file, and a symbolic link to nothing are told."""
        below = self.directory / "d"
        self.path = below / "s"
        for make in (lambda: None, below.touch, lambda: below.symlink_to("nowhere")):
            below.unlink(missing_ok=True)
            make()
            self.assert_in_the_way(f"there is no directory {below}")

    def test_no_sockets_there(self) -> None:
        """A directory in which no socket can be made is told, also to root."""
        self.directory = Path("/proc/self")
        found = obstacle("/proc/self/s", True)
        assert found is not None
        self.assertIn("no socket can be made in /proc/self: ", found.detail)

    def test_longest_path(self) -> None:
        """The longest path that a socket can have is found to be good."""
        room = 107 - len(str(self.directory)) - len("//s")
        self.path = self.directory / ("d" * room) / "s"
        self.path.parent.mkdir()
        self.assertEqual(len(str(self.path)), 107)
        self.listen().close()
        self.assertIsNone(obstacle(str(self.path), True))

    def test_relative_path(self) -> None:
        """A path without a directory is one in the working directory."""
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.directory)
        self.assertIsNone(obstacle("s", True))


class LockTests(UnixSocketCase):
    def test_of_an_ended_process(self) -> None:
        """The lock file of a process that has ended is taken over."""
        self.lock.symlink_to(str(ended_process()))
        self.assertEqual(self.found(), "")
        claim(str(self.path), True)
        self.assertEqual(os.readlink(self.lock), str(os.getpid()))

    def test_of_the_same_number(self) -> None:
        """So is one with our own process id: the process that made it has ended, as in a container that was killed."""
        self.listen().close()
        self.lock.symlink_to(str(os.getpid()))
        self.assertEqual(self.found(), "")
        claim(str(self.path), True)
        self.assertEqual(os.readlink(self.lock), str(os.getpid()))
        self.assertFalse(self.path.exists())

    def test_of_a_running_process(self) -> None:
        """That of a process that runs is in the way, and names it, since it may be about to listen."""
        parent = os.getppid()
        comm = Path(f"/proc/{parent}/comm").read_text().strip()
        self.lock.symlink_to(str(parent))
        advice = "remove the file if that does not serve the socket"
        detail = f"the lock file {self.lock} names process {parent} ({comm}), which runs; {advice}"
        self.assert_in_the_way(detail)
        self.assertEqual(self.found(lock=False), "")

    def test_no_lock(self) -> None:
        """Whatever else has its name is in the way."""
        self.lock.write_text("")
        self.assert_in_the_way(f"the lock file {self.lock} is in the way: it was not made by this program")
        self.lock.unlink()
        for target in ("x", "-1", "0", str(2**40)):
            self.lock.symlink_to(target)
            self.assert_in_the_way(f"the lock file {self.lock} is in the way: it does not name a process")
            self.lock.unlink()
