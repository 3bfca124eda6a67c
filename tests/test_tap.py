"""The command line."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from io import StringIO
from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import twisted
import twisted_lb
from tests.integration.processes import twistd
from twisted.plugins import tokenlb_plugin
from twisted_lb import tap
from twisted_lb.app.services import CannotStart
from twisted_lb.config.environment import READERS

ROOT = Path(__file__).parent.parent


class PluginTests(SynchronousTestCase):
    def test_is_a_service_maker(self) -> None:
        """The plugin is what twistd looks for, and leads to tap."""
        maker = tokenlb_plugin.tokenlb
        self.assertTrue(verifyObject(IServiceMaker, maker))
        self.assertTrue(IPlugin.providedBy(maker))
        self.assertEqual(maker.tapname, "tokenlb")
        self.assertIs(maker.options, tap.Options)


class OptionsTests(SynchronousTestCase):
    def parse(self, *arguments: str) -> tap.Options:
        options = tap.Options()
        options.parseOptions(list(arguments))
        return options

    def test_nothing_given(self) -> None:
        """Without options no setting is given, so that the environment counts."""
        self.assertEqual(self.parse().settings(), {})

    def test_all_given(self) -> None:
        """Each option gives the setting of its name."""
        options = self.parse(
            *("--listen", "tcp:1", "--listen", "tcp:2", "--admin-listen", "tcp:3", "--servers", "s"),
            *("--redis-url", "r", "--data-dir", "d", "--workers", "4", "--env-file", "e", "--demo"),
        )
        given = options.settings()
        expected = {"listen": ["tcp:1", "tcp:2"], "admin_listen": "tcp:3", "servers_file": "s", "redis_url": "r"}
        self.assertEqual(given, {**expected, "data_dir": "d", "workers": "4"})
        self.assertLessEqual(set(given), set(READERS))
        self.assertEqual((options["env-file"], options["demo"]), ("e", 1))

    def test_empty_option(self) -> None:
        """An option with an empty value is given: it hides what the environment says."""
        self.assertEqual(self.parse("--redis-url", "").settings(), {"redis_url": ""})

    def test_unknown(self) -> None:
        """An unknown option, and an argument, are usage errors."""
        self.assertRaises(UsageError, self.parse, "--lissten", "tcp:1")
        self.assertRaises(UsageError, self.parse, "extra")

    def test_help(self) -> None:
        """The help names each option, with the default of the setting."""
        text = " ".join(str(tap.Options()).split())
        for word in ("--listen=", "--admin-listen=", "--servers=", "--env-file=", "--redis-url=", "--data-dir="):
            self.assertIn(word, text)
        for default in ("tcp:8080", "tcp:9090:interface=127.0.0.1", "servers.yaml", ".env", "data", "1"):
            self.assertIn(f"[default: {default}", text)


class VersionTests(SynchronousTestCase):
    def shown(self, *command: str) -> tuple[int, str, str]:
        """The exit status, and what was printed."""
        path = {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([*twistd(), *command], env=path, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def test_our_own(self) -> None:
        """--version shows our version, with the build and those of Twisted and Python, and starts nothing."""
        for command in (("tokenlb", "--version"), ("-n", "tokenlb", "--version", "--servers", "nowhere.yaml")):
            status, output, errors = self.shown(*command)
            self.assertEqual((status, errors), (0, ""), command)
            name, version, rest = output.rstrip("\n").split(" ", 2)
            self.assertEqual((name, version), ("tokenlb", twisted_lb.__version__))
            self.assertIn(twisted_lb.BUILD, rest)
            self.assertIn(f"Twisted {twisted.__version__}", rest)
            self.assertIn(platform.python_version(), rest)


class CheckTests(SynchronousTestCase):
    def check(self, *arguments: str) -> tuple[object, str, str]:
        """The exit status, and what was printed."""
        output, errors = StringIO(), StringIO()
        self.patch(sys, "stdout", output)
        self.patch(sys, "stderr", errors)
        ended = self.assertRaises(SystemExit, tap.Options().parseOptions, ["--check", *arguments])
        return ended.code, output.getvalue(), errors.getvalue()

    def test_good(self) -> None:
        """A good configuration is printed, and the status is 0."""
        status, output, errors = self.check("--servers", str(ROOT / "servers.yaml"), "--listen", "tcp:1234")
        self.assertEqual((status, errors), (0, ""))
        self.assertIn("tcp:1234", output)
        self.assertIn("server3, http://localhost:9003, weight 1", output)

    def test_bad(self) -> None:
        """A bad one has its problems printed as errors, and the status is 1."""
        status, output, errors = self.check("--servers", "nowhere.yaml", "--workers", "many")
        self.assertEqual((status, output), (1, ""))
        self.assertIn("nowhere.yaml: cannot be read", errors)
        self.assertIn("WORKERS (option --workers): 'many'", errors)


    def test_balancer_that_does_not_take_the_servers(self) -> None:
        """A class of the user's own that raises when it is told of the servers is no configuration that can start."""
        directory = Path(self.mktemp())
        directory.mkdir()
        code = "from twisted_lb.balancers.first import First\nclass Mine(First):\n"
        (directory / "takes_none.py").write_text(f"{code}    def backends_changed(self, backends): 1 / 0\n")
        (directory / "servers.yaml").write_text("balancer: takes_none:Mine\nservers: [{name: a, url: 'http://a'}]")
        self.patch(sys, "path", list(sys.path))
        self.addCleanup(sys.modules.pop, "takes_none", None)
        status, output, errors = self.check("--servers", str(directory / "servers.yaml"))
        self.assertEqual((status, output), (1, ""))
        self.assertIn("balancer: it rejected the servers: ZeroDivisionError", errors)

    def test_reader_that_leaves(self) -> None:
        """A reader that has enough of the lines, as head, is no error, and gets no traceback."""
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "twisted", "tokenlb", "--check", "--servers", str(ROOT / "servers.yaml")]
        with os.fdopen(write, "wb") as pipe:
            done = subprocess.run(command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_nowhere_to_print(self) -> None:
        """Where the lines cannot be written, the status is 1, and the reason is an error."""
        command = [sys.executable, "-m", "twisted", "tokenlb", "--check", "--servers", str(ROOT / "servers.yaml")]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"cannot be printed: No space left on device", done.stderr)


class MakeServiceTests(SynchronousTestCase):
    def test_ends_the_program(self) -> None:
        """What cannot be started ends the program with every problem, as text and not as a traceback."""
        options = tap.Options()
        options.parseOptions(["--servers", "nowhere.yaml", "--workers", "many", "--listen", "tcp:http"])
        error = self.assertRaises(CannotStart, tap.makeService, options)
        self.assertIsInstance(error, SystemExit)
        listen = "LISTEN (option --listen): 'tcp:http'"
        for part in ("nowhere.yaml: cannot be read", "WORKERS (option --workers): 'many'", listen):
            self.assertIn(part, str(error.code))


class ReactorTests(SynchronousTestCase):
    def test_chosen_reactor_holds(self) -> None:
        """With `twistd --reactor=select` the service is made on that reactor."""
        program = (
            "import sys\n"
            "from twisted.scripts.twistd import ServerOptions\n"
            "config = ServerOptions()\n"
            f"config.parseOptions(['--reactor=select', 'tokenlb', '--servers', {str(ROOT / 'servers.yaml')!r}])\n"
            "print(config.loadedPlugins['tokenlb'].makeService(config.subOptions))\n"
            "print(type(sys.modules['twisted.internet.reactor']).__name__)"
        )
        path = {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True, timeout=60)
        self.assertEqual((done.stdout.splitlines()[-1:], done.stderr), (["SelectReactor"], ""))
