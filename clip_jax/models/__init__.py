"""The towers and the two-tower model."""
