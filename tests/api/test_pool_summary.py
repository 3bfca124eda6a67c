"""What operators see of pools and routes."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api.pool_summary import SUMS, counts, shown_route, total


def server(requests: int, latency_ms: float | None) -> dict[str, Any]:
    return {**dict.fromkeys(SUMS, 1), "requests": requests, "latency_ms": latency_ms}


class CountsTests(SynchronousTestCase):
    def test_several_pools(self) -> None:
        """The counts of a route with several pools, from the totals of each, are those of all their servers."""
        pools = {
            "a": [server(3, 10.0), server(0, None), server(0, 4.0)],
            "b": [server(1, 20.0)],
            "none": [server(5, None)],
            "empty": [],
        }
        totals = {name: total(servers) for name, servers in pools.items()}
        states = {name: ("up", "") for name in pools}
        for names in (["a"], ["a", "b"], ["b", "none", "empty"], ["none"], ["empty"]):
            route = shown_route({"pools": names, "maintenance": 0}, states, totals)
            expected = counts([one for name in names for one in pools[name]])
            self.assertEqual({name: route[name] for name in expected}, expected)
        a, none = counts(pools["a"]), counts(pools["none"])
        self.assertEqual((a["in_flight"], a["requests"], a["latency_ms"]), (3, 3, 8.5))
        self.assertEqual((none["requests"], none["latency_ms"]), (5, None))
