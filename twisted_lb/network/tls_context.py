"""The contexts of TLS listeners."""

from __future__ import annotations

import ssl
from typing import Final

# What can be negotiated by ALPN (RFC 7301), best first.
APPLICATION_PROTOCOLS: Final = ("http/1.1",)

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ListenerContext(ssl.SSLContext):
    """A context with the authorities that it was made with."""

    client_authorities: str = ""  # those that verify the certificates of clients, in PEM


def server_context(min_version: str, ciphers: str, client_authorities: str, client_auth: str) -> ListenerContext:
    """A context for servers, without a certificate.

    `min_version` is "1.2" or "1.3"; `ciphers` is a list in OpenSSL's format for TLS 1.2, "": OpenSSL's default.
    `client_authorities` are CA certificates in PEM that verify those of clients; "": clients are not asked for one.
    `client_auth` is "optional" or "required".  A certificate that cannot be verified ends the handshake in both cases.

    Raises ssl.SSLError for ciphers or certificates that OpenSSL does not accept.
    """
    context = ListenerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[min_version]
    # Renegotiation lets a client cause expensive work on an open connection; nothing that is served here needs it.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(list(APPLICATION_PROTOCOLS))
    if ciphers:
        context.set_ciphers(ciphers)
    if client_authorities:
        context.client_authorities = client_authorities
        context.load_verify_locations(cadata=client_authorities)
        context.verify_mode = ssl.CERT_OPTIONAL if client_auth == "optional" else ssl.CERT_REQUIRED
    return context
