"""Where pairs come from: downloads, harvested folders, composed prompts and generated images."""
