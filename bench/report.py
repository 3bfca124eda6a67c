"""From measurements to the table and the targets; pure.

Repeated rounds are summed up by the median.  A ratio is taken within a round, between neighbours in time, before the
median: that takes out most of what changes on a machine from minute to minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.measure import Measurement
from bench.measure_more import MoreMeasurement

YARDSTICK = "nginx"
LUA = "nginx+lua"

# Above this share of a core taken by programs outside the benchmark, a measurement is called noisy.
NOISY_SHARE = 0.05

# A proxy whose core is idle for more than this share was not loaded to its limit: it sleeps and wakes, which costs it.
IDLE_SHARE = 0.05


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
    cpu_us_with_redis: float
    lua_ratio: float | None  # of cpu_us_with_redis, to nginx + Lua in the same round; None without nginx + Lua or Redis
    idle: float
    others: float
    script_calls_per_request: float | None
    errors: int  # of all rounds together

    @property
    def marks(self) -> str:
        """`!` for a row with errors, `*` for a core with idle time, `~` for a noisy one."""
        marks = "!" if self.errors else ""
        return marks + ("*" if self.idle > IDLE_SHARE else "") + ("~" if self.others > NOISY_SHARE else "")


@dataclass(frozen=True)
class MoreRow:
    """Large responses and idle connections of one peer, over all rounds.  None: not measured."""

    peer: str
    cpu_seconds_per_gb: float | None
    cpu_ratio: float | None  # to nginx in the same round
    gb_per_second: float | None
    others: float | None
    kib_per_idle_connection: float | None

    @property
    def marks(self) -> str:
        """`~` for a noisy row."""
        return "~" if (self.others or 0.0) > NOISY_SHARE else ""


def summarise(measurements: Sequence[Measurement]) -> list[Row]:
    """One row for each peer and number of connections, in the order in which they first came."""
    groups: dict[tuple[int, str], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.connections, one.peer), []).append(one)
    return [
        _row(group, groups.get((connections, yardstick_of(peer)), []), groups.get((connections, LUA), []))
        for (connections, peer), group in groups.items()
    ]


def yardstick_of(peer: str) -> str:
    """The nginx that does the same as the peer: with TLS, or with a handshake for each request."""
    kind = peer.partition("@")[0]
    return YARDSTICK + next((kind[-len(end) :] for end in ("+tls", "+handshakes") if kind.endswith(end)), "")


def _row(group: list[Measurement], yardstick: list[Measurement], lua: list[Measurement]) -> Row:
    uses_redis = group[0].script_calls_per_request is not None
    return Row(
        peer=group[0].peer,
        connections=group[0].connections,
        requests_per_second=median(one.requests_per_second for one in group),
        p50_ms=median(one.p50_ms for one in group),
        p99_ms=median(one.p99_ms for one in group),
        cpu_us_per_request=median(one.cpu_us_per_request for one in group),
        cpu_ratio=ratio(group, yardstick, lambda one: one.cpu_us_per_request),
        cpu_us_with_redis=median(one.cpu_us_with_redis for one in group),
        lua_ratio=ratio(group, lua, lambda one: one.cpu_us_with_redis) if uses_redis else None,
        idle=median(one.idle for one in group),
        others=median(one.others for one in group),
        script_calls_per_request=_median(one.script_calls_per_request for one in group),
        errors=sum(one.errors for one in group),
    )


def summarise_more(measurements: Sequence[MoreMeasurement]) -> list[MoreRow]:
    """One row for each peer, in the order in which they first came."""
    groups: dict[str, list[MoreMeasurement]] = {}
    for one in measurements:
        groups.setdefault(one.peer, []).append(one)
    bases = {
        (peer, one.round): one.cpu_seconds_per_gb
        for peer in groups
        for one in groups.get(yardstick_of(peer), [])
        if one.cpu_seconds_per_gb
    }
    return [
        MoreRow(
            peer=peer,
            cpu_seconds_per_gb=_median(one.cpu_seconds_per_gb for one in group),
            cpu_ratio=_median(
                one.cpu_seconds_per_gb / bases[peer, one.round]
                for one in group
                if one.cpu_seconds_per_gb is not None and (peer, one.round) in bases
            ),
            gb_per_second=_median(one.gb_per_second for one in group),
            others=_median(one.others for one in group),
            kib_per_idle_connection=_median(one.kib_per_idle_connection for one in group),
        )
        for peer, group in groups.items()
    ]


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
    ("CPU us/req", lambda row: f"{row.cpu_us_per_request:.1f}"),
    ("x nginx", lambda row: _optional(row.cpu_ratio, "{:.2f}")),
    ("with Redis", lambda row: f"{row.cpu_us_with_redis:.1f}"),
    ("x nginx+lua", lambda row: _optional(row.lua_ratio, "{:.2f}")),
    ("scripts/req", lambda row: _optional(row.script_calls_per_request, "{:.3f}")),
    ("req/s", lambda row: f"{row.requests_per_second:,.0f}"),
    ("p99 ms", lambda row: f"{row.p99_ms:.2f}"),
    ("idle", lambda row: f"{row.idle:.0%}"),
    ("others", lambda row: f"{row.others:.0%}"),
    ("errors", lambda row: f"{row.errors}{' ' if row.marks else ''}{row.marks}"),
)

MORE_COLUMNS: tuple[tuple[str, Callable[[MoreRow], str]], ...] = (
    ("", lambda row: ""),
    ("peer", lambda row: row.peer),
    ("CPU s/GB", lambda row: _optional(row.cpu_seconds_per_gb, "{:.3f}")),
    ("x nginx", lambda row: _optional(row.cpu_ratio, "{:.2f}")),
    ("GB/s", lambda row: _optional(row.gb_per_second, "{:.2f}")),
    ("KiB/idle connection", lambda row: _optional(row.kib_per_idle_connection, "{:.2f}")),
    ("others", lambda row: f"{_optional(row.others, '{:.0%}')}{' ' if row.marks else ''}{row.marks}"),
)


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, a blank line between the numbers of connections."""
    rows = sorted(rows, key=lambda row: row.connections)  # stable: the peers stay in their order
    lines = _aligned([title for title, _ in COLUMNS], [[write(row) for _, write in COLUMNS] for row in rows])
    text = lines[0]
    connections = -1
    for row, line in zip(rows, lines[1:], strict=True):
        text += ("\n" if row.connections == connections else "\n\n") + line
        connections = row.connections
    return text


def more_table(rows: Sequence[MoreRow]) -> str:
    """Large responses and idle connections as aligned text."""
    titles = [title for title, _ in MORE_COLUMNS]
    return "\n".join(_aligned(titles, [[write(row) for _, write in MORE_COLUMNS] for row in rows]))


def _aligned(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of columns.  The second is flush left; the others are figures, which are easier to compare flush right."""
    cells = [titles, *rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(titles))]
    lines: list[str] = []
    for line in cells:
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        padded[1] = line[1].ljust(widths[1])
        lines.append("  ".join(padded).rstrip())
    return lines


# What a compiled twisted_lb should reach: the peer without its venv, the number of connections, the limit.
CPU_TARGETS = {
    ("twisted_lb", 4): 2.6,
    ("twisted_lb", 64): 2.4,
    ("twisted_lb", 512): 2.4,
    ("twisted_lb+redis", 64): 2.7,
    ("twisted_lb+tls", 64): 2.4,
}
WITH_REDIS_TARGET = 1.1  # proxy and Redis together, over nginx + Lua and Redis, at 64 connections
SCRIPTS_TARGET = 0.1  # script calls per request, at 64 connections
LIMITS_TARGET = 1.1  # CPU with every limit over that without, at 64 connections
BODY_TARGET = 0.45  # CPU s per GB
IDLE_TARGET = 1.5  # KiB


def targets(rows: Sequence[Row], more: Sequence[MoreRow]) -> list[str]:
    """Every target whose figure was measured, with its verdict, one a line."""
    lines: list[str] = []

    def judge(peer: str, text: str, value: float | None, limit: float, marks: str = "") -> None:
        if value is not None:
            verdict = "met" if value <= limit else "missed"
            lines.append(f"{verdict:<6}  {peer}: {text} {value:.2f}, at most {limit}{' ' if marks else ''}{marks}")

    known = {(row.peer, row.connections): row for row in rows}
    for row in sorted(rows, key=lambda row: row.connections):
        kind, at, path = row.peer.partition("@")
        name = f"{row.peer} at {row.connections}"
        if limit := CPU_TARGETS.get((kind, row.connections)):
            judge(name, "CPU x nginx", row.cpu_ratio, limit, row.marks)
        if row.connections != 64:
            continue
        if kind == "twisted_lb+redis":
            judge(name, "CPU with Redis x nginx+lua", row.lua_ratio, WITH_REDIS_TARGET, row.marks)
            judge(name, "script calls per request", row.script_calls_per_request, SCRIPTS_TARGET, row.marks)
        plain = known.get((f"{kind.removesuffix('+limits')}{at}{path}", row.connections))
        if plain and kind.endswith("+limits"):
            value = row.cpu_us_per_request / plain.cpu_us_per_request
            judge(name, f"CPU x {plain.peer}", value, LIMITS_TARGET, row.marks + plain.marks)
    for one in more:
        if one.peer.startswith("twisted_lb") and yardstick_of(one.peer) == YARDSTICK:
            judge(one.peer, "CPU s per GB", one.cpu_seconds_per_gb, BODY_TARGET, one.marks)
            judge(one.peer, "KiB per idle connection", one.kib_per_idle_connection, IDLE_TARGET)
    return lines
