"""The optimizer of a run: its learning rate, its optax chain, and weights of fewer bits."""

from clip_jax.training.optim.chain import NO_DECAY, OPTIMIZERS, build, decay_mask
from clip_jax.training.optim.schedule import Schedule, from_stages, rate, warmup_cosine

__all__ = [
    "NO_DECAY", "OPTIMIZERS", "Schedule", "build", "decay_mask", "from_stages", "rate",
    "warmup_cosine",
]  # fmt: skip
