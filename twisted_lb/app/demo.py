"""Demo servers to try the balancer with: each answers every request with its name.

`--demo` starts one for each http:// URL of the servers file with a loopback address, in the balancer's process.
`python -m twisted_lb.app.demo --name server1 --listen tcp:9001` starts a single one.
"""

from __future__ import annotations

import sys
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.logger import FileLogObserver, Logger, formatEventAsClassicLogText, globalLogBeginner
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

_log = Logger()


class DemoResource(Resource):
    """Answers `Server {host_name} answer` to every method and path."""

    isLeaf = True

    def __init__(self, host_name: str) -> None:
        super().__init__()
        self._answer = f"Server {host_name} answer".encode()

    def render(self, request: Request) -> bytes:
        """The same answer to every request."""
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return self._answer


class DemoSite(Site):
    """A demo server, without an access log."""

    noisy = False

    def __init__(self, host_name: str, reactor: Any) -> None:
        super().__init__(DemoResource(host_name), reactor=reactor)

    def startFactory(self) -> None:
        """No log to open."""

    def stopFactory(self) -> None:
        """No log to close."""

    def log(self, request: HTTPRequest) -> None:
        """Nothing to write."""


def demo_address(host: str) -> str | None:
    """The loopback address that a demo server for `host` listens on, or None when `host` is not on loopback."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        return host if ip_address(host).is_loopback else None
    except ValueError:
        return None


def demo_endpoint(address: str, port: int) -> str:
    """The server endpoint string for an IPv4 or IPv6 address."""
    kind = "tcp6" if ":" in address else "tcp"
    return f"{kind}:{port}:interface={quoteStringArgument(address)}"


class _Options(usage.Options):
    synopsis = "--name NAME [--listen ENDPOINT]"
    optParameters = [
        ["name", None, None, "The name that it answers with."],
        ["listen", None, "tcp:9001", "The server endpoint to listen on."],
    ]

    def postOptions(self) -> None:
        if not self["name"]:
            raise usage.UsageError("--name is missing")


def main(arguments: list[str]) -> int:
    """Run one demo server until a signal; return the exit status."""
    from twisted.internet import reactor

    options = _Options()
    try:
        options.parseOptions(arguments)
        endpoint = serverFromString(reactor, options["listen"])
    except (usage.UsageError, ValueError, TypeError) as error:
        print(f"twisted_lb.app.demo: {error}", file=sys.stderr)
        return 1
    globalLogBeginner.beginLoggingTo([FileLogObserver(sys.stdout, formatEventAsClassicLogText)])
    failures: list[Failure] = []
    listening: Deferred[Any] = endpoint.listen(DemoSite(options["name"], reactor))
    listening.addErrback(failures.append)
    if failures:
        print(f"twisted_lb.app.demo: {failures[0].getErrorMessage()}", file=sys.__stderr__)
        return 1
    _log.info("{name} answers on {listen}", name=options["name"], listen=options["listen"])
    reactor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
