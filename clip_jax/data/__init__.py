"""Image-text pairs: where they come from, how they are decoded, in what order they come."""
