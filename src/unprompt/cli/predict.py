"""Verbs of predict."""
