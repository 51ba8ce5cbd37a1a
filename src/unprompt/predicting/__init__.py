"""From an image to its prompt: routes and their output."""
