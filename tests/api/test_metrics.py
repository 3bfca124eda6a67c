"""The text that Prometheus reads."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api.metrics import CONTENT_TYPE, metrics_text
from twisted_lb.api.report import Report, shown_server
from twisted_lb.backend import Backend
from twisted_lb.limits.standby import COUNTS
from twisted_lb.stores import embedded_store

NUMBERS = {
    "store_up": 1.0,
    "store_outages": 2.0,
    "store_write_errors": 3.0,
    "standby_admitted": 3.0,
    "standby_refused": 4.0,
    "standby_unknown": 5.0,
    "script_calls": 6.0,
    "takes": 7.0,
    "instances": 8.0,
}


def backend(name: str = "a", **more: Any) -> Backend:
    made = Backend(name, "h", 1)
    for field, value in more.items():
        setattr(made, field, value)
    return made


class MetricsTests(SynchronousTestCase):
    def samples(self, counts: dict[str, float], *backends: Backend) -> dict[tuple[str, ...], float]:
        """The numbers by name and labels, as a parser finds them in the text."""
        report = Report(True, False, "", [shown_server(one) for one in backends], counts)
        families = text_string_to_metric_families(metrics_text(report).decode())
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

    def test_store(self) -> None:
        """Each number that a store may give has its metric."""
        self.assertEqual(set(NUMBERS), {*COUNTS, *embedded_store.COUNTS})
        self.assertEqual(
            self.samples(NUMBERS),
            {
                ("tokenlb_store_up",): 1.0,
                ("tokenlb_instances",): 8.0,
                ("tokenlb_store_outages_total",): 2.0,
                ("tokenlb_store_write_errors_total",): 3.0,
                ("tokenlb_script_calls_total",): 6.0,
                ("tokenlb_takings_total",): 7.0,
                ("tokenlb_standby_decisions_total", "admitted"): 3.0,
                ("tokenlb_standby_decisions_total", "refused"): 4.0,
                ("tokenlb_standby_decisions_total", "unknown"): 5.0,
            },
        )

    def test_store_without_numbers(self) -> None:
        """A store that cannot be away has no metrics, and is no error."""
        self.assertEqual(self.samples({}), {})

    def test_servers(self) -> None:
        """Each server has its state and its counts, under its name as it is."""
        odd = backend('b"\\', up=False, requests=10, failures=2, retries=1, in_flight=3)
        samples = self.samples({}, backend(), odd)
        self.assertEqual(samples["tokenlb_server_up", "a"], 1.0)
        names = ("up", "requests_total", "failures_total", "retries_total", "in_flight")
        found = [samples[f"tokenlb_server_{name}", 'b"\\'] for name in names]
        self.assertEqual(found, [0.0, 10.0, 2.0, 1.0, 3.0])

    def test_one_name_twice(self) -> None:
        """Of a server that was removed and has come back, only the one that is there now is told."""
        gone = backend(weight=0, reason="removed", requests=7)
        samples = self.samples({}, backend(requests=1), gone)
        self.assertEqual((samples["tokenlb_server_requests_total", "a"], samples["tokenlb_server_up", "a"]), (1.0, 1.0))

    def test_kinds(self) -> None:
        """What only grows is a counter, and what is now is a gauge; each has a help text."""
        text = metrics_text(Report(True, False, "", [shown_server(backend())], NUMBERS)).decode()
        lines = text.splitlines()
        kinds = dict(line.split()[2:] for line in lines if line.startswith("# TYPE"))
        helped = {line.split()[2] for line in lines if line.startswith("# HELP")}
        gauges = {"tokenlb_store_up", "tokenlb_instances", "tokenlb_server_up", "tokenlb_server_in_flight"}
        self.assertEqual({name for name, kind in kinds.items() if kind == "gauge"}, gauges)
        self.assertEqual({kind for name, kind in kinds.items() if name not in gauges}, {"counter"})
        self.assertEqual(helped, set(kinds))
        self.assertTrue(CONTENT_TYPE.startswith("text/plain; version="))
