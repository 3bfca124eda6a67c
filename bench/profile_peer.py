"""Where a peer's microseconds go: run one under load with a profiler, and print the answer per request.

    python bench/profile_peer.py --tool py-spy     self time by module and by function, lightly disturbed
    python bench/profile_peer.py --tool cprofile   calls per request; the times are inflated, the counts are exact
    python bench/profile_peer.py --tool strace     system calls per request
    python bench/profile_peer.py --tool perf       the kernel's and the interpreter's functions

--peer and --connections choose what is run.  The printed microseconds of py-spy and perf are shares of the CPU time per
request in the same seconds, so that they add up to it.
"""

from __future__ import annotations

import argparse
import pstats
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.ground import Ground, start_ground
from bench.load import HEADER_SETS, LoadResult, prepare_requests, write_requests
from bench.measure import check_answers
from bench.peers import PEERS, find_peer
from bench.peers.interface import StartedPeer
from bench.stage import Stage, StageError, exit_on_signals

ATTACH_SECONDS = 0.5  # for a profiler to find its process before the load comes
SAMPLES_PER_SECOND = 500
CPROFILE = "cprofile"

ATTACHED_TOOLS: dict[str, tuple[str, ...]] = {
    "py-spy": ("record", "--rate", str(SAMPLES_PER_SECOND), "--format", "raw", "--function", "--output", "OUT"),
    "strace": ("-f", "-c", "-o", "OUT"),
    # A clock instead of the cycle counter, which virtual machines often lack.
    "perf": ("record", "-e", "cpu-clock", "-F", str(SAMPLES_PER_SECOND), "-o", "OUT"),
}


@dataclass(frozen=True)
class Observed:
    """What is known of the seconds under observation."""

    requests: int
    cpu_us_per_request: float
    out: Path


def tool_path(tool: str) -> str:
    """The program of that name, beside this interpreter or on the PATH; raises MachineError when there is none."""
    beside = Path(sys.executable).with_name(tool)
    found = str(beside) if beside.exists() else shutil.which(tool)
    if found is None:
        advice = "pip install py-spy" if tool == "py-spy" else f"apt-get install {tool.replace('perf', 'linux-perf')}"
        raise machine.MachineError(f"missing: {tool}; install with: {advice}")
    return found


def run_load(ground: Ground, started: StartedPeer, connections: int, seconds: int, requests_file: Path) -> LoadResult:
    """Load the peer for that many seconds."""
    with ground.load.run(started.port, connections, requests_file) as run:
        time.sleep(seconds)
        return run.stop()


def observe(stage: Stage, options: argparse.Namespace) -> Observed:
    """Run the peer under load with the tool attached, and stop both.  The tool's output is in `out` of the result."""
    out = stage.path / "profile.out"
    under_cprofile = options.tool == CPROFILE
    ground = start_ground(stage, options.load_core)
    with Stage() as peer_stage:
        started = find_peer(options.peer).start(peer_stage, ground, options.proxy_core, out if under_cprofile else None)
        check_answers(started)
        requests_file = stage.path / "requests"
        write_requests(requests_file, prepare_requests(started.keys, started.port, options.headers))
        if not under_cprofile:  # cProfile counts from the start, so a warm-up would be counted too
            run_load(ground, started, options.connections, 1, requests_file)
        # The last of the tree is what works: the worker of nginx, or the process itself.
        pid = machine.process_tree(started.running.pid)[-1]
        with Stage() as tool_stage:
            if not under_cprofile:
                attach(tool_stage, options, pid, out)
            before = started.running.cpu_seconds()
            load = run_load(ground, started, options.connections, options.seconds, requests_file)
            cpu = started.running.cpu_seconds() - before
        if not load.requests or load.errors:
            raise StageError(f"{load.requests} requests, {load.errors} errors:\n{started.running.log_tail()}")
    return Observed(load.requests, cpu * 1e6 / load.requests, out)


def attach(stage: Stage, options: argparse.Namespace, pid: int, out: Path) -> None:
    """Start the tool on the process.  It is stopped with the stage, by an interrupt, on which all of them write."""
    arguments = [str(out) if argument == "OUT" else argument for argument in ATTACHED_TOOLS[options.tool]]
    process_option = "--pid" if options.tool == "py-spy" else "-p"
    argv = [tool_path(options.tool), *arguments, process_option, str(pid)]
    running = stage.start(options.tool, argv, options.load_core, stage.path, stop_signal=signal.SIGINT)
    try:
        running.popen.wait(ATTACH_SECONDS)
    except subprocess.TimeoutExpired:
        return
    running.check_alive()


def report_py_spy(seen: Observed, rows: int) -> str:
    """Self time by file and by function, in microseconds of a request."""
    files: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in seen.out.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frame = stack.rpartition(";")[2]
        # py-spy takes a thread that waits for work, such as a store's, for a busy one; waiting costs nothing.
        if "(threading.py" in frame:
            continue
        # "function (file:line)"
        files[frame.rpartition("(")[2].rstrip(")").partition(":")[0]] += int(count)
        functions[frame] += int(count)
    total = sum(files.values()) or 1
    lines: list[str] = []
    for title, counter in (("by file", files), ("by function", functions)):
        lines.append(f"self time {title}:\n  us/req  share")
        for name, samples in counter.most_common(rows):
            share = samples / total
            lines.append(f"  {share * seen.cpu_us_per_request:6.2f}  {share:5.1%}  {name}")
    return "\n".join(lines)


def report_cprofile(seen: Observed, rows: int) -> str:
    """Calls and inflated self time by function, per request."""
    # `stats` is what every reader of profiles uses, though it is missing from the annotations of pstats.
    raw: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = vars(pstats.Stats(str(seen.out)))["stats"]
    lines = ["  self us/req  calls/req  function"]
    for (file, number, name), (_, calls, self_time, _, _) in sorted(raw.items(), key=lambda item: -item[1][2])[:rows]:
        where = name if file == "~" else f"{name} ({Path(file).name}:{number})"
        lines.append(f"  {self_time * 1e6 / seen.requests:11.2f}  {calls / seen.requests:9.2f}  {where}")
    return "\n".join(lines)


def report_strace(seen: Observed, rows: int) -> str:
    """System calls per request."""
    lines = ["  calls/req  system call"]
    # "% time  seconds  usecs/call  calls  [errors]  syscall"
    pattern = re.compile(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$")
    calls = [(int(found[1]), found[2]) for line in seen.out.read_text().splitlines() if (found := pattern.match(line))]
    for count, name in sorted((one for one in calls if one[1] != "total"), reverse=True)[:rows]:
        lines.append(f"  {count / seen.requests:9.3f}  {name}")
    return "\n".join(lines)


def report_perf(seen: Observed, rows: int) -> str:
    """Self time by symbol, in microseconds of a request."""
    argv = [tool_path("perf"), "report", "-i", str(seen.out), "--stdio", "--no-children", "-F", "overhead,dso,symbol"]
    text = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False).stdout
    lines = ["  us/req  share"]
    for line in text.splitlines():
        if found := re.match(r"\s*([\d.]+)%\s+(.*\S)", line):
            share = float(found[1]) / 100
            lines.append(f"  {share * seen.cpu_us_per_request:6.2f}  {share:5.1%}  {found[2]}")
    return "\n".join(lines[: rows + 1])


REPORTS = {"py-spy": report_py_spy, CPROFILE: report_cprofile, "strace": report_strace, "perf": report_perf}


def main(arguments: Sequence[str]) -> int:
    """Run the profile and return the exit status."""
    parser = argparse.ArgumentParser(prog="bench/profile_peer.py", description="Where a peer's microseconds go.")
    parser.add_argument("--peer", default="twisted_lb", help=f"{', '.join(PEERS)} or twisted_lb@VENV")
    parser.add_argument("--tool", choices=list(REPORTS), default="py-spy")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--headers", choices=sorted(HEADER_SETS), default="client")
    parser.add_argument("--proxy-core", default="0")
    parser.add_argument("--load-core", default="1")
    parser.add_argument("--rows", type=int, default=40, help="how many lines of each list (default 40)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="also copy the profiler's own output to this file")
    options = parser.parse_args(arguments)
    exit_on_signals()
    try:
        machine.require_programs(machine.NEEDED)
        machine.require_cores(options.proxy_core, options.load_core)
        machine.raise_open_files()
        with Stage() as stage:
            seen = observe(stage, options)
            print(
                f"{options.peer} at {options.connections} connections under {options.tool}: {seen.requests} requests, "
                f"{seen.cpu_us_per_request:.1f} us CPU each (the profiler's own weight included)"
            )
            print(REPORTS[options.tool](seen, options.rows))
            if options.keep:
                shutil.copyfile(seen.out, options.keep)
    except (machine.MachineError, StageError, ValueError) as error:
        print(f"profile_peer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
