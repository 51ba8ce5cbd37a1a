"""The pairs table, its formats, and the files that prompts are read from."""
