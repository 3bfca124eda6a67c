"""Contexts and connections of TLS for tests, without a socket."""

from __future__ import annotations

import ssl
import tempfile
from functools import cache

from tests.stores.certificates import Authority
from twisted_lb.network.tls_layer import TlsLayer

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@cache
def authority() -> Authority:
    """One for all tests of a process."""
    return Authority(tempfile.mkdtemp())


def server_side(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A context with a certificate for server.test, which speaks up to this version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority().sign("server.test"))
    context.maximum_version = version
    return context


def client_side() -> ssl.SSLContext:
    """A context that trusts it."""
    return ssl.create_default_context(cafile=authority().ca_file)


def shake(client: TlsLayer, server: TlsLayer) -> None:
    """Complete the handshake of the two."""
    to_server = to_client = b""
    for _ in range(10):
        if not client.established or to_client:
            client.handshake(to_client)
        to_server = client.output()
        if to_server:
            server.handshake(to_server)
        to_client = server.output()
        if client.established and server.established:
            # Tickets.
            assert client.decrypt(to_client) == b""
            return
    raise AssertionError("no agreement")


def pair(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[TlsLayer, TlsLayer]:
    """A client and a server after their handshake."""
    client = TlsLayer(client_side(), False, "server.test")
    server = TlsLayer(server_side(version), True)
    shake(client, server)
    return client, server
