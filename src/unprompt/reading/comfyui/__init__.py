"""ComfyUI's node graphs: their two forms, and the way from an image back to its prompt."""
