"""Compare builds or settings of twisted_lb on a busy machine: all run side by side, and are loaded in turn.

    python bench/alternate.py twisted_lb twisted_lb+log
    python bench/alternate.py twisted_lb@/tmp/former twisted_lb twisted_lb+log,REQUEST_ID=off

Each argument is a peer of bench/run.py, with settings for its environment.  In each round each one, in random order,
is loaded for a short while, so that what else the machine does concerns all of them alike.  The CPU time is that of all
threads of the process, in nanoseconds from the scheduler.  The first argument is what the others are compared with.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.ground import Ground, start_ground
from bench.load import prepare_requests, write_requests
from bench.measure import check_answers
from bench.peers import find_peer
from bench.peers.interface import StartedPeer
from bench.peers.tokenlb import TokenlbPeer
from bench.stage import Stage, StageError, exit_on_signals

WARM_UP_SECONDS = 0.15  # of each load


@dataclass
class Candidate:
    """What is compared: a process that runs, and for each round its microseconds of CPU time per request."""

    name: str
    started: StartedPeer
    requests_file: Path
    of_loop: list[float] = field(default_factory=list)  # the event loop's thread
    of_threads: list[float] = field(default_factory=list)  # all others

    @property
    def whole(self) -> list[float]:
        """Of all threads."""
        return [one + other for one, other in zip(self.of_loop, self.of_threads, strict=True)]


def start(stage: Stage, ground: Ground, text: str, cores: str) -> Candidate:
    """Start the peer `text` names, with the settings behind it.  Raises StageError and ValueError."""
    name, *settings = text.split(",")
    peer = find_peer(name)
    if not isinstance(peer, TokenlbPeer):
        raise ValueError(f"{name!r} is not twisted_lb: use bench/run.py")
    peer = peer.with_settings(dict(one.split("=", 1) for one in settings))
    started = peer.start(stage, ground, cores)
    check_answers(started)
    requests_file = stage.path / "requests"
    write_requests(requests_file, prepare_requests(started.keys, started.port, "client"))
    return Candidate(text, started, requests_file)


def thread_us(pid: int) -> tuple[float, float]:
    """CPU time so far, in microseconds: of the first thread, of the others.  Threads that have ended are not in it."""
    times = {
        task.name: int((task / "schedstat").read_text().split()[0]) / 1000
        for task in Path(f"/proc/{pid}/task").iterdir()
    }
    return times.pop(str(pid)), sum(times.values())


def load_once(ground: Ground, one: Candidate, connections: int, seconds: float) -> None:
    """Load it, and add what that has cost.  Raises StageError when requests failed."""
    pid = one.started.running.pid
    with ground.load.run(one.started.port, connections, one.requests_file, one.started.tls) as run:
        time.sleep(WARM_UP_SECONDS)
        loop_before, threads_before = thread_us(pid)
        run.reset()
        time.sleep(seconds)
        loop, threads = thread_us(pid)
        result = run.stop()
    if result.errors or not result.requests:
        raise StageError(f"{one.name}: {result}")
    one.of_loop.append((loop - loop_before) / result.requests)
    one.of_threads.append((threads - threads_before) / result.requests)


def print_table(candidates: Sequence[Candidate]) -> None:
    """Medians over the rounds."""
    first = candidates[0].whole
    print(f"{'CPU us/req':>10}  {'loop':>6}  {'others':>6}  {'more':>7}")
    for one in candidates:
        ratio = statistics.median(ours / theirs for ours, theirs in zip(one.whole, first, strict=True))
        print(
            f"{statistics.median(one.whole):10.1f}  {statistics.median(one.of_loop):6.1f}"
            f"  {statistics.median(one.of_threads):6.2f}  {ratio - 1:+7.1%}  {one.name}"
        )


def main(arguments: Sequence[str]) -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(prog="bench/alternate.py", description=__doc__.partition("\n")[0])
    parser.add_argument("peers", nargs="+", metavar="PEER[,SETTING=VALUE]")
    parser.add_argument("--seconds", type=float, default=0.4, help="length of each load (default 0.4)")
    parser.add_argument("--rounds", type=int, default=20, help="default 20")
    parser.add_argument("--connections", type=int, default=64, help="default 64")
    parser.add_argument("--proxy-core", default="0", help="the core of the proxies (default 0)")
    parser.add_argument("--load-core", default="1", help="the core of the load and the servers (default 1)")
    options = parser.parse_args(arguments)
    exit_on_signals()
    try:
        machine.require_programs(machine.NEEDED)
        machine.require_cores(options.proxy_core, options.load_core)
        machine.raise_open_files()
        with ExitStack() as stages:
            ground = start_ground(stages.enter_context(Stage()), options.load_core)
            candidates = [
                start(stages.enter_context(Stage()), ground, text, options.proxy_core) for text in options.peers
            ]
            for _ in range(options.rounds):
                for one in random.sample(candidates, len(candidates)):
                    load_once(ground, one, options.connections, options.seconds)
            print_table(candidates)
    except (machine.MachineError, StageError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
