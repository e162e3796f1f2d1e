"""Every layout read, and written back to the same bytes."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clip_jax.interop import weights
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.torch import weight_file
from clip_jax.interop.write import losses, write
from clip_jax.models.clip import ClipModel

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


def test_published_archives(goldens, tmp_path):
    """One model in five files: all give the same numbers, and come back to the same bytes."""
    folder = goldens / "A_model" / "import_vit"
    archive = weights.read(folder / "openai_jit_fp16.pt")
    assert (archive.layout, archive.config.activation) == ("openai", "quick_gelu")
    heads = (archive.config.vision.num_heads, archive.config.text.num_heads)
    others = [
        weights.read(folder / "openai_plain_fp32.pt", layout="openai"),
        weights.read(folder / "openclip_train_ckpt.pt", activation="quick_gelu", heads=heads),
        weights.read(folder / "hf"),
    ]
    for other in others:
        assert other.config == archive.config
        assert equal(other.variables, archive.variables)
    back = weight_file.read(write(tmp_path / "back.pt", archive, "openai", "float16"))
    original = weight_file.read(folder / "openai_jit_fp16.pt")
    for key, array in back.items():
        assert (array.dtype, array.tobytes()) == (original[key].dtype, original[key].tobytes()), key
    assert original.keys() == back.keys()
    hugging_face = write(tmp_path / "hf", archive, "hugging_face")
    assert stored(hugging_face) == stored(folder / "hf")


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("import_vit/openai_jit_fp16.pt", {}),
        ("import_vit/openai_plain_fp32.pt", {"layout": "openai"}),
        ("import_vit/hf", {}),
        ("import_rn/openai_jit_fp16.pt", {}),
        ("import_rn/openclip_plain.pt", {"activation": "quick_gelu", "heads": (2, 1)}),
    ],
)
def test_published_files_give_the_published_features(goldens, file, options):
    folder = goldens / "A_model" / file.split("/")[0]
    inputs, want = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    found = weights.read(folder.parent / file, **options)
    model = ClipModel(found.config)
    images, tokens = inputs["images"][:8].transpose(0, 2, 3, 1), inputs["text"][:8]
    with jax.default_matmul_precision("highest"):
        image = jax.jit(lambda v: model.apply(v, images, method="image_features"))(found.variables)
        text = jax.jit(lambda v: model.apply(v, tokens, method="text_features"))(found.variables)
    np.testing.assert_allclose(image, want["image_features"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(text, want["text_features"], atol=2e-5, rtol=0)


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


def test_published_resnets(goldens, tmp_path):
    folder = goldens / "A_model" / "import_rn"
    archive = weights.read(folder / "openai_jit_fp16.pt")
    heads = (archive.config.vision.num_heads, archive.config.text.num_heads)
    plain = weights.read(folder / "openclip_plain.pt", activation="quick_gelu", heads=heads)
    assert plain.config == archive.config
    assert equal(plain.variables, archive.variables)
    path = write(tmp_path / "back.pt", archive, "openai", "float16")
    back, original = weight_file.read(path), weight_file.read(folder / "openai_jit_fp16.pt")
    same = [k for k in back if not k.endswith("num_batches_tracked")]
    assert same
    for key in same:
        assert (back[key].dtype, back[key].tobytes()) == (
            original[key].dtype,
            original[key].tobytes(),
        ), key


def test_a_lone_file_that_does_not_tell_its_activation(tmp_path, made):
    path = write(tmp_path / "whole.pt", made("vit"), "openai")
    assert weights.read(path).layout == "openai"
    scalars = ("input_resolution", "context_length", "vocab_size")
    tensors = {k: v for k, v in weight_file.read(path).items() if k not in scalars}
    path = tmp_path / "model.pt"
    weight_file.write(path, tensors)
    with pytest.raises(LayoutError, match=r"layout='openai' \(QuickGELU\)"):
        weights.read(path)
    lone = {"heads": (1, 1)}
    assert weights.read(path, layout="open_clip", **lone).config.activation == "gelu"
    assert weights.read(path, activation="quick_gelu", **lone).config.activation == "quick_gelu"
    with pytest.raises(LayoutError, match="OpenAI's weights were trained with QuickGELU"):
        weights.read(path, layout="openai", activation="gelu")


def test_all_problems_are_listed(tmp_path, made):
    path = write(tmp_path / "folder", made("vit"), "hugging_face")
    file = path / "model.safetensors"
    tensors = load_file(file)
    tensors["extra.weight"] = np.zeros(3, np.float32)
    del tensors["visual_projection.weight"]
    tensors["logit_scale"] = np.array(np.nan, np.float32)
    tensors["text_model.final_layer_norm.bias"] = np.zeros(65, np.float32)
    save_file(tensors, file)
    with pytest.raises(LayoutError) as error:
        weights.read(path)
    text = str(error.value)
    assert str(path) in text and "4 tensor(s)" in text
    assert "missing: visual_projection.weight [24, 64]" in text
    assert "left over: extra.weight [3]" in text
    assert "not finite: logit_scale" in text
    assert "misshapen: text_model.final_layer_norm.bias is [65], the model has [64]" in text


def test_a_divided_file(tmp_path, made):
    whole = write(tmp_path / "folder", made("vit"), "hugging_face")
    tensors = load_file(whole / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for part, members in parts.items():
        save_file({n: tensors[n] for n in members}, whole / part)
    index = {"weight_map": {n: p for p, members in parts.items() for n in members}}
    (whole / "model.safetensors.index.json").write_text(json.dumps(index))
    (whole / "model.safetensors").unlink()
    assert equal(weights.read(whole).variables, made("vit").variables)
    (whole / "model-2-of-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names model-2-of-2.safetensors"):
        weights.read(whole)


@pytest.mark.parametrize("part", ["model.safetensors.index.json", 1, ["a"], None, "..", "x.pt",
                                  "../model.safetensors", "/model.safetensors"])  # fmt: skip
def test_parts_that_are_none(tmp_path, made, part):
    folder = write(tmp_path / "folder", made("vit"), "hugging_face")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, part)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LayoutError, match="index.json: "):
        weights.read(folder)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors",
                                  "pytorch_model.bin"])  # fmt: skip
def test_a_folder_in_two_layouts(tmp_path, made, name):
    """As laion's models lie on the hub: both have a file that both could mean."""
    folder = write(tmp_path / "both", made("gelu"), "hugging_face")
    other = write(tmp_path / "other", made("gelu"), "open_clip")
    tensors = load_file(other / "open_clip_model.safetensors")
    (other / "open_clip_config.json").rename(folder / "open_clip_config.json")
    if name.endswith(".bin"):
        weight_file.write(folder / name, tensors)
    else:
        save_file(tensors, folder / name)
    found = weights.read(folder)
    assert found.layout == "open_clip" and equal(found.variables, made("gelu").variables)
    found = weights.read(folder, layout="hugging_face")
    assert found.layout == "hugging_face" and equal(found.variables, made("gelu").variables)
    # Without its file, the settings of the one layout are not for the tensors of the other.
    (folder / name).unlink()
    assert weights.read(folder).layout == "hugging_face"
    with pytest.raises(LayoutError, match="openai' is one file"):
        weights.read(folder, layout="openai")


def test_a_lone_file_of_our_own_or_of_hugging_face_wants_its_settings(tmp_path, made):
    for layout, wanted in (("clip_jax", "clip_jax.json"), ("hugging_face", "config.json")):
        path = write(tmp_path / layout, made("vit"), layout)
        with pytest.raises(LayoutError, match=wanted):
            weights.read(path / "model.safetensors")


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


def test_a_missing_path_and_a_folder_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        weights.read(tmp_path / "none.pt")
    with pytest.raises(LayoutError, match="none of clip_jax.json, open_clip_config.json"):
        weights.read(tmp_path)
