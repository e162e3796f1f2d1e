"""Random-access sources of image-text pairs for training."""
