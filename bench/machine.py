"""What the benchmark asks of the machine: tools, cores, ports, file descriptors and CPU clocks.  Linux only (/proc).

CPU time comes from /proc/<pid>/stat, user and system together, summed over a process and all its descendants, so that
the worker of an nginx counts and a thread is never forgotten.  The kernel reports ticks (usually 10 ms), but scales
them from an exact clock, so over seconds of load the rounding is far below one per cent.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# Debian's name of the package that brings each program.
PACKAGES = {"cc": "gcc", "nginx": "nginx", "redis-server": "redis-server", "taskset": "util-linux"}
NEEDED = tuple(PACKAGES)

# Below the range from which Linux takes the ports of outgoing connections (32768 on): none of ours meets one of those.
PORT_RANGE = range(20_000, 32_000)

WANTED_OPEN_FILES = 65_536


class MachineError(Exception):
    """The machine lacks something that the benchmark needs; the message says what, and how to get it."""


def require_programs(names: Iterable[str]) -> None:
    """Make sure that the programs are there; install the missing ones with apt-get when that is allowed.

    Raises MachineError with the line to type when it is not allowed, or when the installation did not bring them.
    """
    missing = [name for name in names if shutil.which(name) is None]
    if not missing:
        return
    packages = [PACKAGES[name] for name in missing]
    packages += ["libc6-dev"] if "gcc" in packages else []
    advice = f"missing: {', '.join(missing)}; install with: apt-get install {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MachineError(advice)
    print(f"bench: installing {' '.join(packages)}", flush=True)
    # RUNLEVEL=1 keeps the packages from starting a server of their own on port 80 or 6379.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(command, env=env, check=False, stdout=subprocess.DEVNULL, timeout=300)
    if any(shutil.which(name) is None for name in missing):
        raise MachineError(advice)


def require_cores(*cores: str) -> None:
    """Check that each argument is a core list (`0`, `1-3`, `1,3`) of which this process may use every core.

    Raises MachineError otherwise, and when two of the lists share a core.
    """
    usable = os.sched_getaffinity(0)
    seen: set[int] = set()
    for text in cores:
        wanted = parse_cores(text)
        if not wanted <= usable:
            raise MachineError(f"core list {text!r}: only cores {sorted(usable)} may be used here")
        if wanted & seen:
            raise MachineError(f"core list {text!r}: the proxy and the load need cores of their own")
        seen |= wanted


def parse_cores(text: str) -> set[int]:
    """`1`, `1-3` or `0,2-3` as a set of core numbers; raises MachineError for anything else."""
    cores: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores |= set(range(int(first), int(last or first) + 1))
    except ValueError:
        raise MachineError(f"core list {text!r}: expected numbers and ranges such as 0 or 1-3") from None
    return cores


def raise_open_files() -> None:
    """Lift the soft limit on open files; 512 connections need more than the usual 1024.  Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(WANTED_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on at this moment."""
    for _ in range(1000):
        port = random.choice(PORT_RANGE)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise MachineError(f"no free port between {PORT_RANGE.start} and {PORT_RANGE.stop}")


def process_tree(root: int) -> list[int]:
    """The process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree.extend(children.get(pid, []))
    return tree


def cpu_seconds(root: int) -> float:
    """User and system time, in seconds, that the process and its living descendants have used so far."""
    return cpu_seconds_of(process_tree(root))


def cpu_seconds_of(pids: Iterable[int]) -> float:
    """The same for a list of processes, which is quicker than to find the descendants."""
    ticks = 0
    for pid in pids:
        if fields := _stat_fields(pid):
            ticks += int(fields[11]) + int(fields[12])  # utime and stime, fields 14 and 15 of proc(5)
    return ticks / TICKS_PER_SECOND


def resident_bytes(root: int) -> int:
    """Resident memory (VmRSS) of the process and its living descendants."""
    return sum(
        int(line.split()[1]) * 1024
        for pid in process_tree(root)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )


def _stat_fields(pid: int) -> list[str]:
    """Fields 3 (state) and on of /proc/<pid>/stat; empty when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    # The program's name may hold spaces and parentheses; what follows the last parenthesis is regular.
    return text.rpartition(")")[2].split()


def cores_busy_seconds(cores: str) -> float:
    """Seconds that the cores have spent since boot on anything but idling, waiting for a disk and interrupts."""
    return sum(user + nice + system + steal for user, nice, system, _, _, _, _, steal in _core_ticks(cores)) / (
        TICKS_PER_SECOND
    )


def cores_idle_seconds(cores: str) -> float:
    """Seconds that the cores have spent since boot with nothing to run, a disk's work included."""
    return sum(idle + disk for _, _, _, idle, disk, *_ in _core_ticks(cores)) / TICKS_PER_SECOND


def _core_ticks(cores: str) -> Iterator[list[int]]:
    """Of each core in the list: user, nice, system, idle, iowait, irq, softirq and steal, see proc_stat(5)."""
    wanted = parse_cores(cores)
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in wanted:
            yield [int(value) for value in values[:8]]


def describe() -> dict[str, str]:
    """What a reader needs to know of this machine before comparing figures with another's."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": models[0] if models else "unknown", "cores": str(os.cpu_count()), "kernel": os.uname().release}
