"""The decoder: prompt embedding to prompt text."""
