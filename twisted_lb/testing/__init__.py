"""The contracts of a balancer and of a pricing class as suites of tests, for classes of your own.

    from unittest import TestCase
    from twisted_lb.testing import BalancerContract, PricingContract

    class LeastBusyTests(BalancerContract, TestCase):
        def make(self):
            return LeastBusy()

    class LanguageModelTests(PricingContract, TestCase):
        def make(self):
            return LanguageModel()

They run under unittest, trial and pytest, need no network, and take less than a second.  A failure says what
the class did, and what the proxy's users would notice of it.  Each balancer of twisted_lb keeps its contract.
"""

from twisted_lb.testing.balancing import BalancerContract, servers
from twisted_lb.testing.fakes import ODD_REQUESTS, ODD_RESPONSES, FakeRequest, FakeResponse
from twisted_lb.testing.pricing import PricingContract

__all__ = [
    "ODD_REQUESTS",
    "ODD_RESPONSES",
    "BalancerContract",
    "FakeRequest",
    "FakeResponse",
    "PricingContract",
    "servers",
]
