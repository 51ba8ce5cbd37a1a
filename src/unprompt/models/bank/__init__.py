"""The bank: known prompts with their embeddings."""
