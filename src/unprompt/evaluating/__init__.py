"""Honest measurement: metrics, baselines and the report."""
