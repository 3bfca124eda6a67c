"""Sockets and names: the poll loop, transports and listeners, and how the name of a server becomes a connection."""
