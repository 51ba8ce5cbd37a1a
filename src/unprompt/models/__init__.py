"""Models from image to prompt embedding or prompt text."""
