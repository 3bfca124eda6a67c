"""The load balancer as a part of other sites: see docs/embedding.md."""

from __future__ import annotations

from twisted_lb.web.load_balancer import LoadBalancer
from twisted_lb.web.resource import ProxyResource

__all__ = ["LoadBalancer", "ProxyResource"]
