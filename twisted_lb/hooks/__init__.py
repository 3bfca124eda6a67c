"""Hooks of routes: the user's classes that answer requests, change header fields, and observe how requests end."""
