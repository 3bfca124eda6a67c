"""Pools for the tests of balancers."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

from twisted_lb.backend import Backend
from twisted_lb.testing import FakeRequest


def many(count: int) -> list[Backend]:
    """Servers s0, s1 ... of weight 1."""
    return [Backend(f"s{order}", "127.0.0.1", 9000, 1) for order in range(count)]


def names(balancer: Any, request: Any = None, most: int | None = None) -> str:
    """The names of the choices for a request, as one text."""
    return "".join(backend.name for backend in islice(balancer.choices(request or FakeRequest()), most))


def first(balancer: Any, number: int = 0) -> Backend:
    """The first choice for the request of this number."""
    backend: Backend = next(balancer.choices(FakeRequest(number)))
    return backend


def counts(balancer: Any, requests: int) -> Counter[str]:
    """How often each server is the first choice of different requests that do not overlap."""
    return Counter(first(balancer, number).name for number in range(requests))
