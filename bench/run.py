"""`make bench`: measure twisted_lb and its peers in turn, and print the table and the targets.

    python bench/run.py                         everything: about six minutes
    python bench/run.py --quick                 64 connections, 2 s each: a first look
    python bench/run.py --peers nginx,twisted_lb --connections 64 --repeat 5

Exit status 0 when every measurement was made, whatever it says; 1 when a peer could not be measured; 2 for bad options
or a machine that lacks something.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine, report
from bench.ground import Ground, start_ground
from bench.load import HEADER_SETS, prepare_requests, write_requests
from bench.measure import Cores, Measurement, check_answers, measure
from bench.peers import PEERS
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


def peer_list(text: str) -> list[str]:
    """`nginx,twisted_lb` as names, each checked."""
    names = text.split(",")
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"no peer {name!r}; there are {', '.join(PEERS)}")
    return names


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked.  Bad ones end the program with status 2 and a line that says why."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Measure twisted_lb beside its peers.")
    parser.add_argument("--seconds", type=positive, default=5, help="length of a measurement (default 5)")
    parser.add_argument("--warm-up", type=positive, default=1, help="seconds of load before it (default 1)")
    parser.add_argument(
        "--connections", type=connection_list, default=[4, 64, 512], metavar="N,N", help="default 4,64,512"
    )
    parser.add_argument(
        "--peers", type=peer_list, default=list(PEERS), metavar="NAME,NAME", help=f"default {','.join(PEERS)}"
    )
    parser.add_argument("--repeat", type=positive, default=3, help="rounds over all peers (default 3)")
    parser.add_argument("--headers", choices=sorted(HEADER_SETS), default="client", help="what the clients send")
    parser.add_argument("--proxy-core", default="0", help="the core of the proxy (default 0)")
    parser.add_argument("--load-core", default="1", help="the core of wrk, the servers and Redis (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to this file")
    parser.add_argument("--quick", action="store_true", help="2 s at 64 connections, one round; beats the others")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.connections, options.repeat = 2, [64], 1
    return options


def measure_peer(
    name: str, ground: Ground, cores: Cores, options: argparse.Namespace, round_number: int
) -> list[Measurement]:
    """Start the peer, measure it at every number of connections, stop it.  Raises StageError when it fails."""
    peer = PEERS[name]
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
            print(
                f"  round {round_number}  {name} at {connections}: {one.requests_per_second:,.0f} requests/s, "
                f"{one.cpu_us_per_request:.1f} us CPU per request, {one.errors} errors",
                flush=True,
            )
    return measurements


def measure_all(options: argparse.Namespace, cores: Cores) -> tuple[list[Measurement], dict[str, str]]:
    """Every measurement that could be made, and why, for each peer that failed.  Such a peer is not tried again."""
    measurements: list[Measurement] = []
    failures: dict[str, str] = {}
    with Stage() as stage:
        ground = start_ground(stage, cores.load)
        for round_number in range(1, options.repeat + 1):
            for name in options.peers:
                if name in failures:
                    continue
                try:
                    measurements += measure_peer(name, ground, cores, options, round_number)
                except StageError as error:
                    failures[name] = str(error)
                    print(f"  {name} could not be measured: {error}", flush=True)
    return measurements, failures


def print_report(rows: list[report.Row], failures: dict[str, str]) -> None:
    """The table, what its marks mean, the targets and the failures."""
    print(f"\n{report.table(rows)}\n")
    if any("!" in row.marks for row in rows):
        print("! errors: some requests were not answered, or with a status of 400 or more; don't trust the row")
    if any("~" in row.marks for row in rows):
        print(f"~ noisy: other programs took more than {report.NOISY_SHARE:.0%} of a core that was used; run it again")
    print(f"Targets at {report.TARGET_CONNECTIONS} connections:\n{report.targets(rows)}")
    for name, reason in failures.items():
        print(f"not measured: {name}: {reason.splitlines()[0]}")


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and return the exit status."""
    options = parse_options(arguments)
    exit_on_signals()
    cores = Cores(options.proxy_core, options.load_core)
    try:
        machine.require_programs(("wrk", "nginx", "redis-server", "taskset"))
        machine.require_cores(cores.proxy, cores.load)
        machine.raise_open_files()
        about = machine.describe()
        print(f"bench: {about['cpu']}, {about['cores']} cores, Linux {about['kernel']}", flush=True)
        started_at = time.time()
        measurements, failures = measure_all(options, cores)
    except (machine.MachineError, StageError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: stopped", file=sys.stderr)
        return 130
    rows = report.summarise(measurements)
    print_report(rows, failures)
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        document = {
            "machine": about,
            "started_at": started_at,
            "settings": settings,
            "rows": [asdict(row) for row in rows],
            "measurements": [one.as_dict() for one in measurements],
            "failures": failures,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
