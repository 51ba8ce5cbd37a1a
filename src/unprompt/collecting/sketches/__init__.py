"""Drawings that stand in for an image generator in the demo, the tutorial and the tests."""
