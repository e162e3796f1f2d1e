"""Whole models against the reference implementations' outputs, gradients and training steps."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from clip_jax import config as config_lib
from clip_jax import losses
from clip_jax.data.batch import Batch
from clip_jax.interop import files, mapping, tree, weights
from clip_jax.interop.formats import openai
from clip_jax.losses import softmax_dense
from clip_jax.models.clip import ClipModel
from clip_jax.models.variants import VARIANTS
from clip_jax.training import optim, step
from clip_jax.training.state import TrainState

FORWARD = ["oai_vit", "oai_rn", "openclip_vit_gelu", "hf_vit"]
TRAINED = ["oai_vit", "oai_rn"]
LARGE = ["oai_vit", "oai_rn", "hf_vit"]  # not in the repository


# How the goldens that are lone files are read: what their tensors do not tell.
HINTS = {
    "oai_vit": {"layout": "openai"},
    "oai_rn": {"layout": "open_clip", "activation": "quick_gelu", "heads": (4, 2)},
    "openclip_vit_gelu": {"layout": "open_clip", "heads": (2, 2)},
}


class Golden:
    """One folder of goldens, its weights read as users read them."""

    def __init__(self, folder):
        self.meta = files.json_file(folder / "meta.json")
        self.inputs, self.outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
        hints = HINTS.get(folder.name)
        found = weights.read(folder / "model.safetensors" if hints else folder, **hints or {})
        self.config, self.variables = found.config, found.variables
        layout = weights.LAYOUTS[found.layout]
        self.entries = layout.entries(self.config)
        self.tensors = layout.weights(load_file(folder / "model.safetensors"))
        self.folder = folder
        self.model = ClipModel(self.config)
        self.images = self.inputs["images"].transpose(0, 2, 3, 1)

    def exported(self, variables):
        return mapping.export_tensors(jax.device_get(variables), self.entries)


@pytest.fixture(scope="module")
def golden(goldens, request):
    cache = {}

    def load(name):
        if name not in cache:
            folder = goldens / "A_model" / name
            if name in LARGE:
                folder = request.getfixturevalue("large_goldens") / "A_model" / name
            cache[name] = Golden(folder)
        return cache[name]

    return load


def forward(g, train=False):
    images, tokens = g.images[:8], g.inputs["text"][:8]

    @jax.jit
    def run(variables):
        features, changed = g.model.apply(
            variables, images, train, method="image_features", mutable=["batch_stats"]
        )
        words = g.model.apply(variables, tokens, method="text_features")
        out, _ = g.model.apply(variables, images, tokens, train=train, mutable=["batch_stats"])
        loss, _ = softmax_dense(out.image_emb, out.text_emb, out.logit_scale)
        return features, words, out.logit_scale * out.image_emb @ out.text_emb.T, loss, changed

    with jax.default_matmul_precision("highest"):
        return jax.device_get(run(g.variables))


@pytest.mark.parametrize("name", FORWARD)
def test_features_and_logits(golden, name):
    g = golden(name)
    image, text, logits, loss, _ = forward(g)
    # The goldens' own rounding (fp32_vs_fp64 in meta.json) is up to 5e-6.
    np.testing.assert_allclose(image, g.outputs["image_features"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(text, g.outputs["text_features"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(logits, g.outputs["logits_per_image"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(loss, g.outputs["loss"], atol=2e-6, rtol=0)


def test_batch_statistics(golden):
    g = golden("oai_rn")
    image, _, logits, loss, changed = forward(g, train=True)
    np.testing.assert_allclose(image, g.outputs["train_image_features"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(logits, g.outputs["train_logits_per_image"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(loss, g.outputs["train_loss"], atol=2e-6, rtol=0)
    after = g.exported({"params": g.variables["params"], **changed})
    seen = 0
    for name in g.outputs.files:
        if name.startswith("bn_after1/") and name.split("/")[1] in after:
            got, want = after[name.split("/")[1]], g.outputs[name]
            np.testing.assert_allclose(got, want, atol=2e-6, rtol=2e-6, err_msg=name)
            seen += 1
    assert seen == sum(n.endswith(("mean", "var")) for n in after)


def ignored(g, name, array):
    """An array without the elements whose true gradient is zero: rounding noise, see goldens."""
    if name not in g.meta["zero_gradient_ranges"]:
        return array
    start, stop = g.meta["zero_gradient_ranges"][name]
    return np.delete(array.reshape(-1), slice(start, stop))


@pytest.mark.parametrize("name", TRAINED)
def test_gradients(golden, name):
    g = golden(name)
    images, tokens = g.images[:8], g.inputs["text"][:8]

    @jax.jit
    def gradients(params):
        def loss(params):
            out, _ = g.model.apply(
                {**g.variables, "params": params}, images, tokens, train=True,
                mutable=["batch_stats"],
            )  # fmt: skip
            return softmax_dense(out.image_emb, out.text_emb, out.logit_scale)[0]

        return jax.grad(loss)(params)

    with jax.default_matmul_precision("highest"):
        found = gradients(g.variables["params"])
    found = g.exported({**g.variables, "params": found})
    wanted = np.load(g.folder / "grads.npz")
    for key in wanted.files:
        want = ignored(g, key, wanted[key])
        got = ignored(g, key, found[key])
        scale = np.abs(want).max(initial=0)
        np.testing.assert_allclose(got, want, atol=1e-4 * scale, rtol=0, err_msg=key)
        assert scale > 0 or key in g.meta["zero_gradient_ranges"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "oai_rn" else ()) for n in TRAINED]
)
def test_ten_adamw_steps(golden, name):
    """Our own train step, with the reference's optimizer settings, from its weights."""
    g = golden(name)
    o = g.meta["optimizer"]
    c = config_lib.defaults().optim
    c.update(learning_rate=o["lr"], beta1=o["betas"][0], beta2=o["betas"][1], eps=o["eps"],
             weight_decay=o["weight_decay"])  # fmt: skip
    tx = _constant_adamw(c, o["lr"])
    pure = step.train_step(
        g.model, tx, lambda s: o["lr"], losses.build("softmax", "dense", None), step.StepOptions()
    )
    state = _state(g, tx)
    one = jax.jit(pure)
    seen = []
    with jax.default_matmul_precision("highest"):
        for rows in g.inputs["step_batches"]:
            state, metrics = one(state, _batch(g, rows))
            seen.append(float(metrics["loss"]))
    np.testing.assert_allclose(seen, g.outputs["train_losses"], rtol=2e-5)
    found = g.exported(state.variables)
    after, start = np.load(g.folder / "params_after10.npz"), g.exported(g.variables)
    for key in after.files:
        moved, want = (ignored(g, key, x[key] - start[key]) for x in (found, after))
        error = np.linalg.norm(moved - want) / max(np.linalg.norm(want), 1e-12)
        # The goldens' own float32 is up to 7e-5 off their float64, relative to the update.
        assert error < 1e-3, (key, error)
        difference = np.abs(ignored(g, key, found[key]) - ignored(g, key, after[key]))
        assert difference.max(initial=0) <= 1e-4 * np.abs(after[key]).max(), key
        assert moved.size == 0 or np.abs(want).max() > 0
    for key in g.outputs.files:
        if key.startswith("bn_after10/") and key.split("/")[1] in found:
            np.testing.assert_allclose(
                found[key.split("/")[1]], g.outputs[key], rtol=1e-4, atol=1e-5, err_msg=key
            )


def _constant_adamw(c, rate):
    """Our optimizer without its schedule; the goldens' decay rule is that of the paper."""
    return optax.chain(
        optim.OPTIMIZERS["adamw"](c, 0),
        optax.add_decayed_weights(c.weight_decay, optim.decay_mask("paper")),
        optax.scale_by_learning_rate(lambda count: rate),
    )


def _state(g, tx):
    params = jax.tree.map(jnp.asarray, g.variables["params"])
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params,
        batch_stats=jax.tree.map(jnp.asarray, g.variables.get("batch_stats", {})),
        opt_state=tx.init(params), ema=None, skipped=jnp.zeros((), jnp.int32),
    )  # fmt: skip


def _batch(g, rows):
    n = len(rows)
    zeros = np.zeros(n, np.int32)
    return Batch(g.images[rows], g.inputs["text"][rows], np.arange(n, dtype=np.int32), zeros, zeros)


@pytest.mark.parametrize("name", FORWARD)
def test_round_trip_gives_the_same_bytes(golden, name):
    g = golden(name)
    back = g.exported(g.variables)
    assert back.keys() == g.tensors.keys()
    for key, array in g.tensors.items():
        assert (back[key].shape, back[key].dtype) == (array.shape, array.dtype), key
        assert back[key].tobytes() == array.tobytes(), key


REAL = ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14",
        "ViT-L/14@336px"]  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_every_tensor_of_the_published_models_has_a_place(goldens, name):
    folder = goldens / "A_model" / "real_size"
    listed = json.loads(gzip.decompress((folder / "state_dict_shapes.json.gz").read_bytes()))[name]
    count = json.loads((folder / "models.json").read_text())[name]["parameters"]
    ours = VARIANTS[name.removesuffix("px")]
    shapes = tree.shapes(ours)
    found = mapping.foreign_shapes(openai.entries(ours), tree.flatten(shapes))
    # A stand-in without memory for each tensor of the listing.
    tensors = {k: np.broadcast_to(np.float32(0), v) for k, v in listed.items()}
    wanted = {k: v.shape for k, v in openai.weights(tensors).items()}
    assert found == wanted
    assert openai.infer(openai.weights(tensors), "quick_gelu") == ours
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == count
