"""The losses by name: what a config chooses, and a loss that somebody adds from outside."""

import jax
import jax.numpy as jnp
import pytest

from clip_jax import config as config_lib
from clip_jax import losses
from clip_jax.models.variants import VARIANTS
from clip_jax.runtime.mesh import create_mesh

MODEL = VARIANTS["ViT-Test/8"]


def make_config(**loss):
    config = config_lib.defaults().copy_and_resolve_references()
    config.train.batch_size = 8
    for key, value in loss.items():
        config.loss[key] = value
    return config


@pytest.fixture
def mesh():
    return create_mesh({"data": 1}, jax.devices()[:1])


def test_auto_names_its_reason(mesh):
    _, described = losses.from_config(make_config(implementation="auto"), MODEL, mesh)
    assert described == "softmax, dense (one batch shard, and its 0 MiB of logits fit)"


def test_the_sigmoid_needs_a_bias(mesh):
    with pytest.raises(ValueError, match=r"needs model\.logit_bias=True"):
        losses.from_config(make_config(name="sigmoid"), MODEL, mesh)


@pytest.mark.parametrize(("name", "implementation"), [("x", "dense"), ("softmax", "x")])
def test_unknown_names_are_listed(mesh, name, implementation):
    with pytest.raises(ValueError, match="softmax: dense, all_gather, ring"):
        losses.build(name, implementation, mesh)


def test_a_loss_from_outside_is_one_line(mesh, monkeypatch):
    """Cosine distance of the pairs: no negatives at all."""

    def pairs_only(mesh, options):
        def loss(image_emb, text_emb, scale, bias, groups=None, topics=None):
            return 1 - (image_emb * text_emb).sum(1).mean(), {"accuracy": jnp.float32(0)}

        return loss

    monkeypatch.setitem(losses.LOSSES, "pairs_only", losses.Loss({"dense": pairs_only}))
    config = make_config(name="pairs_only", implementation="auto")
    loss, described = losses.from_config(config, MODEL, mesh)
    assert described == "pairs_only, dense (its only implementation)"
    emb = jnp.eye(8)
    assert float(loss(emb, emb, 1.0, None)[0]) == 0


def test_what_a_loss_does_not_have_is_named(mesh):
    with pytest.raises(ValueError, match=r"loss\.implementation='ringg'.*all_gather"):
        losses.build("softmax", "ringg", mesh)
    with pytest.raises(ValueError, match=r"loss\.name='sigmoidal'"):
        losses.build("sigmoidal", "ring", mesh)
    with pytest.raises(ValueError, match=r"soft_targets=0.5 needs loss.name='softmax'"):
        losses.build("sigmoid", "ring", mesh, soft=0.5)


@pytest.mark.parametrize(
    ("sizes", "batch", "dim", "want"),
    [
        ({"data": 1}, 256, 512, "dense"),
        ({"data": 1}, 32768, 512, "all_gather"),
        ({"data": 8}, 32768, 512, "all_gather"),
        ({"data": 8}, 1048576, 512, "ring"),
    ],
)
def test_auto_says_why(sizes, batch, dim, want):
    mesh = create_mesh(sizes, jax.devices()[: sizes["data"]])
    implementation, why = losses.choose(mesh, batch, dim, 2)
    assert implementation == want
    assert "MiB" in why


def test_auto_counts_what_soft_targets_need():
    mesh = create_mesh({"data": 8})
    assert losses.choose(mesh, 32768, 512, 2)[0] == "all_gather"
    assert losses.choose(mesh, 32768, 512, 2, losses.MAX_TOPICS)[0] == "ring"
