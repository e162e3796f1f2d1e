"""Test sets: images with classes or captions."""
