"""twisted_lb: a load balancer and API gateway with exact token buckets, on Twisted."""

from twisted_lb.build_info import build

__version__ = "0.1.0"

# "compiled" or "pure Python".  Raises ImportError if compiled code is not that of the present sources.
BUILD = build()
