"""The warning of a user API that is open without bounds."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.self_service_notices import self_service_notices
from twisted_lb.config.settings import Settings


def notices(*listen: str, **settings: Any) -> list[str]:
    return self_service_notices(Settings(listen=listen, **settings))


class NoticeTests(SynchronousTestCase):
    def test_public(self) -> None:
        """Creation that is open without bounds on a public endpoint is told once, with what is not set."""
        for endpoint in ("tcp:8080", "tcp6:8080", "tcp:8080:interface=192.0.2.1", "tcp:8080:interface=\\:\\:"):
            [notice] = notices(endpoint, "tcp:8081")
            self.assertIn(f"MAX_CAPACITY and MAX_RATE_PER_SEC not set: on {endpoint} anybody", notice)
        [notice] = notices("tcp:8080", max_capacity=10)
        self.assertIn("and MAX_RATE_PER_SEC not set", notice)
        [notice] = notices("tcp:8080:interface=127.0.0.1", tls_listen=("tcp:443",))
        self.assertIn("on tcp:443 anybody", notice)

    def test_not_public(self) -> None:
        """Endpoints that only this machine reaches need no bounds."""
        for interface in ("127.0.0.1", "127.1.2.3", "\\:\\:1", "localhost"):
            self.assertEqual(notices(f"tcp:8080:interface={interface}", "unix:/x"), [], interface)

    def test_bounded_or_closed(self) -> None:
        """With bounds, or with a creation that is not open, there is nothing to tell."""
        self.assertEqual(notices("tcp:8080", max_capacity=10, max_rate_per_sec=1.0), [])
        for create in ("token", "off"):
            self.assertEqual(notices("tcp:8080", self_service_create=create), [])
