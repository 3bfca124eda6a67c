"""The load balancer in an application of twisted.web."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.web.load_balancer import LoadBalancer


class SettingsTests(SynchronousTestCase):
    def test_settings_of_the_program(self) -> None:
        """Settings of listeners and processes are refused, since they would have no effect."""
        for name in ("listen", "workers", "tls_listen", "tls_cert_file", "tls_max_handshakes"):
            error = self.assertRaises(TypeError, LoadBalancer, Clock(), **{name: "1"})
            self.assertIn(name, str(error))
