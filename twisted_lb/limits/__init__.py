"""The token bucket: its law in whole numbers, and what its answers look like in HTTP header fields."""
