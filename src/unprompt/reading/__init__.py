"""The exact route: the prompt as the image file's own metadata states it."""
