"""Training data: images, sampling and augmentation."""
