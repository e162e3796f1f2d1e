"""Every layout written, and read again to the same bytes."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from clip_jax.interop import weights
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.torch import weight_file
from clip_jax.interop.write import losses, write

# What each layout can hold.
LEGAL = {
    "clip_jax": ("vit", "gelu", "resnet", "siglip"),
    "openai": ("vit", "resnet"),
    "open_clip": ("vit", "gelu", "resnet"),
    "hugging_face": ("vit", "gelu", "siglip"),
    "big_vision": ("siglip",),
}


NAMES = {"openai": "model.pt", "big_vision": "model.npz"}


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(("layout", "name"), [(k, n) for k, v in LEGAL.items() for n in v])
def test_written_and_read_again(tmp_path, layout, name, made):
    first = made(name)
    path = write(tmp_path / NAMES.get(layout, "folder"), first, layout)
    lone = {"layout": layout} if layout == "openai" else {}
    again = weights.read(path, **lone)
    assert again.config == first.config
    assert again.preprocess == first.preprocess
    assert again.layout == layout
    assert equal(dict(again.variables), first.variables)
    second = write(tmp_path / ("again" + path.suffix), again, layout)
    assert stored(second) == stored(path)


def test_files_can_be_read_by_others(tmp_path, made):
    (tmp_path / "plain").touch()
    path = write(tmp_path / "folder", made("vit"), "clip_jax")
    for file in path.iterdir():
        assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def stored(path):
    """Name -> dtype, shape and bytes of every tensor that lies at a path."""
    from clip_jax.interop import files

    return {k: (v.dtype, v.shape, v.tobytes()) for k, v in files.find(path).tensors.items()}


@pytest.mark.parametrize(
    ("layout", "name"), [(k, n) for k, v in LEGAL.items() for n in LEGAL["clip_jax"] if n not in v]
)
def test_what_a_layout_cannot_hold_is_refused_and_nothing_written(tmp_path, layout, name, made):
    with pytest.raises(LayoutError):
        write(tmp_path / NAMES.get(layout, "folder"), made(name), layout)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_half_precision_is_openais(tmp_path, name, made):
    path = write(tmp_path / "model.pt", made(name), "openai", "float16")
    found = weight_file.read(path)
    wide = {k for k, v in found.items() if v.dtype == np.float32}
    assert all("ln_" in k or "bn" in k or "embedding" in k or k == "logit_scale"
               or ".downsample.1." in k for k in wide), wide  # fmt: skip
    assert found["text_projection"].dtype == np.float16
    assert found["transformer.resblocks.0.attn.in_proj_bias"].dtype == np.float16
    assert "token_embedding.weight" in wide and "positional_embedding" in wide


def test_big_visions_names_and_shapes(tmp_path, made):
    """Against Hugging Face's file of the same model, by what transformers' conversion of SigLIP
    did to each kind of tensor."""
    model = made("siglip")
    theirs = load_file(write(tmp_path / "hf", model, "hugging_face") / "model.safetensors")
    with np.load(write(tmp_path / "model.npz", model, "big_vision")) as file:
        ours = dict(file)
    for tower, prefix in (("vision", "img/Transformer"), ("text", "txt/Encoder_0")):
        for i in range(2):
            block, layer = f"params/{prefix}/encoderblock_{i}", f"{tower}_model.encoder.layers.{i}"
            for p in ("query", "key", "value", "out"):
                name = f"{block}/MultiHeadDotProductAttention_0/{p}"
                kernel, bias = ours[f"{name}/kernel"], ours[f"{name}/bias"]
                assert kernel.ndim == 3 and bias.ndim == (1 if p == "out" else 2)
                other = f"{layer}.self_attn.{'out_proj' if p == 'out' else p[0] + '_proj'}"
                flat = kernel.reshape(-1, 64) if p == "out" else kernel.reshape(64, -1)
                np.testing.assert_array_equal(flat.T, theirs[f"{other}.weight"])
                np.testing.assert_array_equal(bias.reshape(-1), theirs[f"{other}.bias"])
            for p, other in (("MlpBlock_0/Dense_0", "mlp.fc1"), ("MlpBlock_0/Dense_1", "mlp.fc2")):
                kernel = ours[f"{block}/{p}/kernel"]
                np.testing.assert_array_equal(kernel.T, theirs[f"{layer}.{other}.weight"])
            for p, other in (("LayerNorm_0", "layer_norm1"), ("LayerNorm_1", "layer_norm2")):
                scale = ours[f"{block}/{p}/scale"]
                np.testing.assert_array_equal(scale, theirs[f"{layer}.{other}.weight"])
    patches = ours["params/img/embedding/kernel"].transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(patches, theirs["vision_model.embeddings.patch_embedding.weight"])
    for name, other in (
        ("img/pos_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("txt/pos_embedding", "text_model.embeddings.position_embedding.weight"),
    ):
        assert ours[f"params/{name}"].shape[0] == 1
        np.testing.assert_array_equal(ours[f"params/{name}"][0], theirs[other])
    for name, other in (
        ("img/Transformer/encoder_norm/scale", "vision_model.post_layernorm.weight"),
        ("txt/Encoder_0/encoder_norm/bias", "text_model.final_layer_norm.bias"),
        ("txt/Embed_0/embedding", "text_model.embeddings.token_embedding.weight"),
        ("t", "logit_scale"),
        ("b", "logit_bias"),
    ):
        np.testing.assert_array_equal(ours[f"params/{name}"], theirs[other])


@pytest.mark.parametrize(("layout", "name"), [("openai", "vit"), ("big_vision", "siglip")])
def test_preprocessing_that_a_layout_does_not_say_is_refused(tmp_path, made, layout, name):
    model = made(name)
    changed = dataclasses.replace(model.preprocess, mean=(0.1, 0.2, 0.3))
    with pytest.raises(
        LayoutError, match=r"another way than this model's \(mean=\[0.1, 0.2, 0.3\]"
    ):
        write(tmp_path / NAMES[layout], dataclasses.replace(model, preprocess=changed), layout)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["vit", "siglip"])
def test_half_precision_of_hugging_face_is_that_of_all_tensors(tmp_path, made, name):
    path = write(tmp_path / "folder", made(name), "hugging_face", "float16")
    kinds = {v.dtype for v in load_file(path / "model.safetensors").values()}
    assert kinds == {np.dtype(np.float16)}
    again = write(tmp_path / "again", weights.read(path), "hugging_face", "float16")
    assert stored(again) == stored(path)


def test_what_a_layout_does_not_hold_is_said(tmp_path, made):
    model = made("siglip")
    white = dataclasses.replace(model.preprocess, transparency="white")
    model = dataclasses.replace(model, preprocess=white)
    assert losses(model, "big_vision") == ["that transparent images are shown on white"]
    assert losses(model, "hugging_face") == losses(model, "clip_jax") == []


def test_transparency_travels(tmp_path, made):
    model = made("vit")
    white = dataclasses.replace(
        model, preprocess=dataclasses.replace(model.preprocess, transparency="white")
    )
    for layout in ("hugging_face", "open_clip", "clip_jax"):
        again = weights.read(write(tmp_path / layout, white, layout))
        assert again.preprocess == white.preprocess, layout


def test_nothing_is_overwritten(tmp_path, made):
    path = write(tmp_path / "folder", made("vit"), "clip_jax")
    with pytest.raises(LayoutError, match="exists; nothing was written"):
        write(path, made("gelu"), "clip_jax")
    assert weights.read(path).config == made("vit").config
