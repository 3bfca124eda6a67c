"""Strict parsing and serialization of HTTP/1.1 messages: no Twisted, no I/O.

The input is bytes; the output is small objects and bytes, or a WireError.  Sources: RFC 9112 (messages),
RFC 9110 (fields), RFC 3986 (targets).
"""
