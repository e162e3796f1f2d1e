"""The model: sizes, contracts, and that options which must not change the numbers do not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import signal

from clip_jax import config as config_lib
from clip_jax.models import clip, variants
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig


def model_config(**changes):
    c = config_lib.defaults().model
    c.variant, c.dtype, c.scan_layers = "ViT-Test/8", "float32", False
    c.update(changes)
    return c


def batch(n=4, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 62, (n, 8)).astype(np.int32)
    tokens[:, 5] = 63
    return rng.integers(0, 256, (n, 16, 16, 3), np.uint8), tokens


def init(model, seed=0):
    return nn.unbox(jax.jit(model.init)(jax.random.key(seed), *batch(1)))


def apply(model, variables, *inputs, **options):
    """``model.apply``, compiled as a whole: op by op it takes ten times as long."""
    rngs = options.pop("rngs", None)
    return jax.jit(lambda v, r, *x: model.apply(v, *x, rngs=r, **options))(variables, rngs, *inputs)


def test_outputs_keep_the_contract():
    model = clip.build(model_config(dtype="bfloat16"))
    images, tokens = batch()
    image, text, scale, bias = apply(model, init(model), images, tokens)
    for x in (image, text):
        assert x.shape == (4, 16)
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    assert float(scale) == pytest.approx(1 / 0.07, rel=1e-5)
    assert bias is None


def test_a_stem_is_convolutions_of_stride_two_before_the_patches():
    """Against scipy's correlation; what follows sees a picture of a quarter of the side."""
    model = clip.build(model_config(vision={"stem": [5, 6]}))
    images, tokens = batch(2)
    variables = init(model)
    tower = variables["params"]["image_tower"]
    assert tower["patch_embedding"]["kernel"].shape == (2, 2, 6, 32)
    _, seen = apply(model, variables, images, tokens, capture_intermediates=True)
    x = np.asarray((images / np.float32(255) - model.config.image_mean) / model.config.image_std)
    for i in range(2):
        kernel, bias = (np.asarray(tower["stem"][f"conv_{i}"][k]) for k in ("kernel", "bias"))
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        maps = [
            sum(
                signal.correlate(padded[..., c], kernel[None, :, :, c, o], mode="valid")
                for c in range(x.shape[-1])
            )
            for o in range(kernel.shape[-1])
        ]
        x = np.maximum(np.stack(maps, -1)[:, ::2, ::2] + bias, 0)
    got = seen["intermediates"]["image_tower"]["stem"]["__call__"][0]
    assert got.shape == (2, 4, 4, 6)
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-4)


def test_a_stem_must_fit_the_patches():
    with pytest.raises(ValueError, match=r"model.vision.stem has 2 .* must be multiples of 4"):
        clip.build(model_config(vision={"stem": (8, 8), "patch_size": 2}))


def test_uint8_images_are_normalised_on_the_device():
    model = clip.build(model_config())
    images, tokens = batch()
    c = model.config
    floats = (images / np.float32(255) - np.array(c.image_mean)) / np.array(c.image_std)
    variables = init(model)
    a = apply(model, variables, images, tokens)[0]
    b = apply(model, variables, floats.astype(np.float32), tokens)[0]
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_probes_see_a_vits_features_before_the_projection(scan):
    """Paper appendix A.3."""
    model = clip.build(model_config(scan_layers=scan))
    variables = init(model)
    seen = jax.jit(lambda v, x: clip.probe_features(model, v, x))(variables, batch()[0])
    assert seen.shape == (4, model.config.vision.width) == (4, model.probe_dim)
    projection = variables["params"]["image_tower"]["projection"]["kernel"]
    features = apply(model, variables, batch()[0], method=clip.ClipModel.image_features)
    np.testing.assert_allclose(seen @ projection, features, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(features)).max() > 1e-3


@pytest.mark.parametrize("tower", ["map", "resnet"])
def test_probes_see_the_features_of_towers_without_a_projection(tower):
    vision = {
        "map": ViTConfig(16, 8, 32, 1, 2, pool="map"),
        "resnet": ResNetConfig(32, (1, 1, 1, 1), 8, 2),
    }[tower]
    text = TextConfig(32, 1, 2, 8)
    model = clip.ClipModel(ClipConfig(32, vision, text))
    images = batch()[0] if tower == "map" else np.repeat(np.repeat(batch()[0], 2, 1), 2, 2)
    variables = nn.unbox(jax.jit(model.init)(jax.random.key(0), images[:1], batch(1)[1]))
    seen = jax.jit(lambda v, x: clip.probe_features(model, v, x))(variables, images)
    assert seen.shape == (4, model.probe_dim)
    np.testing.assert_array_equal(
        seen, apply(model, variables, images, method=clip.ClipModel.image_features)
    )


def test_zero_rows_normalise_to_zero_with_a_zero_gradient():
    x = jnp.array([[0.0, 0.0, 0.0], [3.0, 0.0, 4.0], [1e-6, 0.0, 0.0]])
    weights = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(clip.normalize(x), [[0, 0, 0], [0.6, 0, 0.8], [1, 0, 0]], rtol=1e-6)
    gradient = jax.grad(lambda v: (clip.normalize(v) * weights).sum())(x)
    np.testing.assert_array_equal(gradient[0], 0)
    unit = np.array([0.6, 0, 0.8])
    want = (np.array([1.0, 2.0, 3.0]) - unit * (unit @ np.array([1.0, 2.0, 3.0]))) / 5
    np.testing.assert_allclose(gradient[1], want, rtol=1e-5)


def loss_and_grads(model, variables):
    def loss(v):
        image, text, scale, _ = model.apply(v, *batch())
        return (image * text).sum() * scale

    return jax.jit(jax.value_and_grad(loss))(variables)


@pytest.fixture(scope="module")
def plain():
    """Variables of the unrolled model, and its loss and gradients."""
    model = clip.build(model_config())
    variables = init(model)
    return variables, loss_and_grads(model, variables)


@pytest.mark.parametrize(
    "changes",
    [
        {"scan_layers": True},
        {"remat_policy": "full"},
        *(
            pytest.param({"remat_policy": policy}, marks=pytest.mark.slow)
            for policy in ("elementwise", "mlp", "projections", "dots")
        ),
        {"scan_layers": True, "remat_policy": "full"},
    ],
    ids=str,
)
def test_scan_and_remat_change_nothing(plain, changes):
    variables, want = plain
    model = clip.build(model_config(**changes))
    got = loss_and_grads(model, variables)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        # Gradients reach 100; recomputing them moves the last bits, so compare to their size.
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6 * float(np.abs(b).max()))


def test_scan_initialises_the_same_parameters(plain):
    got = init(clip.build(model_config(scan_layers=True, remat_policy="full")))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(plain[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_text_feature_is_taken_at_the_first_end_token_and_is_causal():
    model = clip.build(model_config())
    variables = init(model)
    _, tokens = batch(1)
    changed = tokens.copy()
    changed[:, 6:] = [7, 63]  # after the end token, a second one included
    embed = jax.jit(lambda t: model.apply(variables, t, method="embed_texts"))
    np.testing.assert_array_equal(embed(tokens), embed(changed))
    changed[:, 2] += 1
    assert not np.allclose(embed(tokens), embed(changed))


def test_patch_dropout_works_in_training_only():
    model = clip.build(model_config(patch_dropout=0.5))
    variables = init(model)
    images, tokens = batch()

    def embed(train, seed=0):
        rngs = {"patch_dropout": jax.random.key(seed)}
        return apply(model, variables, images, tokens, train=train, rngs=rngs)[0]

    np.testing.assert_array_equal(embed(False, 0), embed(False, 1))
    assert not np.allclose(embed(True, 0), embed(True, 1))
    np.testing.assert_array_equal(embed(True, 3), embed(True, 3))


def test_dropped_patches_leave_the_kept_ones_their_positions():
    """With every patch alike, dropping some must not move a position: embeddings of the class
    token then depend on which positions remain, and dropping none equals evaluation."""
    model = clip.build(model_config(patch_dropout=0.2))  # of 4 patches, keeps round(3.2) = 3
    none = clip.build(model_config(patch_dropout=0.01))  # keeps all 4
    variables = init(model)
    images, tokens = batch()
    rngs = {"patch_dropout": jax.random.key(0)}
    full = apply(none, variables, images, tokens)[0]
    kept = apply(none, variables, images, tokens, train=True, rngs=rngs)[0]
    np.testing.assert_allclose(full, kept, atol=1e-6)
    dropped = apply(model, variables, images, tokens, train=True, rngs=rngs)[0]
    assert not np.allclose(full, dropped, atol=1e-4)


def test_initial_distributions_are_openais():
    """Standard deviations and bounds as in the reference's ``initialize_parameters``."""
    c = model_config(variant="ViT-B/32")
    c.vision.num_layers = c.text.num_layers = 2

    class Tokenizer:  # of fewer entries than the paper's: drawing them takes longest
        vocab_size, context_length, eot_id = 4096, 77, 4095

    model = clip.build(c, Tokenizer)
    images, tokens = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 77), jnp.int32)
    p = nn.unbox(jax.jit(model.init)(jax.random.key(0), images, tokens))["params"]
    p = jax.tree.map(np.asarray, p)  # NumPy compiles nothing
    image, text = p["image_tower"], p["text_tower"]

    def blocks_of(tower):
        return jax.tree.map(
            lambda first, last: np.stack([*first, last]),
            tower["encoder"]["blocks"],
            tower["encoder"]["last_block"],
        )

    blocks, texts = blocks_of(image), blocks_of(text)

    def is_normal(x, std):
        assert float(x.std()) == pytest.approx(std, rel=0.05)
        assert float(np.abs(x).max()) > 2.5 * std

    def is_uniform(x, bound):
        assert float(np.abs(x).max()) <= bound
        assert float(x.std()) == pytest.approx(bound / 3**0.5, rel=0.05)

    is_normal(text["token_embedding"], 0.02)
    is_normal(text["position_embedding"], 0.01)
    is_normal(texts["attention"]["qkv"]["kernel"], 512**-0.5)
    is_normal(texts["attention"]["out"]["kernel"], 512**-0.5 * 4**-0.5)
    is_normal(texts["proj"]["kernel"], 512**-0.5 * 4**-0.5)
    is_normal(texts["fc"]["kernel"], 1024**-0.5)
    is_normal(text["projection"]["kernel"], 512**-0.5)
    is_normal(image["position_embedding"], 768**-0.5)
    is_normal(image["projection"]["kernel"], 768**-0.5)
    is_uniform(image["patch_embedding"]["kernel"], (3 * 32 * 32) ** -0.5)
    is_uniform(blocks["attention"]["qkv"]["kernel"], (6 / (4 * 768)) ** 0.5)
    is_uniform(blocks["attention"]["out"]["kernel"], 768**-0.5)
    is_uniform(blocks["fc"]["kernel"], 768**-0.5)
    is_uniform(blocks["fc"]["bias"], 768**-0.5)
    is_uniform(blocks["proj"]["kernel"], 3072**-0.5)
    is_uniform(texts["fc"]["bias"], 512**-0.5)
    assert not blocks["attention"]["qkv"]["bias"].any()
    assert not texts["attention"]["out"]["bias"].any()
    assert not jnp.allclose(blocks["fc"]["kernel"][0], blocks["fc"]["kernel"][1])


def test_sincos_positions_make_neighbours_alike():
    c = model_config(vision={"position_init": "sincos", "patch_size": 2})
    positions = np.array(init(clip.build(c))["params"]["image_tower"]["position_embedding"])
    assert positions.shape == (65, 32)
    grid = positions[1:].reshape(8, 8, 32)
    unit_rows = grid / np.linalg.norm(grid, axis=-1, keepdims=True)

    def likeness(dy, dx):
        return float((unit_rows[0, 0] * unit_rows[dy, dx]).sum())

    assert likeness(0, 1) == pytest.approx(likeness(1, 0), rel=1e-5)
    assert likeness(0, 1) > likeness(0, 4)
    assert likeness(1, 0) > likeness(4, 0)
    # Every position is its own.
    assert len(np.unique(positions.round(4), axis=0)) == 65


def test_pixel_statistics_come_from_the_config():
    c = model_config(image_mean=(1.0, 1.0, 1.0), image_std=(0.5, 0.5, 0.5))
    model = clip.build(c)
    variables = init(model)
    _, tokens = batch()
    white, zeros = np.full((4, 16, 16, 3), 255, np.uint8), np.zeros((4, 16, 16, 3), np.float32)
    np.testing.assert_allclose(
        apply(model, variables, white, tokens)[0],
        apply(model, variables, zeros, tokens)[0],
        atol=1e-5,
    )


def test_wrong_image_size_is_named():
    model = clip.build(model_config())
    _, tokens = batch()
    with pytest.raises(ValueError, match="image_size=16"):
        apply(model, init(model), np.zeros((4, 8, 8, 3), np.uint8), tokens)


@dataclasses.dataclass(frozen=True)
class MeanColorConfig:
    image_size: int = 16
    width: int = 3
    num_heads: int = 1


class MeanColor(nn.Module):
    embed_dim: int

    @nn.compact
    def __call__(self, images, train=False, microbatch=None):
        return nn.Dense(self.embed_dim)(images.mean((1, 2)))


def test_an_image_tower_of_ones_own(monkeypatch):
    monkeypatch.setitem(
        clip.IMAGE_TOWERS, MeanColorConfig, lambda model, options: MeanColor(options["embed_dim"])
    )
    variant = dataclasses.replace(variants.VARIANTS["ViT-Test/8"], vision=MeanColorConfig())
    monkeypatch.setitem(variants.VARIANTS, "MeanColor", variant)
    c = config_lib.defaults().model
    c.variant, c.dtype = "MeanColor", "float32"
    model = clip.build(c)
    images, tokens = np.zeros((2, 16, 16, 3), np.uint8), np.ones((2, 8), np.int32)
    made = jax.eval_shape(
        lambda key: model.apply(model.init(key, images, tokens), images, tokens), jax.random.key(0)
    )
    assert made.image_emb.shape == (2, 16)
    c.patch_dropout = 0.5
    with pytest.raises(ValueError, match=r"patch_dropout=0.5 is set, .* is a MeanColor"):
        clip.build(c)
