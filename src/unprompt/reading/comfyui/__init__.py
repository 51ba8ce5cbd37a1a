"""ComfyUI's node graphs: their two forms, and the search from an image back to its prompt."""
