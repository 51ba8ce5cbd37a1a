"""Verbs of curate."""
