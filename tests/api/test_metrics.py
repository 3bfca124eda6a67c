"""The text that Prometheus reads."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api.metrics import CONTENT_TYPE, metrics_steps, metrics_text
from twisted_lb.api.status import Report, shown_server
from twisted_lb.backend import Backend
from twisted_lb.limits.fallback import COUNTS
from twisted_lb.steps import STEP
from twisted_lb.stores.sqlite import store

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
        report = Report(True, False, "", [shown_server(one, "default") for one in backends], counts)
        families = text_string_to_metric_families(metrics_text(report).decode())
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

    def test_store(self) -> None:
        """Each number that a store may give has its metric."""
        self.assertEqual(set(NUMBERS), {*COUNTS, *store.COUNTS})
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

    def test_certificates(self) -> None:
        """Each certificate in use has the time at which it expires, by its file, whatever the file is called."""
        expiry = "tokenlb_tls_certificate_expiry_timestamp_seconds"
        odd = 'certificate_expiry /tls/"b c"\\.pem'
        samples = self.samples({"certificates_ok": 0.0, "certificate_expiry /tls/a.pem": 1.8e9, odd: 1.9e9})
        self.assertEqual(
            samples,
            {
                ("tokenlb_tls_certificates_last_read_successful",): 0.0,
                (expiry, "/tls/a.pem"): 1.8e9,
                (expiry, '/tls/"b c"\\.pem'): 1.9e9,
            },
        )

    def test_servers(self) -> None:
        """Each server has its state and its counts, under its name as it is."""
        odd = backend('b"\\', up=False, requests=10, failures=2, retries=1, in_flight=3)
        samples = self.samples({}, backend(), odd)
        self.assertEqual(samples["tokenlb_server_up", "default", "a"], 1.0)
        names = ("up", "requests_total", "failures_total", "retries_total", "in_flight")
        found = [samples[f"tokenlb_server_{name}", "default", 'b"\\'] for name in names]
        self.assertEqual(found, [0.0, 10.0, 2.0, 1.0, 3.0])

    def test_text_of_servers(self) -> None:
        """The text is the same as that of prometheus_client, also for odd names and large numbers."""
        names = ['b"\\', "line\nend", "\\n", "ü", ""]
        backends = [
            backend(name, up=bool(at % 2), requests=10**at, failures=123456789 * at, in_flight=at, tunnels=at)
            for at, name in enumerate(names * 3)
        ]
        shown = [shown_server(one, f"pool {at % 4}") for at, one in enumerate(backends)]
        text = metrics_text(Report(True, False, "", shown, {})).decode()

        class Same(Collector):
            def collect(self) -> Any:
                for member, kind, name, words in (
                    ("state", GaugeMetricFamily, "up", "Whether the server gets requests (1) or not (0)."),
                    ("in_flight", GaugeMetricFamily, "in_flight", "Requests in flight at the server."),
                    ("requests", CounterMetricFamily, "requests", "Requests that were sent to the server."),
                    ("failures", CounterMetricFamily, "failures", "Requests to the server that failed."),
                ):
                    family = kind(f"tokenlb_server_{name}", words, labels=["pool", "server"])
                    for one in reversed(shown):
                        value = one["state"] == "up" if member == "state" else one[member]
                        family.add_metric([one["pool"], one["name"]], value)
                    yield family

        registry = CollectorRegistry(auto_describe=False)
        registry.register(Same())
        expected = generate_latest(registry).decode()
        self.assertEqual([line for line in expected.splitlines() if line not in text.splitlines()], [])
        self.assertEqual(text.count("# HELP"), 6)

    def test_steps(self) -> None:
        """With many servers the text is made in steps, of one report, whatever changes meanwhile."""
        backends = [backend(f"s{number}") for number in range(2 * STEP + 1)]
        report = Report(True, False, "", [shown_server(one, "default") for one in backends], {})
        steps = metrics_steps(report)
        next(steps)
        for one in backends:
            one.requests += 1
        next(steps)
        with self.assertRaises(StopIteration) as end:
            next(steps)
        self.assertEqual(end.exception.value, metrics_text(report))
        self.assertEqual(end.exception.value.count(b"tokenlb_server_requests_total{"), 2 * STEP + 1)

    def test_one_name_twice(self) -> None:
        """Of a server that was removed and has come back, only the one that is there now is told."""
        gone = backend(weight=0, reason="removed", requests=7)
        samples = self.samples({}, backend(requests=1), gone)
        found = [samples[f"tokenlb_server_{name}", "default", "a"] for name in ("requests_total", "up")]
        self.assertEqual(found, [1.0, 1.0])

    def test_kinds(self) -> None:
        """What only grows is a counter, and what is now is a gauge; each has a help text."""
        text = metrics_text(Report(True, False, "", [shown_server(backend(), "default")], NUMBERS)).decode()
        lines = text.splitlines()
        kinds = dict(line.split()[2:] for line in lines if line.startswith("# TYPE"))
        helped = {line.split()[2] for line in lines if line.startswith("# HELP")}
        gauges = {"tokenlb_store_up", "tokenlb_instances"}
        gauges |= {f"tokenlb_server_{name}" for name in ("up", "in_flight", "tunnels")}
        self.assertEqual({name for name, kind in kinds.items() if kind == "gauge"}, gauges)
        self.assertEqual({kind for name, kind in kinds.items() if name not in gauges}, {"counter"})
        self.assertEqual(helped, set(kinds))
        self.assertTrue(CONTENT_TYPE.startswith("text/plain; version="))

    def test_reload(self) -> None:
        """The result of the last reload, and the time of the last good one, under the names that are usual for them."""
        self.assertEqual(
            self.samples({"reload_ok": 0.0, "reloaded_at": 1e9}),
            {
                ("tokenlb_config_last_reload_successful",): 0.0,
                ("tokenlb_config_last_reload_success_timestamp_seconds",): 1e9,
            },
        )

    def test_requests(self) -> None:
        """Requests that passed, those that each limit refused, and answers of our own by status are told apart."""
        counts = {"admitted": 9.0, "refused default": 3.0, "refused in-flight": 1.0, "answered 401": 2.0}
        told = self.samples(counts)
        self.assertEqual(
            {name: told[name] for name in told if "requests" in name[0] or "answers" in name[0]},
            {
                ("tokenlb_requests_admitted_total",): 9.0,
                ("tokenlb_requests_refused_total", "default"): 3.0,
                ("tokenlb_requests_refused_total", "in-flight"): 1.0,
                ("tokenlb_answers_total", "401"): 2.0,
            },
        )
