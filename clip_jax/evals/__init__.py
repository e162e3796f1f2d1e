"""Evaluations of an embedder: what a model knows, independent of how it was trained.

Nothing here imports the training state, the step or checkpoints, so a model evaluates the same
whether it was trained here or imported.
"""
