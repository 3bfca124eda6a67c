"""The contracts of a balancer, a pricing class, an authenticator and hooks as suites of tests, for classes of your own.

    from unittest import TestCase
    from twisted_lb.testing import BalancerContract, PricingContract

    class LeastBusyTests(BalancerContract, TestCase):
        def make(self):
            return LeastBusy()

    class LanguageModelTests(PricingContract, TestCase):
        def make(self):
            return LanguageModel()

They run under unittest, trial and pytest, need no network, and take less than a second.  The message of a failure
says what the class did, and what clients would notice.  Each balancer of twisted_lb passes the suite.
"""

from twisted_lb.testing.authentication import AuthenticatorContract
from twisted_lb.testing.balancing import BalancerContract, servers
from twisted_lb.testing.fakes import (
    ODD_REQUESTS,
    ODD_RESPONSES,
    FakeHookRequest,
    FakeHookResponse,
    FakeRecord,
    FakeRequest,
    FakeResponse,
)
from twisted_lb.testing.hooks import HookContract
from twisted_lb.testing.pricing import PricingContract

__all__ = [
    "ODD_REQUESTS",
    "ODD_RESPONSES",
    "AuthenticatorContract",
    "BalancerContract",
    "FakeHookRequest",
    "FakeHookResponse",
    "FakeRecord",
    "FakeRequest",
    "FakeResponse",
    "HookContract",
    "PricingContract",
    "servers",
]
