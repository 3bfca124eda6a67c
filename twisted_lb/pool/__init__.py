"""The servers of a pool, the queue of requests for them, and retries: their budget and their policy."""
