"""Verbs of reading."""
