"""Recover the prompt of an image: load models, answer by a route, write the answers."""
