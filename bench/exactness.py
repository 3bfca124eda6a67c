"""Whether buckets are exact when several balancers share them: a table, and exit status 1 where they are not.

    python bench/exactness.py              about a minute
    python bench/exactness.py --quick      shorter loads: what the tests run

Four balancers with right clocks and one whose system clock is a minute ahead share one Redis (a password, a database of
its own, append-only file on).  200 keep-alive connections ask without a pause, every second request with the same key,
the rest with 50 others.  First the load is measured; then each key gets a bucket that refills RATE_SHARE of what is
asked of it, so that most is admitted and all is limited.  When the load turns out smaller later, because the machine
did something else, that is done again.  So it is when less is admitted than was due: on a busy machine Redis may miss
the deadline of 100 ms, two thirds of it for the fast clock, and balancers then admit from shares, which is less.

    load        SCRIPT FLUSH after one third; after two thirds the policy of the first key is changed by the balancer
                whose clock is ahead
    fast clock  one more balancer, whose clocks run half as fast again; only while Redis is there, because without it
                a balancer has no other clock than its own
    idle        a drained bucket idles, and is asked through another balancer each time
    restart     Redis is ended in order under load, and started again
    kill -9     the same, killed
    pause       Redis stands still (SIGSTOP) under load, and goes on

    first, law          of the first key: requests admitted, and capacity + rate * t, where t is from before the first
                        request until after the last answer
    first %, others %   admitted of capacity + rate * t, where t ends with the last request: the first key, and the
                        worst of the others that kept asking
    window              the fullest window of any length, over all keys: what it held beyond rate * its length, in
                        capacities; the law allows 1
    scripts             script calls that Redis counted for each admitted request
    failed              answers that were neither 200 nor 429

While Redis is away the balancers admit from shares (ON_STORE_ERROR=local).  A share comes from what a balancer saw last
of a bucket, and others may have taken from it since; and it is a whole token at least.  So `restart`, `kill -9` and
`pause` are held to the law and one token for each balancer, in all windows, and all keys together to OUTAGE_FULFILLED
of what was due, less one token for each key and balancer: a share may hold a part of a token that nobody can take.

Everything runs on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import floor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.bucket_law import FULFILLED, KEEPS_ASKING, PART_OF_A_TOKEN, Asking, Bucket, fullest_window, owed, span
from bench.hammer import Hammer, Seen, Startup
from bench.shared_buckets import CLIENT_CORE, SharedBuckets, change
from bench.stage import exit_on_signals
from tests.integration.processes import ask_on, wrong_clock

CONNECTIONS = 200
OTHERS = 50
WEIGHTS = (OTHERS, *[1] * OTHERS)
EXACT = 4  # balancers with right clocks

LOAD_SECONDS = 15.0
QUICK_SECONDS = 2.4
CALIBRATION_SECONDS = 0.8
RATE_SHARE = 0.7
ATTEMPT_SHARE = 0.85  # of that, at each further attempt
ATTEMPTS = 6  # at a load that is large enough, on a machine that does other things too
CAPACITY_SECONDS = 0.5  # of refilling
AWAY_SECONDS = 0.6
OUTAGE_FULFILLED = 0.97  # of the law, through an outage
IDLE_SECONDS = (0.2, 0.8, 0.1, 1.1, 0.4)  # the first ones for a quick look
IDLE_BUCKET = Bucket(25, 37.7)
MOST_SCRIPTS = 0.1  # for an admitted request
MOST_SCRIPTS_QUICK = 0.5  # with less load, and on a machine that does other things; without batches it is 1
MICROTOKENS = 1_000_000


@dataclass(frozen=True)
class Change:
    """The policy of the first key becomes another one, at an instant between two times."""

    bucket: Bucket
    sent: float
    answered: float


@dataclass
class Row:
    """What one load has shown."""

    name: str
    outages: int = 0
    seconds: float = 0.0
    requests: int = 0
    admitted: int = 0  # all keys together
    failures: Counter[int] = field(default_factory=Counter)  # how often each status was there but 200 and 429
    first_admitted: int = 0
    first_law: float = 0.0
    first_share: float = 0.0
    others_share: float = 1.0
    kept_asking: int = 0  # keys
    served: int = 0  # of these keys together: admitted
    due: float = 0.0  # and what was due
    first_kept_asking: bool = False
    window: float = 0.0
    scripts: float = 0.0
    problems: list[str] = field(default_factory=list)
    # Less than was due, or more work than it should be: also what a machine that does other things makes of it.
    shortfalls: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many answers were neither 200 nor 429."""
        return self.failures.total()

    @property
    def cells(self) -> list[str]:
        """The row as it is printed."""
        law = [f"{self.first_admitted}", f"{self.first_law:.1f}", f"{100 * self.first_share:.2f}"]
        scripts = "-" if self.outages else f"{self.scripts:.4f}"
        shares = [f"{100 * self.others_share:.2f}", f"{self.window:.3f}", scripts, f"{self.failed}"]
        return [self.name, f"{self.seconds:.1f}", f"{self.requests}", f"{self.admitted}", *law, *shares]


HEAD = ["", "seconds", "requests", "admitted", "first", "law", "first %", "others %", "window", "scripts", "failed"]


class Trial:
    """The balancers, the keys and their buckets."""

    def __init__(self, shared: SharedBuckets, seconds: float, most_scripts: float) -> None:
        """`seconds` is the length of a load.  The last balancer is the one whose clock is ahead."""
        self._most_scripts = most_scripts
        self._shared = shared
        self._seconds = seconds
        self._ahead = shared.balancers[-1]
        self._buckets: list[Bucket] = []
        self._keys: list[str] = []
        self._users = 0

    def load(self) -> Row:
        """The load without an outage."""
        problems: list[str] = []
        for attempt in range(ATTEMPTS):
            row = self._load(attempt)
            problems += row.problems
            if self._was_limited(row) and not row.shortfalls:
                break
        if not self._was_limited(row):
            problems.append(f"{row.kept_asking} of {len(self._keys)} keys kept asking: the load is too small here")
        row.problems = problems + row.shortfalls
        return row

    def _load(self, attempt: int) -> Row:
        self._calibrate(attempt)
        row = Row("load")
        first = self._buckets[0]
        other = Bucket(first.capacity // 2, round(first.rate * 0.9, 1))
        calls = self._shared.script_calls()
        with self._hammer(self._keys, self._seconds) as hammer:
            hammer.sleep_until(self._seconds / 3)
            self._shared.redis.command("SCRIPT", "FLUSH")
            hammer.sleep_until(self._seconds * 2 / 3)
            sent = time.monotonic()
            change(self._ahead, self._keys[0], other)
            changed = Change(other, sent, time.monotonic())
            seen = hammer.finish()
        calls = self._shared.script_calls() - calls
        self._judge(row, seen, changed)
        self._judge_change(row, seen, changed)
        self._judge_calm(row)
        self._buckets[0] = other
        row.scripts = calls / max(row.admitted, 1)
        if row.scripts > self._most_scripts:
            row.shortfalls.append(f"{row.scripts:.3f} script calls for an admitted request")
        return row

    def fast_clock(self) -> Row:
        """The load with one more balancer, whose clocks run too fast."""
        problems: list[str] = []
        for attempt in range(ATTEMPTS):
            if attempt:
                self._calibrate(attempt)
            row = self._fast_clock()
            problems += row.problems
            if not row.shortfalls:
                break
        row.problems = problems + row.shortfalls
        return row

    def _fast_clock(self) -> Row:
        row = Row("fast clock")
        joined = self._shared.join(wrong_clock("+0s x1.5", monotonic=True))
        calls = self._shared.script_calls()
        with self._hammer(self._keys, self._seconds / 2) as hammer:
            seen = hammer.finish()
        calls = self._shared.script_calls() - calls
        self._judge(row, seen)
        self._judge_calm(row)
        row.scripts = calls / max(row.admitted, 1)
        self._shared.leave(joined)
        return row

    def outage(self, name: str, end: Callable[[], None], begin: Callable[[], None]) -> Row:
        """The load while Redis ends in this way and comes back in that."""
        problems: list[str] = []
        for attempt in range(ATTEMPTS):
            row = self._outage(name, end, begin)
            problems += row.problems
            if row.admitted < row.requests and not row.shortfalls:
                break
            self._calibrate(attempt + 1)
        if row.admitted == row.requests:
            problems.append("nothing was refused: the load is too small here")
        row.problems = problems + row.shortfalls
        return row

    def _outage(self, name: str, end: Callable[[], None], begin: Callable[[], None]) -> Row:
        row = Row(name, outages=1)
        self._shared.wait_until_known()
        self._use_everywhere()
        # All buckets are full.
        time.sleep(2 * CAPACITY_SECONDS)
        with self._hammer(self._keys, self._seconds) as hammer:
            hammer.sleep_until(self._seconds / 3)
            end()
            time.sleep(AWAY_SECONDS)
            begin()
            seen = hammer.finish()
        self._judge(row, seen)
        if row.served < OUTAGE_FULFILLED * row.due:
            due = OUTAGE_FULFILLED * row.due
            row.shortfalls.append(f"{row.served} admitted, and 97 % of what was due is {due:.1f}")
        return row

    def idle(self, times: Sequence[float]) -> list[str]:
        """What was not exact about a drained bucket that idled so long; one key alone, each balancer in turn."""
        problems = []
        key = self._shared.create("idle", IDLE_BUCKET)
        ports = self._shared.ports
        self._drain(ports[-1], key)
        for number, seconds in enumerate(times):
            before = self._shared.stored(key)
            drained = time.monotonic()
            time.sleep(seconds)
            connection = http.client.HTTPConnection("127.0.0.1", ports[number % len(ports)], timeout=60)
            asked = time.monotonic()
            assert ask_on(connection, "GET", "/", key=key).status == 200, "a bucket that idled admits nothing"
            after = self._shared.stored(key)
            refilled = min(
                before.level + floor((after.stamp - before.stamp) * IDLE_BUCKET.rate),
                IDLE_BUCKET.capacity * MICROTOKENS,
            )
            if after.level != refilled - MICROTOKENS:
                problems.append(f"idle: {before} became {after}, not a level of {refilled - MICROTOKENS}")
            # The same by what a client sees: all that is left, and what is refilled while it asks.
            admitted = 1 + self._drain(ports[number % len(ports)], key, connection)
            least = min(floor((asked - drained) * IDLE_BUCKET.rate), IDLE_BUCKET.capacity)
            most = min((asked - drained) * IDLE_BUCKET.rate + 1, IDLE_BUCKET.capacity) + IDLE_BUCKET.rate * (
                time.monotonic() - asked + 0.05
            )
            if not least <= admitted <= most:
                problems.append(f"idle: {admitted} admitted after {seconds} s, not {least} to {most:.2f}")
        return problems

    def _use_everywhere(self) -> None:
        """Each balancer sees each key: without Redis it serves those alone, and a small load may not have had them."""
        for port in self._shared.ports:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            for key in self._keys:
                assert ask_on(connection, "GET", "/", key=key).status in (200, 429)
            connection.close()

    def _calibrate(self, attempt: int) -> None:
        """Measure what is asked when nothing is limited, and give new users a part of it; less at each attempt."""
        keys = self._create([Bucket(1_000_000, 1_000_000.0)] * len(WEIGHTS))
        with self._hammer(keys, CALIBRATION_SECONDS) as hammer:
            offered = len(hammer.finish()) / CALIBRATION_SECONDS
        share = RATE_SHARE * ATTEMPT_SHARE**attempt
        rates = [round(share * offered * weight / sum(WEIGHTS), 1) for weight in WEIGHTS]
        self._buckets = [Bucket(max(int(CAPACITY_SECONDS * rate), 1), rate) for rate in rates]
        self._keys = self._create(self._buckets)

    def _create(self, buckets: Sequence[Bucket]) -> list[str]:
        self._users += len(buckets)
        return [self._shared.create(f"user{self._users - number}", bucket) for number, bucket in enumerate(buckets)]

    def _was_limited(self, row: Row) -> bool:
        return row.first_kept_asking and row.kept_asking >= len(self._keys) * 0.9

    def _hammer(self, keys: Sequence[str], seconds: float) -> Hammer:
        hammer = Hammer(Startup(self._shared.ports, keys, WEIGHTS, CONNECTIONS, seconds))
        os.sched_setaffinity(hammer.pid, CLIENT_CORE)
        return hammer

    def _drain(self, port: int, key: str, connection: http.client.HTTPConnection | None = None) -> int:
        """How many requests are admitted until the first that is not."""
        connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        count = 0
        while (status := ask_on(connection, "GET", "/", key=key).status) == 200:
            count += 1
        assert status == 429, status
        connection.close()
        return count

    def _judge(self, row: Row, seen: Sequence[Seen], changed: Change | None = None) -> None:
        """The law, for each key."""
        askings: list[list[Asking]] = [[] for _ in self._keys]
        for one in seen:
            askings[one.key].append(Asking(one.sent, one.answered, one.status == 200))
        everything = [asking for of_key in askings for asking in of_key]
        row.seconds, row.requests = span(everything), len(everything)
        row.admitted = sum(asking.admitted for asking in everything)
        row.failures = Counter(one.status for one in seen if one.status not in (200, 429))
        for number, (bucket, of_key) in enumerate(zip(self._buckets, askings, strict=True)):
            self._judge_key(row, number, bucket, of_key, changed if number == 0 else None)

    def _judge_key(
        self, row: Row, number: int, bucket: Bucket, askings: Sequence[Asking], changed: Change | None
    ) -> None:
        admitted = sum(asking.admitted for asking in askings)
        begin, end = min(asking.sent for asking in askings), max(asking.answered for asking in askings)
        last = max(asking.sent for asking in askings)
        if changed is None:
            parts = [(bucket, askings)]
            most, due = bucket.law(end - begin), bucket.law(last - begin)
            would_have = owed(askings, bucket)
        else:
            parts = [
                (bucket, [asking for asking in askings if asking.answered <= changed.sent]),
                (changed.bucket, [asking for asking in askings if asking.sent >= changed.answered]),
            ]
            # The level is kept at a change, so the capacity counts once.  The second rate is the smaller one.
            second = changed.bucket._replace(capacity=0)
            most = bucket.law(changed.answered - begin) + second.law(end - changed.answered)
            due = bucket.law(changed.sent - begin) + second.law(last - changed.sent)
            would_have = owed(askings, bucket, (changed.answered, changed.bucket))
        window = max(fullest_window(part, policy.rate) / policy.capacity for policy, part in parts)
        row.window = max(row.window, window)
        allowed = row.outages * len(self._shared.balancers)
        if admitted > most + allowed:
            row.problems.append(f"key {number}: {admitted} admitted, the law allows {most:.1f}")
        if window > 1 + allowed / bucket.capacity + 1e-9:
            row.problems.append(f"key {number}: a window holds {window:.4f} capacities more than its refill")
        kept_asking = would_have >= KEEPS_ASKING * due - PART_OF_A_TOKEN
        row.kept_asking += kept_asking
        row.first_kept_asking |= kept_asking and number == 0
        if kept_asking and not row.outages and admitted < FULFILLED * due - PART_OF_A_TOKEN:
            wanted = FULFILLED * due
            row.shortfalls.append(f"key {number}: {admitted} admitted, and 99 % of what was due is {wanted:.1f}")
        if kept_asking:
            row.served += admitted
            row.due += due - max(PART_OF_A_TOKEN, allowed)
        if number == 0:
            row.first_admitted, row.first_law, row.first_share = admitted, most, admitted / due
        elif kept_asking:
            row.others_share = min(row.others_share, admitted / due)

    def _judge_calm(self, row: Row) -> None:
        """What holds while Redis is there."""
        if row.failed:
            row.problems.append(f"answers that were neither 200 nor 429: {dict(row.failures)}")

    def _judge_change(self, row: Row, seen: Sequence[Seen], changed: Change) -> None:
        """The change holds on all balancers from the next request."""
        after = [one for one in seen if one.key == 0 and one.sent >= changed.answered and one.limit >= 0]
        if stale := sum(one.limit != changed.bucket.capacity for one in after):
            row.problems.append(f"{stale} of {len(after)} requests after the change still met the old policy")
        if len({one.port for one in after}) != len(self._shared.ports):
            row.problems.append("not every balancer was asked after the change")


def play(quick: bool, tell: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """All rows; the idle bucket's has no figures.  `tell` gets each as soon as it is there."""
    # A machine that does other things may stop Redis for a moment; `pause` is longer than either.
    settings = {"REDIS_DEADLINE": "250ms" if quick else "100ms"}
    environments: list[dict[str, str]] = [settings] * EXACT + [{**settings, **wrong_clock("+60s")}]
    rows = []

    def done(row: Row) -> None:
        rows.append(row)
        tell(row)

    with SharedBuckets(environments) as shared:
        trial = Trial(shared, QUICK_SECONDS, MOST_SCRIPTS_QUICK) if quick else Trial(shared, LOAD_SECONDS, MOST_SCRIPTS)
        done(trial.load())
        if not quick:
            done(trial.fast_clock())
        done(Row("idle", problems=trial.idle(IDLE_SECONDS[:2] if quick else IDLE_SECONDS)))
        done(trial.outage("restart", shared.redis.stop, shared.start_redis))
        done(trial.outage("kill -9", shared.redis.kill, shared.start_redis))
        done(trial.outage("pause", shared.redis.pause, shared.redis.resume))
    return rows


def line(cells: Sequence[str]) -> str:
    """One line of the table."""
    return f"{cells[0]:<11}" + "".join(f"{cell:>10}" for cell in cells[1:])


def main(arguments: Sequence[str]) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="bench/exactness.py", description="Whether shared buckets are exact.")
    parser.add_argument("--quick", action="store_true", help="short loads")
    options = parser.parse_args(arguments)
    exit_on_signals()
    print(line(HEAD), flush=True)

    def tell(row: Row) -> None:
        if row.requests:
            print(line(row.cells), flush=True)
        elif not row.problems:
            print(f"{row.name:<11}exact to the microtoken", flush=True)

    rows = play(options.quick, tell)
    problems = [f"{row.name}: {problem}" for row in rows for problem in row.problems]
    print("\n".join(problems) or "The law holds.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
