"""TLS on bytes: whole, byte by byte, and broken."""

from __future__ import annotations

import random
import ssl

from twisted.trial.unittest import SynchronousTestCase

from tests.network.tls_pairs import VERSIONS, client_side, pair, server_side, shake
from twisted_lb.network.tls_errors import CertificateNotVerified, HandshakeFailed, TlsError
from twisted_lb.network.tls_layer import FEED_BYTES, RECORD_BYTES, TlsLayer

MUCH = random.Random(1).randbytes(300_000)


class HandshakeTests(SynchronousTestCase):
    def test_byte_by_byte(self) -> None:
        """A handshake may come in any pieces, and both sides then know what they have agreed on."""
        for version in VERSIONS:
            client, server = TlsLayer(client_side(), False, "server.test"), TlsLayer(server_side(version), True)
            self.assertFalse(client.handshake(b""))
            while not (client.established and server.established):
                for one, other in ((client, server), (server, client)):
                    data = one.output()
                    for position in range(len(data)):
                        piece = data[position : position + 1]
                        if other.established:
                            other.decrypt(piece)
                        else:
                            other.handshake(piece)
            self.assertEqual(client.version, server.version)
            self.assertEqual(client.version, "TLSv1.2" if version == VERSIONS[0] else "TLSv1.3")
            self.assertEqual(client.cipher, server.cipher)

    def test_wrong_name(self) -> None:
        """A certificate for another name is not accepted, and the text says so; the server learns of it."""
        client, server = TlsLayer(client_side(), False, "other.test"), TlsLayer(server_side(), True)
        error = self.assertRaises(CertificateNotVerified, shake, client, server)
        self.assertIn("not valid for 'other.test'", str(error))
        error = self.assertRaises(HandshakeFailed, server.handshake, client.output())
        self.assertIn("bad certificate", str(error))

    def test_unknown_authority(self) -> None:
        """A certificate of an authority that is not trusted is told apart from other failures."""
        client = TlsLayer(ssl.create_default_context(), False, "server.test")
        error = self.assertRaises(CertificateNotVerified, shake, client, TlsLayer(server_side(), True))
        self.assertIn("unable to get local issuer certificate", str(error))

    def test_garbage(self) -> None:
        """What is not TLS ends a handshake with an error, and nothing else is raised."""
        chance = random.Random(20)
        context = server_side()
        for _ in range(200):
            layer = TlsLayer(context, True)
            data = chance.choice((b"", b"\x16\x03\x01", b"\x80\x2e\x01")) + chance.randbytes(chance.randrange(1, 400))
            try:
                self.assertFalse(layer.handshake(data))
            except HandshakeFailed as error:
                self.assertTrue(str(error))

    def test_session(self) -> None:
        """A session of an earlier connection is resumed."""
        for version in VERSIONS:
            server, client = server_side(version), client_side()
            first = TlsLayer(client, False, "server.test")
            shake(first, TlsLayer(server, True))
            again = TlsLayer(client, False, "server.test", first.session)
            other = TlsLayer(server, True)
            shake(again, other)
            self.assertEqual((first.resumed, again.resumed, other.resumed), (False, True, True))


class DataTests(SynchronousTestCase):
    def test_both_ways(self) -> None:
        """What one encrypts the other decrypts, of any size and in any pieces."""
        for version in VERSIONS:
            client, server = pair(version)
            for size in (1, 500, RECORD_BYTES, RECORD_BYTES + 1, len(MUCH)):
                for one, other in ((client, server), (server, client)):
                    data = MUCH[:size]
                    sent = one.encrypt(data)
                    self.assertEqual(other.decrypt(sent), data)
                    self.assertEqual(other.records, -(-size // RECORD_BYTES))
                    sent = one.encrypt(data)
                    for step in (7, FEED_BYTES - 1, FEED_BYTES + 1):
                        if len(sent) // step < 5000:
                            pieces = [sent[start : start + step] for start in range(0, len(sent), step)]
                            self.assertEqual(b"".join(map(other.decrypt, pieces)), data)
                            sent = one.encrypt(data)
                    other.decrypt(sent)

    def test_many_records(self) -> None:
        """Records that come together are decrypted together; the number of records is known."""
        client, server = pair()
        sent = b"".join(client.encrypt(b"%d;" % number) for number in range(3000))
        self.assertEqual(server.decrypt(memoryview(sent)), b"".join(b"%d;" % number for number in range(3000)))
        self.assertEqual(server.records, 3000)

    def test_end(self) -> None:
        """close_notify ends one direction: what came before is there, and the other direction goes on."""
        for version in VERSIONS:
            client, server = pair(version)
            last = client.encrypt(b"last") + client.close()
            self.assertEqual((server.decrypt(last), server.ended), (b"last", True))
            self.assertEqual(client.decrypt(server.encrypt(b"answer")), b"answer")
            self.assertFalse(client.ended)
            self.assertEqual((client.decrypt(server.close()), client.ended), (b"", True))
            self.assertEqual((client.close(), server.close()), (b"", b""))

    def test_damaged(self) -> None:
        """A record that was changed on its way ends the connection, and the other side is told by an alert."""
        for version in VERSIONS:
            client, server = pair(version)
            sent = bytearray(client.encrypt(b"GET / HTTP/1.1"))
            sent[-3] ^= 1
            error = self.assertRaises(TlsError, server.decrypt, bytes(sent))
            self.assertIn("bad record mac", str(error))
            self.assertIn("bad record mac", str(self.assertRaises(TlsError, client.decrypt, server.output())))
            self.assertRaises(TlsError, server.encrypt, b"more")

    def test_plain_text(self) -> None:
        """Plain text on an open connection ends it."""
        _, server = pair()
        self.assertRaises(TlsError, server.decrypt, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
