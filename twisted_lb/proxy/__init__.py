"""The data path: the only place that knows sockets.

Read bottom to top: polling, transport, deadlines, relay, upstream, connections, pool, content, retry,
queue, view, surroundings, exchange, visit, downstream, listening.  No Deferred, no callLater
and no closure is made per request.
"""
