"""Hooks of routes: classes of the user's own that answer requests, change header fields, and see how requests end."""
