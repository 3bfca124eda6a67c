"""Users and buckets in Redis: one script call for many requests, and what happens while Redis is unavailable."""
