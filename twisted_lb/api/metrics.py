"""The numbers of a report in the text format of Prometheus.

Nothing is counted here: the numbers are those that the parts keep anyway, and they are put into words when
somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from twisted_lb.api.report import Report

CONTENT_TYPE = CONTENT_TYPE_LATEST

# The name in `Report.counts`, the name of the metric, and its help.
_STORE_GAUGES = (
    ("store_up", "tokenlb_store_up", "Whether the store answers, and can be written (1), or not (0)."),
    ("instances", "tokenlb_instances", "Processes that share the store, as last known."),
)
_STORE_COUNTERS = (
    ("store_outages", "tokenlb_store_outages", "How often the store went away."),
    ("store_write_errors", "tokenlb_store_write_errors", "Writes to the disk of the embedded store that failed."),
    ("script_calls", "tokenlb_script_calls", "Calls of the script that takes tokens."),
    ("takes", "tokenlb_takings", "Requests whose tokens were asked for with those calls."),
)
_STANDBY = (("standby_admitted", "admitted"), ("standby_refused", "refused"), ("standby_unknown", "unknown"))
_SERVER_COUNTERS = (
    ("requests", "Requests that were sent to the server."),
    ("failures", "Requests to the server that failed."),
    ("retries", "Requests that came to the server as a second choice."),
)


def metrics_text(report: Report) -> bytes:
    """The body of an answer of CONTENT_TYPE."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Numbers(report))
    return generate_latest(registry)


class _Numbers(Collector):
    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """All metrics that there are numbers for: an embedded store, for one, is alone."""
        yield from _of_store(self._report.counts)
        yield from self._of_servers()

    def _of_servers(self) -> Iterator[Metric]:
        # One that was removed may have come back, as another one of the same name, before its last exchange was done.
        servers = {server["name"]: server for server in reversed(self._report.servers)}
        labels = ["server"]
        up = GaugeMetricFamily("tokenlb_server_up", "Whether the server gets requests (1) or not (0).", labels=labels)
        in_flight = GaugeMetricFamily("tokenlb_server_in_flight", "Requests that the server has now.", labels=labels)
        for name, server in servers.items():
            up.add_metric([name], server["state"] == "up")
            in_flight.add_metric([name], server["in_flight"])
        yield up
        yield in_flight
        for count, words in _SERVER_COUNTERS:
            counter = CounterMetricFamily(f"tokenlb_server_{count}", words, labels=labels)
            for name, server in servers.items():
                counter.add_metric([name], server[count])
            yield counter


def _of_store(counts: Mapping[str, float]) -> Iterator[Metric]:
    for count, name, words in _STORE_GAUGES:
        if count in counts:
            yield GaugeMetricFamily(name, words, counts[count])
    for count, name, words in _STORE_COUNTERS:
        if count in counts:
            yield CounterMetricFamily(name, words, counts[count])
    decisions = CounterMetricFamily(
        "tokenlb_standby_decisions", "Requests that were decided here while the store was away.", labels=["outcome"]
    )
    for count, outcome in _STANDBY:
        if count in counts:
            decisions.add_metric([outcome], counts[count])
    if decisions.samples:
        yield decisions
