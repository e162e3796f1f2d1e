"""Measurements against other implementations, and of what recipes need."""
