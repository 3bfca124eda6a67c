"""Hooks of routes."""
