"""The tests.  They see every line of the log, even those that the program omits (tests/test_bounded_log.py)."""

from twisted_lb import bounded_log

bounded_log.LOG_SECONDS = 0.0
