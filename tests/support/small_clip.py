"""A CLIP of CLIP's vocabulary that is small enough to be run anywhere."""

import jax
import numpy as np

from clip_jax.interop import readers, tree
from clip_jax.interop.weights import Weights
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig
from clip_jax.tokenizers import ClipTokenizer

CONFIG = ClipConfig(24, ViTConfig(32, 8, 64, 2, 2), TextConfig(64, 2, 2, 12))


def small_clip():
    """Weights drawn at random, the same every time."""
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda s: (0.1 * rng.normal(size=s.shape)).astype(np.float32), tree.shapes(CONFIG)
    )
    return Weights(
        CONFIG, variables, readers.standard_preprocess(CONFIG), ClipTokenizer(12), "clip_jax", ""
    )
