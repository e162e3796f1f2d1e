"""Reads and writes PyTorch's files without PyTorch, and executes nothing in them."""
