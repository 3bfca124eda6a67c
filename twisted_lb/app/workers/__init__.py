"""Several processes that serve the same ports: the supervisor, its children, and their status as one."""
