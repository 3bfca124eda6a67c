"""`make bench`: measure twisted_lb and its peers in turn, and print the table and the targets.

    python bench/run.py                         everything: about ten minutes
    python bench/run.py --quick                 64 connections, 2 s each: a first look
    python bench/run.py --peers nginx,twisted_lb --connections 64 --repeat 5
    python bench/run.py --peers nginx,twisted_lb,twisted_lb@/path/to/another/venv

A peer twisted_lb@VENV (or twisted_lb@TWISTD, twisted_lb+redis@VENV) is the twisted_lb that is installed there.

Exit status 0 when every measurement was made, whatever it says; 1 when a peer could not be measured; 2 for bad options
or a machine that lacks something.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine, report
from bench.ground import Ground, start_ground
from bench.load import HEADER_SETS, Tls, prepare_requests, write_requests
from bench.measure import Cores, Measurement, check_answers, measure
from bench.measure_more import MoreMeasurement, measure_bodies, measure_idle
from bench.peers import DEFAULT_PEERS, PEERS, find_peer
from bench.peers.tokenlb import TokenlbPeer
from bench.stage import Stage, StageError, exit_on_signals


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, not {text}")
    return value


def connection_list(text: str) -> list[int]:
    """`4,64,512` as numbers."""
    return [positive(part) for part in text.split(",")]


PARTS = ("requests", "bodies", "idle")


def peer_list(text: str) -> list[str]:
    """`nginx,twisted_lb` as names, each checked."""
    names = text.split(",")
    for name in names:
        try:
            find_peer(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return names


def part_list(text: str) -> list[str]:
    """`requests,idle` as names, each checked."""
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"no part {name!r}; there are {', '.join(PARTS)}")
    return names


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked.  Bad ones end the program with status 2 and a line that says why."""
    parser = argparse.ArgumentParser(
        prog="bench/run.py",
        description="Measure twisted_lb beside its peers: CPU time per request and per GB, memory of idle connections.",
        epilog=f"Peers: {', '.join(PEERS)}; and twisted_lb@VENV, twisted_lb+redis@VENV and so on for twisted_lb as it "
        "is installed in another venv.  docs/performance.md says what the columns mean.",
    )
    parser.add_argument("--seconds", type=positive, default=5, help="length of a measurement (default 5)")
    parser.add_argument("--warm-up", type=positive, default=1, help="seconds of load before it (default 1)")
    parser.add_argument(
        "--connections", type=connection_list, default=[4, 64, 512], metavar="N,N", help="default 4,64,512"
    )
    parser.add_argument(
        "--peers", type=peer_list, metavar="NAME,NAME", help="default: those that are installed, without +limits"
    )
    parser.add_argument(
        "--twistd",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="also measure the twisted_lb of this twistd or venv, in each of the twisted_lb peers; may be repeated",
    )
    parser.add_argument("--parts", type=part_list, default=list(PARTS), help=f"default {','.join(PARTS)}")
    parser.add_argument("--repeat", type=positive, default=3, help="rounds over all peers (default 3)")
    parser.add_argument("--headers", choices=sorted(HEADER_SETS), default="client", help="what the clients send")
    parser.add_argument("--proxy-core", default="0", help="the core of the proxy (default 0)")
    parser.add_argument("--load-core", default="1", help="the core of the load, the servers and Redis (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to this file")
    parser.add_argument("--quick", action="store_true", help="2 s at 64 connections, one round; beats the others")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.connections, options.repeat, options.parts = 2, [64], 1, ["requests"]
    if options.peers is None:
        options.peers = [name for name in DEFAULT_PEERS if not PEERS[name].missing()]
        for name in DEFAULT_PEERS:
            if advice := PEERS[name].missing():
                print(f"bench: without {name}, which is not installed ({advice})")
    for path in options.twistd:
        ours = [name for name in options.peers if name.startswith("twisted_lb") and "@" not in name]
        options.peers += [f"{name}@{path}" for name in ours]
    options.twistd = [str(path) for path in options.twistd]
    return options


def measure_peer(
    name: str, ground: Ground, cores: Cores, options: argparse.Namespace, round_number: int
) -> list[Measurement]:
    """Start the peer, measure it at every number of connections, stop it.  Raises StageError when it fails."""
    peer = find_peer(name)
    measurements: list[Measurement] = []
    with Stage() as stage:
        started = peer.start(stage, ground, cores.proxy)
        check_answers(started)
        requests_file = stage.path / "requests"
        write_requests(requests_file, prepare_requests(started.keys, started.port, options.headers))
        for connections in options.connections:
            one = measure(
                name,
                started,
                ground,
                cores,
                requests_file,
                connections,
                options.seconds,
                options.warm_up,
                round_number,
                peer.uses_redis,
            )
            measurements.append(one)
            progress(f"round {round_number}  {name} at {connections}: {one.cpu_us_per_request:.1f} us CPU per request")
    return measurements


def measure_peer_more(
    name: str, ground: Ground, cores: Cores, options: argparse.Namespace, round_number: int
) -> list[MoreMeasurement]:
    """Start the peer, measure idle connections and large responses, stop it.  Raises StageError when it fails."""
    measurements: list[MoreMeasurement] = []
    with Stage() as stage:
        started = find_peer(name).start(stage, ground, cores.proxy)
        check_answers(started)
        # Idle connections are made without TLS.
        if "idle" in options.parts and started.tls is Tls.NONE:
            progress(f"round {round_number}  {name}: idle connections")
            measurements.append(measure_idle(name, started, round_number))
        if "bodies" in options.parts and started.tls is not Tls.NEW:
            progress(f"round {round_number}  {name}: large responses")
            measurements.append(measure_bodies(name, started, ground, cores, stage, options.seconds, round_number))
    return measurements


def progress(text: str) -> None:
    """Say what is being done, on a terminal in one line that is overwritten."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {text}", end="", file=sys.stderr, flush=True)
    else:
        print(f"  {text}", file=sys.stderr, flush=True)


@dataclass
class Results:
    """Every measurement that could be made, and why, for each peer that failed.  Such a peer is not tried again."""

    measurements: list[Measurement] = field(default_factory=list)
    more: list[MoreMeasurement] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def measure_all(options: argparse.Namespace, cores: Cores) -> Results:
    """Go round all peers as often as was asked for."""
    results = Results()
    with Stage() as stage:
        ground = start_ground(stage, cores.load)
        for round_number in range(1, options.repeat + 1):
            for name in options.peers:
                if name in results.failures:
                    continue
                try:
                    if advice := find_peer(name).missing():
                        raise StageError(f"not installed ({advice})")
                    if "requests" in options.parts:
                        results.measurements += measure_peer(name, ground, cores, options, round_number)
                    if {"bodies", "idle"} & set(options.parts):
                        results.more += measure_peer_more(name, ground, cores, options, round_number)
                except StageError as error:
                    results.failures[name] = str(error)
                    progress(f"{name} could not be measured: {error}")
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    return results


def builds(names: Sequence[str]) -> dict[str, str]:
    """Of each twisted_lb among the peers, how it is built, where it says so."""
    found: dict[str, str] = {}
    for name in names:
        peer = find_peer(name)
        if isinstance(peer, TokenlbPeer) and not peer.missing() and (build := peer.build()):
            found[name] = build
    return found


def print_report(
    rows: list[report.Row], more: list[report.MoreRow], failures: dict[str, str], said: dict[str, str]
) -> None:
    """The tables, what their marks mean, the targets and the failures."""
    for name, build in said.items():
        print(f"{name}: {build}")
    if rows:
        print(f"\n{report.table(rows)}")
    if more:
        print(f"\n{report.more_table(more)}")
    marks = "".join([row.marks for row in rows] + [row.marks for row in more])
    meanings = {
        "!": "errors: requests without an answer, or with a status of 400 or more; do not trust the row",
        "*": f"the proxy's core was idle for more than {report.IDLE_SHARE:.0%}: the load did not saturate it",
        "~": f"noisy: other programs took more than {report.NOISY_SHARE:.0%} of a core that was used",
    }
    print("\n" + "".join(f"{mark} {meaning}\n" for mark, meaning in meanings.items() if mark in marks), end="")
    if lines := report.targets(rows, more):
        print("Targets of a compiled build:")
        print("".join(f"  {line}\n" for line in lines), end="")
    for name, reason in failures.items():
        first, *rest = reason.splitlines()
        print(f"not measured: {name}: {first}{' ... ' if rest else ''}{rest[-1] if rest else ''}")


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and return the exit status."""
    options = parse_options(arguments)
    exit_on_signals()
    cores = Cores(options.proxy_core, options.load_core)
    try:
        machine.require_programs(machine.NEEDED)
        machine.require_cores(cores.proxy, cores.load)
        machine.raise_open_files()
        about = machine.describe()
        print(f"bench: {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}", flush=True)
        started_at = time.time()
        results = measure_all(options, cores)
    except (machine.MachineError, StageError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 130
    rows, more = report.summarise(results.measurements), report.summarise_more(results.more)
    said = builds(options.peers)
    print_report(rows, more, results.failures, said)
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        document = {
            "machine": about,
            "started_at": started_at,
            "settings": settings,
            "builds": said,
            "rows": [asdict(row) for row in rows] + [asdict(row) for row in more],
            "measurements": [one.as_dict() for one in results.measurements] + [asdict(one) for one in results.more],
            "failures": results.failures,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
