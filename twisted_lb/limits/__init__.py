"""Limits: token buckets in integer arithmetic, their header fields, waiting for tokens, costs, and store outages."""
