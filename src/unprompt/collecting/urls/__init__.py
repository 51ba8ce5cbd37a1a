"""Data sets that are lists of URLs."""
