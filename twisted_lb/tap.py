"""`twistd tokenlb`: its options, and the service.

twistd imports this module before it installs a reactor, and klein and txredisapi install one when they are imported.
Everything that imports them is therefore imported within `makeService`.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.python import usage

from twisted_lb.app.signals import hold_hangups
from twisted_lb.app.version import version_text

if TYPE_CHECKING:
    from twisted_lb.app.startup import Startup


# As early as possible: the rest of the start takes some time.
hold_hangups()


class Options(usage.Options):
    """The command line options.  Absent options are None, so that they do not override the environment."""

    synopsis = "[options]"
    longdesc = (
        "A load balancer and API gateway: issues API keys, takes a token from the key's bucket for each request, "
        "and forwards the request to one of the servers in servers.yaml. Each option is also a setting: options take "
        "precedence over the environment (such as REDIS_URL), then .env, then the defaults. All settings, including "
        "those without an option, are listed in .env.example."
    )
    optParameters = [
        ["admin-listen", None, None, "Endpoint of the admin listener [default: tcp:9090:interface=127.0.0.1]."],
        ["servers", None, None, "File with the balancer and the servers [default: servers.yaml]."],
        ["env-file", None, None, "File of settings [default: .env, if it exists]."],
        ["redis-url", None, None, "Redis that holds users and buckets [default: none, the embedded store]."],
        ["data-dir", None, None, "Directory of the embedded store [default: data]."],
        ["workers", None, None, "Number of processes; more than one needs Redis [default: 1]."],
    ]
    optFlags = [
        ["demo", None, "Also start a demo server on each loopback address in the servers file."],
        ["check", None, "Check settings and servers file, print what they say, and start nothing; exit status 0 or 1."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []
        self["tls-listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Endpoint to serve clients on, such as tcp:80 or tcp6:8080; may be repeated [default: tcp:8080]."""
        self["listen"].append(endpoint)

    def opt_tls_listen(self, endpoint: str) -> None:
        """Endpoint to serve clients on with TLS, such as tcp:443; may be repeated [default: none]."""
        self["tls-listen"].append(endpoint)

    def opt_version(self) -> None:
        """Show the version of tokenlb, and those of Twisted and Python, and exit."""
        print(version_text())
        raise SystemExit(0)

    def postOptions(self) -> None:
        """With --check the program exits here: before twistd looks for another instance, or daemonizes."""
        if self["check"]:
            raise SystemExit(check(self))

    def settings(self) -> dict[str, str | list[str]]:
        """The given options, by the names of the settings."""
        by_option = {"servers": "servers_file"}
        given = {
            by_option.get(name, name.replace("-", "_")): value
            for name, value in self.items()
            if name not in ("env-file", "demo", "check")
        }
        return {name: value for name, value in given.items() if value is not None and value != []}


def check(options: Options) -> int:
    """Print the configuration, or all errors in it; return the exit status."""
    from twisted.internet import reactor

    from twisted_lb.app.describe import description, shown_whole, try_listening
    from twisted_lb.app.gateway import Gateway
    from twisted_lb.config.settings import Misconfigured

    try:
        startup = startup_of(options)
        in_use = try_listening(startup.settings)
        # Only a balancer itself can tell whether it accepts the servers.
        Gateway(reactor, startup.gateway)
    except Misconfigured as error:
        shown_whole(f"twisted_lb cannot start:\n{error}", sys.stderr)
        return 1
    shown = startup._replace(notices=(*startup.notices, *in_use))
    return 0 if shown_whole(description(shown), sys.stdout) else 1


def startup_of(options: Options) -> Startup:
    """The configuration from options, environment and files.  Raises Misconfigured."""
    from twisted_lb.app.startup import read_startup

    return read_startup(options.settings(), options["env-file"], bool(options["demo"]), os.environ)


def makeService(options: Options) -> IService:
    """The service to run.  On errors the program exits with a message and status 1."""
    # Most of what is imported and made from here on stays, and the collector would go through it again and again.
    collects = gc.isenabled()
    gc.disable()
    try:
        running, service = _built(options)
    except BaseException:
        if collects:
            gc.enable()
        raise
    if collects:
        running.callWhenRunning(gc.enable)
    running.callWhenRunning(_end_well_on_signals, running)
    return service


def _built(options: Options) -> tuple[Any, IService]:
    """The reactor, and the service to run on it."""
    from twisted.internet import reactor

    from twisted_lb.app.build import CannotStart, build
    from twisted_lb.app.fatal import log_unraisable
    from twisted_lb.app.monotonic import run_on_monotonic_clock
    from twisted_lb.config.settings import Misconfigured

    try:
        startup = startup_of(options)
        log_unraisable()
        run_on_monotonic_clock(reactor)
        return reactor, build(reactor, startup)
    except Misconfigured as error:
        raise CannotStart(str(error), lines=True) from None


def _end_well_on_signals(reactor: Any) -> None:
    """Make SIGTERM and SIGINT end the program with exit status 0, after draining.

    twistd would terminate itself by the same signal again, which supervisors report as a failure (143).
    """

    def end(number: int, frame: object) -> None:
        # Further signals are ignored: an interrupt at the terminal may also be sent by make.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        reactor.callFromThread(reactor.stop)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
