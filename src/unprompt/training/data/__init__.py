"""Training data: the table of a run, images, augmentation, sampling, and caches on disk."""
