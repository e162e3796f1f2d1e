"""Weights in and out: the files and the layouts of other CLIP implementations, without them."""
