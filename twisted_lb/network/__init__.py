"""Sockets and names: the poll loop, transports, listeners, and connecting to a server by its name."""
