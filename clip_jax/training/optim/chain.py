"""Weight-decay mask and the optax chain (paper section 2.5, Table 18)."""

import functools
import math
from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict
from optax import contrib

from clip_jax.config.checks import require_choice
from clip_jax.runtime.mesh import PyTree
from clip_jax.training.optim import stochastic_rounding
from clip_jax.training.optim.schedule import Schedule

# Parameters that are not decayed, by the last part of their path. "All weights that are not gains
# or biases" (section 2.5) leaves the class embedding open: a single vector added to one token acts
# as a bias and is treated as one. open_clip also spares the position embeddings.
_PAPER = frozenset({"bias", "scale", "logit_scale", "logit_bias", "class_embedding"})
NO_DECAY = {"paper": _PAPER, "open_clip": _PAPER | {"position_embedding"}}


def _names(path: tuple[object, ...]) -> list[str]:
    return [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]


def decay_mask(rule: str) -> Callable[[optax.Params], PyTree]:
    """A function from parameters to a tree of booleans: True is decayed.

    Raises:
      ValueError: no such rule.
    """
    require_choice("optim.decay_rule", rule, NO_DECAY)

    def decayed(path, _):
        return _names(path)[-1] not in NO_DECAY[rule]

    return lambda params: jax.tree_util.tree_map_with_path(decayed, params)


# Matrices that Muon orthogonalises: the weights of the blocks, [inputs, outputs] or stacked, and
# of convolutions, by the name of their layer; axes from the end. Queries, keys and values are
# matrices of their own.
_MATRICES = {
    "qkv": contrib.MuonDimensionNumbers(reduction_axis=(-4,), output_axis=(-2, -1)),
    "out": contrib.MuonDimensionNumbers(reduction_axis=(-3, -2), output_axis=(-1,)),
    "fc": contrib.MuonDimensionNumbers(reduction_axis=(-2,), output_axis=(-1,)),
    "proj": contrib.MuonDimensionNumbers(reduction_axis=(-2,), output_axis=(-1,)),
}

_CONVOLUTION = contrib.MuonDimensionNumbers(reduction_axis=(-4, -3, -2), output_axis=(-1,))


def _matrix(path: tuple[object, ...]) -> contrib.MuonDimensionNumbers | None:
    names = _names(path)
    if names[-1] != "kernel":
        return None
    if "stem" in names:
        return _CONVOLUTION
    return _MATRICES[names[-2]] if "encoder" in names else None


def _adam(optim: ConfigDict, seed: int) -> optax.GradientTransformation:
    adam = optax.scale_by_adam(b1=optim["beta1"], b2=optim["beta2"], eps=optim["eps"])
    if optim["moment_dtype"] == "float32":
        return adam
    return stochastic_rounding.with_bf16_state(adam, seed)


def _muon(optim: ConfigDict, seed: int) -> optax.GradientTransformation:
    """Muon for the blocks' matrices, Adam for the rest (Jordan et al. 2024; Liu et al. 2025,
    arXiv 2502.16982, whose scaling lets the learning rates of AdamW carry over).
    """

    def by_matrix(of: Callable, params: optax.Params) -> PyTree:
        return jax.tree_util.tree_map_with_path(lambda path, _: of(_matrix(path)), params)

    def like_adam(path, update):
        """An orthogonal matrix scaled to the root mean square that Adam's updates have."""
        axes = _matrix(path)
        sides = [math.prod(update.shape[a] for a in side) for side in axes]
        return update * (0.2 * max(sides) ** 0.5)

    muon = optax.chain(
        contrib.scale_by_muon(
            beta=optim["muon_momentum"],
            ns_steps=optim["muon_ns_steps"],
            weight_dimension_numbers=functools.partial(
                by_matrix, lambda axes: axes or optax.MaskedNode()
            ),
        ),
        optax.stateless(lambda u, _: jax.tree_util.tree_map_with_path(like_adam, u)),
    )
    label = functools.partial(by_matrix, lambda axes: "adam" if axes is None else "muon")
    return optax.partition({"muon": muon, "adam": _adam(optim, seed)}, label)


def _scaled_text(rate: float) -> optax.GradientTransformation:
    """Another learning rate for the text tower: its updates, decay included, times ``rate``."""

    def scaled(path, update):
        return update * rate if path[0].key == "text_tower" else update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates))


OPTIMIZERS: dict[str, Callable[[ConfigDict, int], optax.GradientTransformation]] = {
    "adamw": _adam,
    "muon": _muon,
}


def build(
    optim: ConfigDict, schedule: Schedule, seed: int = 0, text_param_dtype: str = "float32"
) -> optax.GradientTransformation:
    """The optax chain, with decoupled, masked weight decay.

    Args:
      optim, text_param_dtype: ``config.optim`` and ``config.model.text.param_dtype``.
      schedule: of the learning rate.
      seed: of stochastic rounding.

    Raises:
      ValueError: unknown optimizer or decay rule.
    """
    require_choice("optim.name", optim["name"], OPTIMIZERS)
    chain = [
        OPTIMIZERS[optim["name"]](optim, seed),
        optax.add_decayed_weights(optim["weight_decay"], decay_mask(optim["decay_rule"])),
        optax.scale_by_learning_rate(schedule),
    ]
    if optim["text_lr_multiplier"] != 1:
        chain.insert(2, _scaled_text(optim["text_lr_multiplier"]))
    if optim["grad_clip_norm"]:
        chain.insert(0, optax.clip_by_global_norm(optim["grad_clip_norm"]))
    tx = optax.chain(*chain)
    if text_param_dtype != "float32":
        tx = stochastic_rounding.with_bf16_params(tx, seed)
    return tx
