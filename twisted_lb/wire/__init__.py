"""HTTP/1.1 as bytes, strictly: no Twisted, no I/O.

Read bottom to top: errors, grammar, head, framing, body, forwarding.  Bytes go in; what comes
out are small objects and more bytes, or a WireError.  Sources: RFC 9112 (the message), RFC 9110
(the fields), RFC 3986 (the target).
"""
