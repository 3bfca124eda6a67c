"""The data path: from the connection of a client to that of a server, above the sockets of `network`.

`client_connection` and `tls_handshake` are clients' connections, `dispatch` finds what serves a request, `admission`
takes its tokens, `exchange` takes it to servers, and `server_connection` and `connection_pool` are the connections to
them.  No Deferred, no callLater and no closure is made per request.
"""
