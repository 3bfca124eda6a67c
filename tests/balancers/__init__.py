"""Tests of twisted_lb.balancers."""
