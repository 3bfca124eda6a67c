"""The data path: from the connection of a client to that of a server, above the sockets of `network`.

`client_connection` and `tls_handshake` are clients' connections, `dispatch` finds what serves a request, `admission`
takes its tokens, `exchange` sends it to servers, and `server_connection` and `connection_pool` are the connections to
the servers.  No Deferred, no callLater and no closure is made per request.
"""
