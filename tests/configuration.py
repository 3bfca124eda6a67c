"""Configurations for tests."""

from __future__ import annotations

from twisted_lb.config.pool import PoolSpec
from twisted_lb.config.servers_file import read_gateway


def only_pool(text: str, file_name: str = "x.yaml") -> PoolSpec:
    """The pool of a servers file that has one."""
    (pool,) = read_gateway(text, file_name).pools
    return pool
