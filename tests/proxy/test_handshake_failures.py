"""TLS handshakes that fail: their reasons, in the log and in the metrics."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.network.tls_pairs import authority, client_side
from tests.proxy.test_tls_handshake import TlsClient
from tests.proxy.world import World
from tests.stores.certificates import Authority
from twisted_lb.api.metrics import metrics_text
from twisted_lb.api.status import Report
from twisted_lb.network.certificate import read_certificate
from twisted_lb.network.certificates import Certificates
from twisted_lb.network.tls_context import server_context
from twisted_lb.network.tls_errors import HandshakeFailed
from twisted_lb.network.tls_layer import TlsLayer
from twisted_lb.proxy.handshake_failures import MAX_KINDS, SUMMARY_SECONDS


def certificates(min_version: str = "1.2", ciphers: str = "", client_auth: str = "") -> Certificates:
    """Those of a listener with one certificate, for server.test."""
    authorities = authority().pem.decode() if client_auth else ""
    made = Certificates(lambda: server_context(min_version, ciphers, authorities, client_auth))
    pem, key = (Path(file).read_bytes() for file in authority().sign("server.test"))
    made.use([read_certificate("a.pem", pem, key)], 0.0)
    return made


class FailureTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: Any) -> None:
        if event.get("log_namespace") == "twisted_lb.proxy.handshake_failures":
            self.lines.append(formatEvent(event))

    def told(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines

    def begin(self, certificates: Certificates, **settings: Any) -> None:
        self.world = World(**settings)
        self.factory = self.world.factory.secured(certificates.present_context)

    def client(self, address: str = "192.0.2.7") -> TlsClient:
        return TlsClient(self.world, self.factory, IPv4Address("TCP", address, 50_000))

    def reasons(self) -> dict[str, int]:
        return dict(self.world.factory.handshakes.failures.counts)

    def attempt(self, context: ssl.SSLContext, name: str = "server.test") -> None:
        """A client with this context fails."""
        client = self.client()
        client.layer = TlsLayer(context, False, name)
        try:
            client.shake()
        except HandshakeFailed:
            client.send(client.layer.output())
        else:
            # In TLS 1.3 the client is done before its certificate is looked at.
            self.assertTrue(client.transport.ended)

    def test_no_agreement(self) -> None:
        """No shared version, and no shared cipher."""
        old = client_side()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        self.begin(certificates("1.3"))
        self.attempt(old)
        self.assertEqual(self.reasons(), {"no_shared_version": 1})
        self.assertEqual(self.told(), ["A TLS handshake with 192.0.2.7 failed: unsupported protocol"])
        old.set_ciphers("ECDHE+CHACHA20")
        self.begin(certificates(ciphers="ECDHE+AESGCM"))
        self.attempt(old)
        self.assertEqual(self.reasons(), {"no_shared_cipher": 1})
        self.assertEqual(self.told(), ["A TLS handshake with 192.0.2.7 failed: no shared cipher"])

    def test_certificates_of_clients(self) -> None:
        """None where one is required, and one that the authorities do not verify."""
        self.begin(certificates(client_auth="required"))
        self.attempt(client_side())
        stranger = client_side()
        stranger.load_cert_chain(*Authority(tempfile.mkdtemp()).sign("someone"))
        self.attempt(stranger)
        self.assertEqual(self.reasons(), {"client_certificate_missing": 1, "client_certificate_refused": 1})
        missing, refused = self.told()
        self.assertIn("peer did not return a certificate", missing)
        self.assertIn("the client's certificate is not accepted: ", refused)

    def test_our_certificate(self) -> None:
        """A client that does not accept ours; if it has asked for another name, the line has it."""
        strict = ssl.create_default_context()
        self.begin(certificates())
        self.attempt(strict)
        self.attempt(strict, "Other.test")
        self.assertEqual(self.reasons(), {"certificate_refused": 2})
        (line,) = self.told()
        self.assertIn("alert unknown ca", line)
        self.assertNotIn("there is no certificate", line)
        self.world.wait(SUMMARY_SECONDS + 1)
        self.told()
        self.attempt(strict, "Other.test")
        (line,) = self.told()
        self.assertIn("alert unknown ca; there is no certificate for 'Other.test', so the client got", line)

    def test_not_tls(self) -> None:
        """Plain HTTP, and what is neither; the deadline; one that leaves is counted only."""
        self.begin(certificates(), tls_handshake_timeout=3.0)
        self.client().send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.client().send(b"\x16\x03\x01\x00\x05" + b"\xff" * 20)
        self.client().send(b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c")
        self.client()
        self.world.wait(4.0)
        self.client().transport.reset()
        counted = {"plain_http": 1, "not_tls": 2, "timeout": 1, "client_left": 1}
        self.assertEqual(self.reasons(), counted)
        lines = self.told()
        self.assertEqual(len(lines), 3)
        self.assertEqual(lines[0], "A TLS handshake with 192.0.2.7 failed: the client speaks plain HTTP")
        self.assertEqual(
            lines[2], "A TLS handshake with 192.0.2.7 failed: it was not complete in 3 s (TLS_HANDSHAKE_TIMEOUT)"
        )
        text = metrics_text(Report(True, False, "", [], self.world.factory.counts())).decode()
        for reason, number in counted.items():
            self.assertIn(f'tokenlb_tls_handshake_failures_total{{reason="{reason}"}} {number}.0\n', text)

    def test_rate_limit(self) -> None:
        """One line for a network and a reason; the others are summed up a minute later."""
        self.begin(certificates())
        for address in ("192.0.2.7", "192.0.2.7", "192.0.2.8", "192.0.2.7"):
            self.client(address).send(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(self.told()), 2)
        self.world.wait(SUMMARY_SECONDS + 1)
        self.assertEqual(self.told(), ["2 more TLS handshakes with 192.0.2.7 failed in 60 s: plain_http"])
        self.world.wait(SUMMARY_SECONDS + 1)
        self.assertEqual(self.told(), [])

    def test_many_networks(self) -> None:
        """A scan from many networks makes a bounded number of lines."""
        self.begin(certificates())
        for number in range(MAX_KINDS + 50):
            self.client(f"10.0.{number // 250}.{number % 250}").send(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(self.told()), MAX_KINDS)
        self.world.wait(SUMMARY_SECONDS + 1)
        self.assertEqual(self.told(), ["50 TLS handshakes with further clients failed in 60 s"])
