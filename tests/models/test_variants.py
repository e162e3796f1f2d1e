"""The variants' sizes, and sizes that do not go together."""

import jax
import jax.numpy as jnp
import pytest

from clip_jax import config as config_lib
from clip_jax.interop import tree
from clip_jax.models import clip, variants

# Reference counts: paper models, batch-norm statistics not counted.
COUNTS = {
    "ViT-B/32": 151_277_313,
    "ViT-B/16": 149_620_737,
    "ViT-L/14": 427_616_513,
    "ViT-L/14@336": 427_944_193,
}


def model_config(**changes):
    c = config_lib.defaults().model
    c.variant = "ViT-Test/8"
    c.update(changes)
    return c


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts(variant):
    model = clip.build(model_config(variant=variant))
    size = model.config.vision.image_size
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)), jnp.zeros((1, 77), jnp.int32)
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == COUNTS[variant]


# Millions, as open_clip's model profile lists them.
LATER = {"ViT-H/14": 986.11, "ViT-g/14": 1366.68, "ViT-bigG/14": 2539.57, "SigLIP-B/16": 203.16,
         "SigLIP-L/16": 652.15, "SigLIP-So400m/14": 877.36}  # fmt: skip


@pytest.mark.parametrize("variant", LATER)
def test_parameter_counts_of_the_later_models(variant):
    shapes = tree.shapes(variants.VARIANTS[variant])["params"]
    millions = sum(x.size for x in jax.tree.leaves(shapes)) / 1e6
    assert round(millions, 2) == LATER[variant]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision": {"position_init": "rope"}}, r"model.vision.position_init='rope' is not one"),
        ({"variant": "ViT-Z/1"}, r"model.variant='ViT-Z/1' is not one of"),
        ({"activation": "relu"}, r"model.activation='relu'"),
        ({"remat_policy": "some"}, r"model.remat_policy='some'"),
        (
            {"vision": {"num_heads": 5}},
            r"model.vision.width=32 is not divisible by model.vision.num_heads",
        ),
        ({"vision": {"image_size": 4}}, r"image_size=4 is smaller than"),
    ],
)
def test_impossible_models_name_the_key(changes, message):
    with pytest.raises(ValueError, match=message):
        clip.build(model_config(**changes))
