"""The rotation of the keys of session tickets, on a clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app import ticket_rotation
from twisted_lb.app.ticket_rotation import ROTATION_SECONDS, TicketRotation
from twisted_lb.network.ticket_keys import SECRET_BYTES, TicketKeys, new_secret


class RotationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.keys = TicketKeys([new_secret()])
        self.told: list[Sequence[bytes]] = []

    def test_rotation(self) -> None:
        """Twice a day there is another secret, and the one before stays for as long again; others are told."""
        rotation = TicketRotation(self.clock, self.keys, self.told.append)
        (first,) = self.keys.secrets
        rotation.startService()
        self.clock.advance(ROTATION_SECONDS - 1)
        self.assertEqual((self.keys.secrets, self.told), ((first,), []))
        self.clock.advance(1)
        second, before = self.keys.secrets
        self.assertEqual((before, len(second), self.told), (first, SECRET_BYTES, [(second, first)]))
        self.clock.advance(ROTATION_SECONDS)
        third, before = self.keys.secrets
        self.assertEqual((before, len({first, second, third})), (second, 3))
        rotation.stopService()
        self.clock.advance(3 * ROTATION_SECONDS)
        self.assertEqual(self.keys.secrets, (third, second))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_available(self) -> None:
        """With workers, a line says that they cannot share keys."""
        lines: list[str] = []

        def observer(event: Any) -> None:
            lines.append(formatEvent(event))

        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.patch(ticket_rotation, "available", lambda: False)
        TicketRotation(self.clock, self.keys).startService()
        self.assertEqual(lines, [])
        TicketRotation(self.clock, self.keys, self.told.append).startService()
        self.assertEqual(len(lines), 1)
        self.assertIn("cannot share keys", lines[0])
