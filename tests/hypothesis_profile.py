"""Hypothesis for these tests: a slow machine, on which an example takes a while, fails none of them.

`given` comes from here, so that this profile is the one in force when a test is decorated.
"""

from hypothesis import HealthCheck, given, settings

__all__ = ["given"]

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
