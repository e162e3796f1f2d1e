"""Beginning a run from the weights of a pretrained model."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from clip_jax.data.preprocess import Preprocess
from clip_jax.interop import resize, weights
from clip_jax.interop.mapping import LayoutError
from clip_jax.models.variants import ClipConfig
from clip_jax.tokenizers import Tokenizer
from clip_jax.training.state import TrainState


def from_weights(
    fresh: TrainState,
    pretrained: weights.Weights,
    name: str,
    config: ClipConfig,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
) -> TrainState:
    """A fresh train state with the variables of a pretrained model in its shards.

    Position embeddings are resized to the config's resolution and context length.

    Args:
      fresh: step 0 of a run; its optimizer state stays.
      pretrained: the weights.
      name: config key ``model.init_from``, for messages.
      config, tokenizer, preprocess: those of the run.

    Raises:
      LayoutError: the weights are of another model, or were trained with another tokenizer; names
        what differs.
    """
    if pretrained.config.vision.image_size != config.vision.image_size:
        pretrained = resize.for_image_size(pretrained, config.vision.image_size)
    if pretrained.config.text.context_length != config.text.context_length:
        pretrained = resize.for_context_length(pretrained, config.text.context_length)
    check(pretrained, name, config, tokenizer, preprocess)
    variables = {"batch_stats": {}, **pretrained.variables}

    def placed(old: jax.Array, new: np.ndarray) -> jax.Array:
        # Each device takes its part: no device ever holds the whole model.
        return jax.make_array_from_callback(
            old.shape, old.sharding, lambda at: np.asarray(new[at], old.dtype)
        )

    params = jax.tree.map(placed, fresh.params, variables["params"])
    stats = jax.tree.map(placed, fresh.batch_stats, variables["batch_stats"])
    ema = None if fresh.ema is None else jax.tree.map(placed, fresh.ema, variables)
    return fresh.replace(params=params, batch_stats=stats, ema=ema)


def check(
    pretrained: weights.Weights,
    name: str,
    config: ClipConfig,
    tokenizer: Tokenizer,
    preprocess: Preprocess,
) -> None:
    """Whether a run can begin from weights; arguments and error as ``from_weights``'s."""
    different = _differences(_described(pretrained.config), _described(config))
    theirs = pretrained.tokenizer
    if theirs is not None and theirs.fingerprint != tokenizer.fingerprint:
        different.append(f"the tokenizer ({theirs.name} of other content or cleaning)")
    for key in ("resize", "interpolation"):
        old, new = getattr(pretrained.preprocess, key), getattr(preprocess, key)
        if old != new:
            different.append(f"{'data.' if key == 'resize' else ''}{key}: {old!r} -> {new!r}")
    if different:
        raise LayoutError(
            f"model.init_from={name} does not fit this config; different (weights -> "
            f"config): {', '.join(different)}"
        )


def _described(config: ClipConfig) -> dict[str, object]:
    return dataclasses.asdict(config) | {
        "image_tower": weights.model_to_dict(config)["image_tower"]
    }


# What may differ: it only decides how a model starts.
_FREE = ("vision.position_init",)


def _differences(
    stored: Mapping[str, object], wanted: Mapping[str, object], prefix: str = ""
) -> list[str]:
    lines = []
    for key in wanted:
        name, a, b = f"{prefix}{key}", stored.get(key), wanted[key]
        if isinstance(a, dict) and isinstance(b, dict):
            lines += _differences(a, b, f"{name}.")
        elif a != b and name not in _FREE:
            lines.append(f"model.{name}: {a!r} -> {b!r}")
    return lines
