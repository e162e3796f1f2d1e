"""The contrastive losses over the global batch: the only modules that name collectives.

==========  =====================================================================================
dense       the whole B x B matrix from global arrays: the reference
all_gather  both towers' embeddings on every device, logits in chunks
ring        the texts permuted around the devices: least memory, twice the bytes
==========  =====================================================================================

All have the same value and the same gradients. Examples of one *group* (say, two images with one
caption) can be kept from being each other's negatives. *Soft targets* of the softmax give a share
of each row's target to the other pairs of the batch, in proportion to how much their captions have
in common (see ``caption_topics``; after Gao et al. 2023, arXiv 2303.17561).
"""

from clip_jax.losses.collectives import chunk_size
from clip_jax.losses.dense import MAX_TOPICS, caption_topics, softmax_dense
from clip_jax.losses.registry import (
    IMPLEMENTATIONS,
    LOSSES,
    NAMES,
    Loss,
    LossFn,
    LossOptions,
    build,
    choose,
    from_config,
)

__all__ = [
    "IMPLEMENTATIONS", "LOSSES", "MAX_TOPICS", "NAMES", "Loss", "LossFn", "LossOptions", "build",
    "caption_topics", "choose", "chunk_size", "from_config", "softmax_dense",
]  # fmt: skip
