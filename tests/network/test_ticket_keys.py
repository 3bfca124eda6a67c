"""Keys of session tickets that are shared by several contexts, as by those of several processes."""

from __future__ import annotations

import gc
import ssl
import sys
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.network.tls_pairs import VERSIONS, authority, client_side, shake
from twisted_lb.network import ticket_keys
from twisted_lb.network.certificate import read_certificate
from twisted_lb.network.certificates import Certificates
from twisted_lb.network.ticket_keys import CHECKED_VERSIONS, TicketKeys, available, new_secret
from twisted_lb.network.tls_context import server_context
from twisted_lb.network.tls_layer import TlsLayer
from twisted_lb.steps import finish


def process(keys: TicketKeys, authorities: str = "") -> Certificates:
    """The certificates of one process."""
    made = Certificates(lambda: server_context("1.2", "", authorities, "optional"), keys)
    pem, key = (Path(file).read_bytes() for file in authority().sign("server.test"))
    made.use([read_certificate("a.pem", pem, key)], 0.0)
    return made


def connected(
    client: ssl.SSLContext, server: Certificates, session: ssl.SSLSession | None = None
) -> tuple[bool, ssl.SSLSession | None]:
    """Whether a session was resumed, and the one that can be resumed next."""
    client_end = TlsLayer(client, False, "server.test", session)
    server_end = TlsLayer(server.context, True)
    shake(client_end, server_end)
    assert client_end.resumed == server_end.resumed
    assert server_end.decrypt(client_end.encrypt(b"request")) == b"request"
    assert client_end.decrypt(server_end.encrypt(b"response")) == b"response"
    return server_end.resumed, client_end.session


class TicketKeysTests(SynchronousTestCase):
    def client(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = client_side()
        context.maximum_version = version
        return context

    def test_available(self) -> None:
        """What Python and OpenSSL have inside is as expected, on each version of Python that is tested."""
        self.assertIn(sys.version_info[:2], CHECKED_VERSIONS)
        self.assertTrue(available())

    def test_shared(self) -> None:
        """A session of one process is resumed by another with the same secrets, and not by one with others."""
        secrets = [new_secret()]
        for version in VERSIONS:
            client = self.client(version)
            first, second = process(TicketKeys(secrets)), process(TicketKeys(secrets))
            resumed, session = connected(client, first)
            self.assertFalse(resumed)
            resumed, session = connected(client, second, session)
            self.assertTrue(resumed, version)
            self.assertTrue(connected(client, first, session)[0])
            self.assertFalse(connected(client, process(TicketKeys([new_secret()])), session)[0])
            self.assertFalse(connected(client, process(TicketKeys()), session)[0])

    def test_rotation(self) -> None:
        """Tickets of the key before are accepted and renewed; those of keys before that are not."""
        for version in VERSIONS:
            keys = TicketKeys([new_secret()])
            client, server = self.client(version), process(keys)
            _, session = connected(client, server)
            keys.use([new_secret(), keys.secrets[0]])
            resumed, renewed = connected(client, server, session)
            self.assertTrue(resumed)
            keys.use([new_secret(), keys.secrets[0]])
            self.assertTrue(connected(client, server, renewed)[0])
            self.assertFalse(connected(client, server, session)[0])

    def test_other_authorities(self) -> None:
        """With other authorities for certificates of clients no session is resumed, in no process."""
        keys = TicketKeys([new_secret()])
        client = self.client()
        _, session = connected(client, process(keys))
        with_authorities = process(keys, authority().pem.decode())
        self.assertFalse(connected(client, with_authorities, session)[0])
        _, session = connected(client, with_authorities)
        self.assertTrue(connected(client, process(keys, authority().pem.decode()), session)[0])

    def test_context_has_gone(self) -> None:
        """A handshake that began in a context before a change of authorities makes its ticket after it."""
        keys = TicketKeys([new_secret()])
        server = process(keys)
        client_end = TlsLayer(self.client(), False, "server.test")
        server_end = TlsLayer(server.context, True)
        client_end.handshake(b"")
        server_end.handshake(client_end.output())
        client_end.handshake(server_end.output())
        contexts = partial(server_context, "1.2", "", authority().pem.decode(), "optional")
        finish(server.use_contexts_in_steps(contexts))
        gc.collect()
        self.assertTrue(server_end.handshake(client_end.output()))
        client_end.decrypt(server_end.output())
        assert client_end.session is not None
        self.assertTrue(client_end.session.has_ticket)

    def test_damaged(self) -> None:
        """What fails in the callback ends in a full handshake or in an error, and never in an exception."""
        keys = TicketKeys([new_secret()])
        server = process(keys)
        client = self.client()
        _, session = connected(client, server)
        keys.use([])
        with self.assertRaises(Exception):
            connected(client, server, session)

    def test_not_available(self) -> None:
        """Where there is no way to set keys, each context has its own, and sessions are resumed with those."""
        self.patch(ticket_keys, "_openssl", lambda: None)
        keys = TicketKeys([new_secret()])
        client, server = self.client(), process(keys)
        self.assertFalse(available())
        _, session = connected(client, server)
        self.assertTrue(connected(client, server, session)[0])
        self.assertFalse(connected(client, process(keys), session)[0])
