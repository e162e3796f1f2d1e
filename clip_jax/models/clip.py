"""The two-tower model, and how a config becomes one."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from clip_jax.config.checks import require_choice
from clip_jax.models import attention
from clip_jax.models.execution import REMAT_POLICIES, Execution
from clip_jax.models.resnet import ResNet, ResNetConfig
from clip_jax.models.text import TextTransformer
from clip_jax.models.variants import ClipConfig, TokenizerSizes, resolve
from clip_jax.models.vit import Microbatch, ViT, ViTConfig
from clip_jax.runtime.mesh import PyTree

TowerOptions = Mapping[str, int | float | str | Execution]  # what all towers are given

# Paper section 2.5: the temperature starts at 0.07, and its inverse is clipped at 100.
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100)
# Zhai et al. 2023 (arXiv 2303.15343), section 3.2: where the sigmoid loss starts.
INITIAL_LOGIT_BIAS = -10.0


class Output(NamedTuple):
    """What a model makes of a batch.

    Attributes:
      image_emb: unit image embeddings, float32[B, E].
      text_emb: unit text embeddings, float32[B, E].
      logit_scale: what cosines are multiplied with, float32[].
      logit_bias: what is added then, float32[], or None.
    """

    image_emb: jax.Array
    text_emb: jax.Array
    logit_scale: jax.Array
    logit_bias: jax.Array | None


class ClipModel(nn.Module):
    """uint8 or float images [B, H, W, 3] and int32 tokens [B, L] to two unit embeddings.

    Float images are taken to be normalised already; uint8 ones are normalised here, on the
    device, so that a batch crosses the host boundary in a quarter of the bytes.

    A model with a ResNet has a second collection of variables, ``batch_stats``.
    """

    config: ClipConfig
    execution: Execution = Execution()
    patch_dropout: float = 0.0
    batch_norm_group: int = 0

    def setup(self):
        c = self.config
        transformer = dict(
            embed_dim=c.embed_dim,
            activation=c.activation,
            norm_epsilon=c.norm_epsilon,
            execution=self.execution,
        )
        self.image_tower = IMAGE_TOWERS[type(c.vision)](self, transformer)
        self.text_tower = TextTransformer(c.text, **transformer)
        self.logit_scale = self.param(
            "logit_scale",
            nn.initializers.constant(math.log(10) if c.logit_bias else INITIAL_LOGIT_SCALE),
            (),
            jnp.float32,
        )
        self.logit_bias = None
        if c.logit_bias:
            self.logit_bias = self.param(
                "logit_bias", nn.initializers.constant(INITIAL_LOGIT_BIAS), (), jnp.float32
            )

    def __call__(
        self,
        images: jax.Array,
        tokens: jax.Array,
        train: bool = False,
        microbatch: Microbatch | None = None,
    ) -> Output:
        """Both towers; ``train`` turns on patch dropout and the statistics of the batch.

        ``microbatch`` says which part of a larger batch these examples are.
        """
        return Output(
            self.embed_images(images, train, microbatch),
            self.embed_texts(tokens),
            jnp.exp(self.logit_scale),
            self.logit_bias,
        )

    def embed_images(
        self, images: jax.Array, train: bool = False, microbatch: Microbatch | None = None
    ) -> jax.Array:
        """Unit image embeddings f32[B, E]."""
        return normalize(self.image_features(images, train, microbatch))

    def embed_texts(self, tokens: jax.Array) -> jax.Array:
        """Unit text embeddings f32[B, E]."""
        return normalize(self.text_features(tokens))

    def image_features(
        self, images: jax.Array, train: bool = False, microbatch: Microbatch | None = None
    ) -> jax.Array:
        """Image features f32[B, E] as they leave the tower, not normalised."""
        if images.dtype == jnp.uint8:
            mean, std = jnp.array(self.config.image_mean), jnp.array(self.config.image_std)
            images = (images.astype(jnp.float32) / 255 - mean) / std
        return self.image_tower(images, train, microbatch)

    @property
    def probe_dim(self) -> int:
        """Size of what ``probe_features`` returns."""
        vision = self.config.vision
        unprojected = isinstance(vision, ViTConfig) and vision.pool == "cls"
        return vision.width if unprojected else self.config.embed_dim

    def text_features(self, tokens: jax.Array) -> jax.Array:
        """Text features f32[B, E] as they leave the tower, not normalised."""
        return self.text_tower(tokens)


def _vit(clip: ClipModel, options: TowerOptions) -> nn.Module:
    return ViT(clip.config.vision, patch_dropout=clip.patch_dropout, **options)


def _resnet(clip: ClipModel, options: TowerOptions) -> nn.Module:
    own = {k: options[k] for k in ("embed_dim", "execution")}
    return ResNet(clip.config.vision, batch_norm_group=clip.batch_norm_group, **own)


# The image tower for each type of ``ClipConfig.vision``: a function of the model and the options
# that towers share. For a tower of your own, add the type of its sizes here, a frozen dataclass
# with ``image_size``, ``width`` and ``num_heads``, and a variant that has it to
# ``variants.VARIANTS``. The module maps (images float32[B, H, W, 3], train, microbatch) to
# float32[B, E].
IMAGE_TOWERS: dict[type, Callable[[ClipModel, TowerOptions], nn.Module]] = {
    ViTConfig: _vit,
    ResNetConfig: _resnet,
}


def compute_copy(model: ClipModel, params: PyTree) -> PyTree:
    """Parameters with the weights of products in the compute dtype.

    The layers cast them anyway, each time they are used: in every turn of a loop over layers, and
    in every micro-batch. What is no operand of a product (norms, positions) stays as it is, and so
    does a tower from outside, which may compute as it likes.
    """
    own = isinstance(model.config.vision, ViTConfig | ResNetConfig)
    towers = ("image_tower", "text_tower") if own else ("text_tower",)

    def cast(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.Array) -> jax.Array:
        of_product = path[-1].key in ("kernel", "token_embedding")
        return leaf.astype(model.execution.dtype) if of_product else leaf

    copies = {t: jax.tree_util.tree_map_with_path(cast, params[t]) for t in towers}
    return {**params, **copies}


def probe_features(
    model: ClipModel, variables: Mapping[str, PyTree], images: jax.Array
) -> jax.Array:
    """What a linear probe sees of images: f32[B, F] (paper appendix A.3).

    A ViT's features before the projection into the shared space. A ResNet has no other than its
    attention pool's, and a tower that pools by a map no projection: theirs are ``image_features``.
    """
    features, seen = model.apply(
        variables, images, method=ClipModel.image_features, mutable=["intermediates"]
    )
    (unprojected,) = jax.tree.leaves(seen) or (features,)
    return unprojected.astype(jnp.float32)


def normalize(x: jax.Array) -> jax.Array:
    """Scales rows to unit L2 norm; a zero row stays zero, and so does its gradient."""
    squares = (x * x).sum(-1, keepdims=True)
    # The inner choice keeps the gradient of the other branch finite: zero times infinity is NaN.
    scale = jax.lax.rsqrt(jnp.maximum(jnp.where(squares == 0, 1.0, squares), 1e-24))
    return x * jnp.where(squares == 0, 0.0, scale)


def explicit_execution(model: ConfigDict) -> Execution:
    """What ``config.model`` says of the execution; where it says auto, the simplest.

    Raises:
      ValueError: a policy or an implementation that does not exist.
    """
    require_choice("model.remat_policy", model["remat_policy"], ("auto", "none", *REMAT_POLICIES))
    require_choice("model.attention", model["attention"], ("auto", *attention.IMPLEMENTATIONS))
    simplest = Execution(jnp.dtype(model["dtype"]))
    keys = ("scan_layers", "remat_policy", "attention")
    return dataclasses.replace(simplest, **{k: model[k] for k in keys if model[k] != "auto"})


def build(
    model: ConfigDict,
    tokenizer: TokenizerSizes | None = None,
    execution: Execution | None = None,
) -> ClipModel:
    """The model that ``config.model`` describes; see ``resolve``.

    Args:
      execution: how it is computed (see ``training.plan``); by default as the config says, with
        layers unrolled, nothing recomputed and XLA's attention where it says auto.

    Raises:
      ValueError: as ``resolve``, or an option that the image tower does not have.
    """
    config = resolve(model, tokenizer)
    for key, kind in (("patch_dropout", ViTConfig), ("batch_norm_group", ResNetConfig)):
        if model[key] and not isinstance(config.vision, kind):
            raise ValueError(
                f"model.{key}={model[key]} is set, but the image tower of "
                f"model.variant={model['variant']!r} is a "
                f"{type(config.vision).__name__.removesuffix('Config')}"
            )
    return ClipModel(
        config,
        execution or explicit_execution(model),
        patch_dropout=model["patch_dropout"],
        batch_norm_group=model["batch_norm_group"],
    )
