"""From measurements to the table and the targets; pure.

Repeated rounds are summed up by the median.  A ratio is taken within a round, between neighbours in time, before the
median: that takes out most of what changes on a machine from minute to minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.measure import Measurement

YARDSTICK = "nginx"

# Above this share of a core taken by programs outside the benchmark, a measurement is called noisy.
NOISY_SHARE = 0.05

# The number of connections that the targets speak of.
TARGET_CONNECTIONS = 64


@dataclass(frozen=True)
class Row:
    """One peer at one number of connections, over all rounds."""

    peer: str
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float
    cpu_ratio: float | None  # to nginx in the same round; None without nginx
    rate_ratio: float | None
    busy: float
    others: float
    script_calls_per_request: float | None
    redis_us_per_request: float | None
    errors: int  # of all rounds together

    @property
    def marks(self) -> str:
        """`!` for a row with errors, `~` for a noisy one."""
        return ("!" if self.errors else "") + ("~" if self.others > NOISY_SHARE else "")


def summarise(measurements: Sequence[Measurement]) -> list[Row]:
    """One row for each peer and number of connections, in the order in which they first came."""
    groups: dict[tuple[int, str], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.connections, one.peer), []).append(one)
    return [_row(group, groups.get((connections, YARDSTICK), [])) for (connections, _), group in groups.items()]


def _row(group: list[Measurement], yardstick: list[Measurement]) -> Row:
    return Row(
        peer=group[0].peer,
        connections=group[0].connections,
        requests_per_second=median(one.requests_per_second for one in group),
        p50_ms=median(one.p50_ms for one in group),
        p99_ms=median(one.p99_ms for one in group),
        cpu_us_per_request=median(one.cpu_us_per_request for one in group),
        cpu_ratio=ratio(group, yardstick, lambda one: one.cpu_us_per_request),
        rate_ratio=ratio(group, yardstick, lambda one: one.requests_per_second),
        busy=median(one.busy for one in group),
        others=median(one.others for one in group),
        script_calls_per_request=_median(one.script_calls_per_request for one in group),
        redis_us_per_request=_median(one.redis_us_per_request for one in group),
        errors=sum(one.errors for one in group),
    )


def ratio(
    group: Iterable[Measurement], base: Iterable[Measurement], figure: Callable[[Measurement], float]
) -> float | None:
    """The median over the rounds of figure(group) / figure(base); None when no round has both."""
    bases = {one.round: figure(one) for one in base}
    return _median(figure(one) / bases[one.round] for one in group if bases.get(one.round))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("conns", lambda row: str(row.connections)),
    ("peer", lambda row: row.peer),
    ("req/s", lambda row: f"{row.requests_per_second:,.0f}"),
    ("p50 ms", lambda row: f"{row.p50_ms:.2f}"),
    ("p99 ms", lambda row: f"{row.p99_ms:.2f}"),
    ("CPU us/req", lambda row: f"{row.cpu_us_per_request:.1f}"),
    ("CPU x nginx", lambda row: _optional(row.cpu_ratio, "{:.2f}")),
    ("req/s x nginx", lambda row: _optional(row.rate_ratio, "{:.2f}")),
    ("scripts/req", lambda row: _optional(row.script_calls_per_request, "{:.3f}")),
    ("Redis us/req", lambda row: _optional(row.redis_us_per_request, "{:.1f}")),
    ("busy", lambda row: f"{row.busy:.0%}"),
    ("others", lambda row: f"{row.others:.0%}"),
    ("errors", lambda row: f"{row.errors}{' ' if row.marks else ''}{row.marks}"),
)


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, a blank line between the numbers of connections."""
    rows = sorted(rows, key=lambda row: row.connections)  # stable: the peers stay in their order
    cells = [[title for title, _ in COLUMNS], *([write(row) for _, write in COLUMNS] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(COLUMNS))]
    lines: list[str] = []
    connections = -1
    for number, line in enumerate(cells):
        if number and rows[number - 1].connections != connections:
            connections = rows[number - 1].connections
            lines.append("")
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        padded[1] = line[1].ljust(widths[1])  # the only text; figures are easier to compare flush right
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


@dataclass(frozen=True)
class Target:
    """A figure that a row at TARGET_CONNECTIONS should reach."""

    text: str
    limit: float
    at_most: bool  # otherwise: at least
    figure: Callable[[dict[str, Row]], float | None]
    peers: tuple[str, ...]  # whose rows the figure is made of

    def line(self, rows: dict[str, Row]) -> str:
        """`met`, `missed` or why it was not judged, and the figure."""
        if missing := [peer for peer in self.peers if peer not in rows]:
            return f"not measured  {self.text}: needs {', '.join(missing)} at {TARGET_CONNECTIONS} connections"
        value = self.figure(rows)
        if value is None:
            return f"not measured  {self.text}"
        met = value <= self.limit if self.at_most else value >= self.limit
        marks = "".join(dict.fromkeys("".join(rows[peer].marks for peer in self.peers)))
        return f"{'met' if met else 'missed':<12}  {self.text}: {value:.2f}{' ' if marks else ''}{marks}"


def _times_less_cpu(peer: str) -> Callable[[dict[str, Row]], float | None]:
    return lambda rows: rows["twisted.web.proxy"].cpu_us_per_request / rows[peer].cpu_us_per_request


def _more_cpu(peer: str) -> Callable[[dict[str, Row]], float | None]:
    return lambda rows: rows[f"{peer}+limits"].cpu_us_per_request / rows[peer].cpu_us_per_request


TARGETS = (
    Target(
        "twisted_lb, CPU per request over nginx's, at most 3.0",
        3.0,
        True,
        lambda rows: rows["twisted_lb"].cpu_ratio,
        ("twisted_lb", YARDSTICK),
    ),
    Target(
        "twisted_lb+redis, CPU per request over nginx's, at most 3.6",
        3.6,
        True,
        lambda rows: rows["twisted_lb+redis"].cpu_ratio,
        ("twisted_lb+redis", YARDSTICK),
    ),
    Target(
        "twisted_lb+redis, script calls per request, at most 0.1",
        0.1,
        True,
        lambda rows: rows["twisted_lb+redis"].script_calls_per_request,
        ("twisted_lb+redis",),
    ),
    *(
        Target(
            f"{peer}+limits, CPU per request over {peer}'s, at most 1.1",
            1.1,
            True,
            _more_cpu(peer),
            (f"{peer}+limits", peer),
        )
        for peer in ("twisted_lb", "twisted_lb+redis")
    ),
    *(
        Target(
            f"{peer}, times less CPU than twisted.web.proxy, at least 7",
            7.0,
            False,
            _times_less_cpu(peer),
            (peer, "twisted.web.proxy"),
        )
        for peer in ("twisted_lb", "twisted_lb+redis")
    ),
)


def targets(rows: Sequence[Row]) -> str:
    """Every target with its verdict, one a line."""
    known = {row.peer: row for row in rows if row.connections == TARGET_CONNECTIONS}
    return "\n".join(f"  {target.line(known)}" for target in TARGETS)
