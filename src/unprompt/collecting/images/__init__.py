"""Images generated for prompts."""
