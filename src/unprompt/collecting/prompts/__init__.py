"""Prompts composed from a grammar, and what they are made of."""
