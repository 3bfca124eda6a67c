"""`twistd tokenlb`: its options, and the service they make.

twistd imports this module before it has chosen a reactor, and klein and txredisapi choose one when
they are imported: so all that leads to them is imported within `makeService`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.python import usage

from twisted_lb.hang_ups import await_hang_ups

if TYPE_CHECKING:
    from twisted_lb.plan import Plan


# As early as can be: the rest of the start takes a while.
await_hang_ups()


class Options(usage.Options):
    """The options of the command line.  What is not given is None, so that it does not hide the environment."""

    synopsis = "[options]"
    longdesc = (
        "A load balancer and API gateway: issues API keys, takes a token from the key's bucket for each request, "
        "and sends the request to one of the servers in servers.yaml. Each option is a setting as well: an option "
        "beats the environment (such as REDIS_URL), which beats .env, which beats the default. The other settings, "
        "all in .env.example, have no option."
    )
    optParameters = [
        ["admin-listen", None, None, "Endpoint of the admin listener [default: tcp:9090:interface=127.0.0.1]."],
        ["servers", None, None, "File that names the balancer and the servers [default: servers.yaml]."],
        ["env-file", None, None, "File of settings [default: .env, when there is one]."],
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

    def opt_listen(self, endpoint: str) -> None:
        """Endpoint to serve clients on, such as tcp:80 or tcp6:8080; may be repeated [default: tcp:8080]."""
        self["listen"].append(endpoint)

    def postOptions(self) -> None:
        """With --check the program ends here: before twistd looks for another instance, or becomes a daemon."""
        if self["check"]:
            raise SystemExit(check(self))

    def settings(self) -> dict[str, str | list[str]]:
        """What was given, by the names of the settings."""
        by_option = {"servers": "servers_file"}
        given = {
            by_option.get(name, name.replace("-", "_")): value
            for name, value in self.items()
            if name not in ("env-file", "demo", "check")
        }
        return {name: value for name, value in given.items() if value is not None and value != []}


def check(options: Options) -> int:
    """Print the configuration, or all that is wrong with it; the exit status."""
    from twisted_lb.check import description
    from twisted_lb.settings import Misconfigured

    try:
        plan = plan_of(options)
    except Misconfigured as error:
        print(f"twisted_lb cannot start:\n{error}", file=sys.stderr)
        return 1
    print(description(plan))
    return 0


def plan_of(options: Options) -> Plan:
    """What the options, the environment and the files say.  Raises Misconfigured."""
    from twisted.internet import reactor

    from twisted_lb.plan import read_plan

    return read_plan(options.settings(), options["env-file"], bool(options["demo"]), os.environ, reactor)


def makeService(options: Options) -> IService:
    """The service to run.  Ends the program with a text and exit status 1 when it cannot be made."""
    from twisted.internet import reactor

    from twisted_lb.fatal import log_unraisable
    from twisted_lb.monotonic import run_on_monotonic_clock
    from twisted_lb.service import CannotStart, build
    from twisted_lb.settings import Misconfigured

    try:
        plan = plan_of(options)
    except Misconfigured as error:
        raise CannotStart(f"twisted_lb cannot start:\n{error}") from None
    log_unraisable()
    run_on_monotonic_clock(reactor)
    running: Any = reactor
    running.callWhenRunning(_end_well_on_signals, running)
    return build(reactor, plan)


def _end_well_on_signals(reactor: Any) -> None:
    """From now on SIGTERM and SIGINT end the program with exit status 0, after the drain that follows.

    twistd would end itself by the same signal once more, which supervisors show as a failure (143).
    """

    def end(number: int, frame: object) -> None:
        # More of them change nothing: an interrupt at the terminal may come from make as well.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        reactor.callFromThread(reactor.stop)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
