"""Evaluations of an embedder: what a model knows, never how it was trained.

Every task takes embeddings, or an `Embedder` (two functions and two sizes), and returns plain
numbers in a `dict[str, float]`. Nothing here imports the training state, the step or checkpoints,
so a model evaluates the same whether it was trained here or imported.
"""
