"""Steps that make pairs worth training on: filter, encode, remove near-duplicates, split."""
