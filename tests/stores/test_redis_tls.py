"""Handshakes with servers of every kind, in memory, and what is said when they fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, connect
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.certificates import Authority
from tests.stores.contract import new_path
from twisted_lb.stores.redis.tls import RedisTls, tls_trouble
from twisted_lb.stores.redis.url import RedisSecurity


class Peer(Protocol):
    """One side of a connection: says its word, and keeps what came and how it ended."""

    def __init__(self, word: bytes) -> None:
        self.word = word
        self.received = b""
        self.ended: Failure | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.word)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:
        self.ended = reason


def built(peer: Peer, options: Any, is_client: bool, clock: Clock) -> Any:
    """`peer` behind TLS, where there are options for it."""
    factory = Factory.forProtocol(lambda: peer)
    if options is None:
        return factory.buildProtocol(None)  # type: ignore[arg-type]
    return TLSMemoryBIOFactory(options, is_client, factory, clock).buildProtocol(None)  # type: ignore[arg-type]


class HandshakeTests(SynchronousTestCase):
    """`RedisTls` against servers."""

    def setUp(self) -> None:
        self.directory = Path(new_path(self))
        self.directory.mkdir()
        self.authority = Authority(self.directory)
        self.trusting = RedisSecurity(ca_file=self.authority.ca_file)

    def server(self, *names: str, days: int = 2, authority: Authority | None = None, **more: Any) -> CertificateOptions:
        """Options of a server whose certificate is for `names`."""
        cert_file, key_file = (authority or self.authority).sign("server", *names, days=days)
        certificate = crypto.load_certificate(crypto.FILETYPE_PEM, Path(cert_file).read_bytes())
        key = crypto.load_privatekey(crypto.FILETYPE_PEM, Path(key_file).read_bytes())
        return CertificateOptions(privateKey=key, certificate=certificate, **more)

    def talk(self, security: RedisSecurity, host: str, server_options: CertificateOptions | None) -> tuple[Peer, Peer]:
        """Shake hands and say a word each; the client's side and the server's."""
        clock = Clock()
        client, server = Peer(b"PING"), Peer(b"-ERR Protocol error\r\n")
        ends = built(server, server_options, False, clock), built(client, RedisTls(security).options(host), True, clock)
        transports = [FakeTransport(end, end is ends[0]) for end in ends]
        pump = connect(ends[0], transports[0], ends[1], transports[1])
        for _ in range(5):
            clock.advance(0)
            pump.flush()
        return client, server

    def trouble(self, security: RedisSecurity, host: str, server_options: CertificateOptions | None) -> str:
        """What is said of a handshake that fails."""
        client, server = self.talk(security, host, server_options)
        assert client.ended is not None, "the handshake has not failed"
        if server_options is not None:
            self.assertEqual(server.received, b"", "the client spoke to a server that it does not trust")
        return tls_trouble(client.ended)

    def test_names_and_addresses_are_verified(self) -> None:
        """A certificate for the name, or for the IP address, of the host is good; words get through both ways."""
        options = self.server("redis.example", "127.0.0.1", "::1")
        for host in ("redis.example", "127.0.0.1", "::1"):
            client, server = self.talk(self.trusting, host, options)
            self.assertEqual((client.received, server.received), (b"-ERR Protocol error\r\n", b"PING"), host)

    def test_another_host_is_refused(self) -> None:
        """A good certificate that is for another name or another IP address is refused, and the words say why."""
        options = self.server("redis.example", "127.0.0.1")
        for host in ("redis.other", "127.0.0.2", "::1"):
            self.assertIn("its certificate is not for the host", self.trouble(self.trusting, host, options))

    def test_an_unknown_authority_is_refused(self) -> None:
        """A certificate of another authority is refused, and so is any that the system does not know."""
        other = Authority(self.directory, "other")
        for security, options in (
            (self.trusting, self.server("redis", authority=other)),
            (RedisSecurity(), self.server("redis")),
        ):
            trouble = self.trouble(security, "redis", options)
            self.assertIn("is not signed by an authority that is trusted", trouble)
            self.assertIn("REDIS_TLS_CA_FILE", trouble)

    def test_an_expired_certificate_is_refused(self) -> None:
        """A certificate whose time is over is refused, and the words say that it may be that."""
        self.assertIn("it has expired", self.trouble(self.trusting, "redis", self.server("redis", days=-1)))

    def test_a_server_without_tls(self) -> None:
        """A Redis that answers a handshake in plain text is said to speak no TLS."""
        self.assertIn("does not speak TLS; redis:// is for that", self.trouble(self.trusting, "redis", None))

    def test_several_authorities_in_one_file(self) -> None:
        """Each of the authorities in the CA file is trusted."""
        other = Authority(self.directory, "other")
        both = self.directory / "both.pem"
        both.write_bytes(self.authority.pem + other.pem)
        for authority in (self.authority, other):
            _, server = self.talk(RedisSecurity(str(both)), "redis", self.server("redis", authority=authority))
            self.assertEqual(server.received, b"PING")

    def test_our_own_certificate_is_shown(self) -> None:
        """A server that wants a certificate of its clients gets ours; without one, the words name the settings."""
        trust = trustRootFromCertificates([Certificate.loadPEM(self.authority.pem)])
        options = self.server("redis", trustRoot=trust)
        _, server = self.talk(RedisSecurity(self.authority.ca_file, *self.authority.sign("ours")), "redis", options)
        self.assertEqual(server.received, b"PING")
        client, server = self.talk(self.trusting, "redis", options)
        assert client.ended is not None
        self.assertIn("REDIS_TLS_CERT_FILE", tls_trouble(client.ended))
        self.assertEqual(server.received, b"")

    def test_a_certificate_that_the_server_does_not_trust(self) -> None:
        """When the server does not know who signed our certificate, the words say so."""
        trust = trustRootFromCertificates([Certificate.loadPEM(self.authority.pem)])
        theirs = Authority(self.directory, "other").sign("ours")
        options = self.server("redis", trustRoot=trust)
        client, _ = self.talk(RedisSecurity(self.authority.ca_file, *theirs), "redis", options)
        assert client.ended is not None
        self.assertIn("it does not trust the authority that signed our certificate", tls_trouble(client.ended))


class TroubleTests(SynchronousTestCase):
    """`tls_trouble`."""

    def test_what_is_not_tls_has_no_words(self) -> None:
        """A connection that is lost as others are is nobody's certificate."""
        for error in (ConnectionLost(), ConnectionDone(), ValueError("certificate verify failed")):
            self.assertEqual(tls_trouble(Failure(error)), "")

    def test_what_is_not_known_is_told_as_it_is(self) -> None:
        """Errors of OpenSSL without words of ours are repeated; those without text give their name."""
        error = SSL.Error([("SSL routines", "", "no shared cipher"), ("", "", "another")])
        self.assertEqual(tls_trouble(Failure(error)), "TLS failed: no shared cipher, another")
        self.assertEqual(tls_trouble(Failure(SSL.ZeroReturnError())), "TLS failed: ZeroReturnError")
        self.assertEqual(tls_trouble(Failure(SSL.Error([]))), "TLS failed: Error")
