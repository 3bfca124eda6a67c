"""The data path: the only place that knows sockets.

Read bottom to top: transport, deadlines, relay, upstream, connections, exchange, visit, downstream,
listening.  No Deferred, no callLater and no closure is made per request.
"""
