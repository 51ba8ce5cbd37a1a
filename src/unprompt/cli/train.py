"""Verbs of train."""
