"""twisted_lb: a load balancer and API gateway with exact token buckets, on Twisted."""

__version__ = "0.1.0"
