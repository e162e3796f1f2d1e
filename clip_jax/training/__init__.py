"""A training run: state, step, loop, checkpoints and metrics."""
