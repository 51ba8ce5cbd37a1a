"""Prompt text to prompt embedding."""
