"""Run the test suite of Autobahn on a WebSocket peer, directly and through twisted_lb, and compare case by case.

The suite, `wstest` of the package autobahntestsuite, runs on Python 2.7 only: `--python2` names one.  It is installed
once, in an environment of its own in the directory of the results; this needs a C compiler.  The peer is a server or a
client, and the suite is the other end.  A server is behind an API key, which the suite sends in the query; the server
of the suite is behind a route that needs no key.

Results are kept, so that a run that was stopped, or ended by `--seconds`, is continued by the next one.  Cases that
differ are run five more times, up to 20 of them.  The exit status is 0 if no case differs, 1 if one does, and 3 if
cases are left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path.insert(0, str(PROJECT))

from tests.integration.processes import Balancer, wait_until  # noqa: E402
from tests.integration.redis_server import free_port  # noqa: E402

# The last that need nothing but each other; the environment for Python 2.7 is made by the last virtualenv that can.
SUITE = ("autobahntestsuite==25.10.1", "autobahn[accelerate,twisted]==0.10.9")
VIRTUALENV = "virtualenv==20.21.1"
PEERS = ("autobahn-server", "ws-server", "websockets-server", "autobahn-client", "ws-client", "websockets-client")
CONNECTIONS = ("direct", "through")
BATCH = 10  # cases of one process of the suite; those on compression, which may take minutes, are run one by one
BATCH_SECONDS = 1800.0
REPEATS = 5
REPEATED = 20  # at most so many of those that differ
LIST_CASES = "from autobahntestsuite.case import Cases\nfor case in Cases: print(case.__name__[4:].replace('_', '.'))"
# The sections on compression; and what is compared there as well: the bytes and frames of the peer's messages.
COMPRESSION = ("12.", "13.")
COUNTED = ("incomingOctetsWebSocketLevel", "incomingWebSocketFrames", "incomingOctetsAppLevel")
EXTENSIONS = "sec-websocket-extensions:"
NOT_RUN = {"behavior": "not run"}
# Where Debian, and npm, install modules of Node for all users.
NODE_PATH = [os.environ.get("NODE_PATH", ""), "/usr/share/nodejs", "/usr/local/lib/node_modules"]
ENVIRONMENT = {**os.environ, "NODE_PATH": os.pathsep.join(filter(None, NODE_PATH))}

Verdict = dict[str, Any]
Results = dict[str, dict[str, list[Verdict]]]  # by case and connection: of each time that it was run


def install(python2: str, directory: Path) -> Path:
    """The directory of the suite's commands; it is installed there if it is not yet."""
    suite = directory / "suite"
    if not (suite / "installed").exists():
        print(f"installing {' '.join(SUITE)}", flush=True)
        shutil.rmtree(suite, ignore_errors=True)
        with tempfile.TemporaryDirectory() as tools:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tools, VIRTUALENV]
            subprocess.run(pip, check=True)
            environment = {**os.environ, "PYTHONPATH": tools}
            command = [sys.executable, "-m", "virtualenv", "--quiet", "--python", python2, str(suite)]
            subprocess.run(command, check=True, env=environment)
        subprocess.run([suite / "bin" / "python", "-m", "pip", "install", "--quiet", *SUITE], check=True)
        (suite / "installed").touch()
    return suite / "bin"


def listens(port: int) -> bool:
    """Whether something does, at the loopback address."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def serving(command: Sequence[str | Path], port: int) -> Iterator[None]:
    """A process of a server, from when it listens to the end."""
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: process.poll() is not None or listens(port), what=f"a server: {command}")
            if process.poll() is not None:
                raise SystemExit(f"ended with status {process.returncode}: {command}")
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def balancer(port: int, key: str) -> Iterator[Balancer]:
    """twisted_lb in front of the server at this port; `key` is required or none."""
    pools = f'pools: {{all: {{servers: [{{url: "http://127.0.0.1:{port}"}}]}}}}\n'
    # Autobahn's server refuses a Host with another port than its own.
    host = f'request_headers: {{set: {{Host: "127.0.0.1:{port}"}}}}'
    fields = {"KEY_QUERY_PARAMETER": "api_key", "ADDRESS_CAPACITY": "0"}
    there = Balancer(f"{pools}routes: [{{pool: all, key: {key}, {host}}}]\n", environment=fields)
    try:
        yield there.start()
    finally:
        there.close()


class Suite:
    """The suite with one peer; each batch has new processes of the suite."""

    def __init__(self, commands: Path, peer: str, directory: Path) -> None:
        self._wstest = commands / "wstest"
        self._implementation, self.side = peer.split("-")
        self._directory = directory
        self._log = directory / f"{peer}.log"
        asked = subprocess.run([commands / "python", "-c", LIST_CASES], check=True, capture_output=True, text=True)
        self.cases = asked.stdout.split()

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """With what serves all batches: the peer if it is a server, and twisted_lb."""
        self._port = free_port()
        url = f"ws://127.0.0.1:{self._port}"
        with contextlib.ExitStack() as stack:
            if self.side == "server":
                stack.enter_context(serving(self._peer("serve", str(self._port)), self._port))
            there = stack.enter_context(balancer(self._port, "required" if self.side == "server" else "none"))
            query = "/?api_key=" + there.create_user("autobahn", 1_000_000, 0) if self.side == "server" else ""
            self._urls = {"direct": url, "through": f"ws://127.0.0.1:{there.port}{query}"}
            yield

    def run(self, cases: Sequence[str]) -> dict[str, dict[str, Verdict]]:
        """The verdicts on these cases, by case and connection."""
        with tempfile.TemporaryDirectory() as reports:
            spec: dict[str, Any] = {"outdir": reports, "cases": cases}
            file = Path(reports) / "spec.json"
            if self.side == "server":
                spec["servers"] = [{"agent": name, "url": url} for name, url in self._urls.items()]
                file.write_text(json.dumps(spec))
                self._wait([self._wstest, "--mode=fuzzingclient", f"--spec={file}"])
            else:
                spec["url"] = self._urls["direct"]
                file.write_text(json.dumps(spec))
                command: list[str | Path] = [self._wstest, "--mode=fuzzingserver", f"--spec={file}", "--webport=0"]
                with serving(command, self._port):
                    for name, url in self._urls.items():
                        self._wait(self._peer("ask", url, name))
            found = {case: {name: verdict(Path(reports), name, case) for name in CONNECTIONS} for case in cases}
        if any(verdicts["direct"] == NOT_RUN for verdicts in found.values()):
            raise SystemExit(f"The suite has not run all of {', '.join(cases)} directly; see {self._log}")
        return found

    def _peer(self, what: str, place: str, *more: str) -> list[str | Path]:
        if self._implementation == "websockets":
            return [sys.executable, HERE / "peer.py", what, place, *more]
        if self._implementation == "ws":
            return ["node", HERE / "peer.js", what, place, *more]
        if what == "serve":
            return [self._wstest, "--mode=testeeserver", f"--wsuri=ws://127.0.0.1:{place}", "--webport=0"]
        return [self._wstest, "--mode=testeeclient", f"--wsuri={place}", *(f"--ident={name}" for name in more)]

    def _wait(self, command: Sequence[str | Path]) -> None:
        with self._log.open("ab") as log:
            subprocess.run(command, env=ENVIRONMENT, stdout=log, stderr=log, timeout=BATCH_SECONDS, check=True)


def verdict(reports: Path, name: str, case: str) -> Verdict:
    """What the suite has found, as far as it must be the same on both connections."""
    file = reports / f"{name}_case_{case.replace('.', '_')}.json"
    if not file.exists():
        return NOT_RUN
    report = json.loads(file.read_text(encoding="latin-1"))  # it may hold bytes that are not UTF-8
    found = {field: report[field] for field in ("behavior", "behaviorClose", "remoteCloseCode")}
    heads = [line for head in ("httpRequest", "httpResponse") for line in (report[head] or "").splitlines()]
    found["extensions"] = [line for line in heads if line.lower().startswith(EXTENSIONS)]
    if case.startswith(COMPRESSION) and report["trafficStats"]:
        found |= {field: report["trafficStats"][field] for field in COUNTED}
    return found


def differing(results: Results) -> list[str]:
    """The cases that gave something else through twisted_lb when they were first run."""
    return [case for case, found in results.items() if found["direct"][0] != found["through"][0]]


def summary(results: Results, peer: str) -> str:
    """Counts of verdicts, and all verdicts of the cases that differ."""
    lines = [f"{peer}: {len(results)} cases run"]
    for name in CONNECTIONS:
        counts = Counter(found[name][0]["behavior"] for found in results.values())
        lines.append(f"  {name}: " + ", ".join(f"{count} {behavior}" for behavior, count in sorted(counts.items())))
    for case in differing(results):
        lines.append(f"  {case} differs:")
        for name in CONNECTIONS:
            counts = Counter(json.dumps(verdict) for verdict in results[case][name])
            lines.extend(f"    {name}, {count} times: {verdict}" for verdict, count in counts.items())
    return "\n".join([*lines, f"  {len(differing(results))} cases differ"])


def run_batches(suite: Suite, cases: Sequence[str], file: Path, seconds: float) -> Results:
    """The results of all that was run by now, which are in `file` as well."""
    results: Results = json.loads(file.read_text()) if file.exists() else {}
    end = time.monotonic() + seconds

    def record(found: Mapping[str, Mapping[str, Verdict]]) -> None:
        for case, verdicts in found.items():
            for name, verdict in verdicts.items():
                results.setdefault(case, {}).setdefault(name, []).append(verdict)
        file.write_text(json.dumps(results))

    left = [case for case in cases if case not in results]
    while left and time.monotonic() < end:
        size = 1 if left[0].startswith(COMPRESSION) else BATCH
        batch, left = left[:size], left[size:]
        record(suite.run(batch))
        print(f"{batch[0]} to {batch[-1]}; {len(left)} cases left", flush=True)
    for case in differing(results)[:REPEATED]:
        while len(results[case]["direct"]) <= REPEATS and time.monotonic() < end:
            record(suite.run([case]))
    return {case: results[case] for case in cases if case in results}


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["*"], help='names or patterns, such as "12.*"; default: all')
    parser.add_argument("--peer", choices=PEERS, default=PEERS[0], help="what is tested (default: %(default)s)")
    parser.add_argument("--python2", default="python2.7", metavar="PROGRAM", help="Python 2.7 (default: %(default)s)")
    there = PROJECT / "build" / "autobahn"
    parser.add_argument("--directory", type=Path, default=there, help="of suite and results (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no batch of cases after this time")
    parser.add_argument("--again", action="store_true", help="forget the results of this peer")
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    file = options.directory / f"{options.peer}.json"
    if options.again:
        file.unlink(missing_ok=True)
    suite = Suite(install(options.python2, options.directory), options.peer, options.directory)
    wanted = [case for case in suite.cases if any(fnmatchcase(case, pattern) for pattern in options.cases)]
    with suite.ready():
        results = run_batches(suite, wanted, file, options.seconds)
    print(summary(results, options.peer))
    if len(results) < len(wanted):
        return 3
    return 1 if differing(results) else 0


def exit_on_signal(number: int, frame: object) -> NoReturn:
    """As for Ctrl-C: what was started is ended."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, exit_on_signal)
    sys.exit(main(sys.argv[1:]))
