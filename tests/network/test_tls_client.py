"""The client's side of TLS to servers: contexts that are shared, and sessions that are kept."""

from __future__ import annotations

import ssl
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.pool import ServerTls, TlsFiles
from twisted_lb.network.tls_client import TlsClient, TlsContexts, is_tls_alert, refused_by_alert
from twisted_lb.network.tls_errors import TlsError, Truncated


class ContextTests(SynchronousTestCase):
    def test_equal_settings_share_a_context(self) -> None:
        """Servers whose files and `verify` are equal have one context, whatever their names; others have their own."""
        contexts = TlsContexts()
        one = contexts.client(ServerTls("a", TlsFiles(digest="1")))
        two = contexts.client(ServerTls("b", TlsFiles(digest="1")))
        self.assertIs(one.context, two.context)
        for files in (TlsFiles(digest="2"), TlsFiles(verify=False, digest="1")):
            self.assertIsNot(contexts.client(ServerTls("a", files)).context, one.context)

    def test_what_is_not_used_is_not_kept(self) -> None:
        """A context goes with the last server that has it."""
        contexts = TlsContexts()
        contexts.client(ServerTls("a"))
        kept = contexts.client(ServerTls("b", TlsFiles(verify=False)))
        self.assertEqual(list(contexts.in_use), [kept.context])


class Session:
    def __init__(self, has_ticket: bool, number: bytes) -> None:
        self.has_ticket = has_ticket
        self.id = number


class Layer:
    def __init__(self, session: Session | None, version: str) -> None:
        self.session = session
        self.version = version


class SessionTests(SynchronousTestCase):
    def test_only_sessions_that_can_be_resumed(self) -> None:
        """Those with a ticket, and in TLS 1.2 those with a number; another one is kept until there is a newer one."""
        client = TlsContexts().client(ServerTls("a"))
        first, second, third = Session(True, b""), Session(False, b"1"), Session(True, b"2")
        cases: list[tuple[Any, Session | None]] = [
            (Layer(None, "TLSv1.3"), None),
            (Layer(Session(False, b"1"), "TLSv1.3"), None),
            (Layer(first, "TLSv1.3"), first),
            (Layer(Session(False, b""), "TLSv1.2"), first),
            (Layer(second, "TLSv1.2"), second),
            (Layer(Session(False, b"1"), "TLSv1.3"), second),
            (Layer(third, "TLSv1.3"), third),
            (None, third),
        ]
        for layer, expected in cases:
            client.keep_session(layer)
            self.assertIs(client.session, expected)

    def test_no_session_at_first(self) -> None:
        self.assertIsNone(TlsClient(ServerTls("a"), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).session)


class AlertTests(SynchronousTestCase):
    def test_alerts(self) -> None:
        """An alert record is told from a response by its first bytes, as many as there are."""
        for data, expected in [(b"\x15", True), (b"\x15\x03", True), (b"\x15\x03\x01\x00\x02", True), (b"", False),
                               (b"\x15\x02", False), (b"HTTP/1.1 200", False), (b"\x16\x03\x01", False)]:
            self.assertEqual(is_tls_alert(data), expected, data)

    def test_refusals(self) -> None:
        """Alerts about certificates and the handshake mean that nothing was read; other ends of a connection do not."""
        for text in ("tlsv13 alert certificate required", "sslv3 alert bad certificate", "tlsv1 alert unknown ca",
                     "sslv3 alert certificate expired", "tlsv1 alert access denied", "sslv3 alert handshake failure"):
            self.assertTrue(refused_by_alert(TlsError(text)), text)
        for error in (TlsError("tlsv1 alert internal error"), TlsError("decryption failed or bad record mac"),
                      Truncated(), ConnectionLost(), None):
            self.assertFalse(refused_by_alert(error), error)
