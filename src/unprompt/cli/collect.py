"""Verbs of collect."""
