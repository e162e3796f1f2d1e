"""Weights of every layout read, with what belongs to them."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clip_jax.data.preprocess import Preprocess
from clip_jax.interop import weights
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.torch import weight_file
from clip_jax.interop.write import write
from clip_jax.models.clip import ClipModel
from clip_jax.models.variants import VARIANTS


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def stored(path):
    """Name -> dtype, shape and bytes of every tensor that lies at a path."""
    from clip_jax.interop import files

    return {k: (v.dtype, v.shape, v.tobytes()) for k, v in files.find(path).tensors.items()}


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


@functools.cache  # several files hold one model
def features(config):
    """Jitted features of images and of texts."""
    model = ClipModel(config)
    return [
        jax.jit(lambda v, x, method=method: model.apply(v, x, method=method))
        for method in ("image_features", "text_features")
    ]


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
    of_images, of_texts = features(found.config)
    images, tokens = inputs["images"][:8].transpose(0, 2, 3, 1), inputs["text"][:8]
    with jax.default_matmul_precision("highest"):
        image, text = of_images(found.variables, images), of_texts(found.variables, tokens)
    np.testing.assert_allclose(image, want["image_features"], atol=2e-5, rtol=0)
    np.testing.assert_allclose(text, want["text_features"], atol=2e-5, rtol=0)


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


def test_a_lone_file_of_our_own_or_of_hugging_face_wants_its_settings(tmp_path, made):
    for layout, wanted in (("clip_jax", "clip_jax.json"), ("hugging_face", "config.json")):
        path = write(tmp_path / layout, made("vit"), layout)
        with pytest.raises(LayoutError, match=wanted):
            weights.read(path / "model.safetensors")


def test_our_own_folder_notices_what_was_changed(tmp_path, made):
    path = write(tmp_path / "folder", made("vit"), "clip_jax")
    settings = json.loads((path / "clip_jax.json").read_text())
    settings["model"]["activation"] = "gelu"
    (path / "clip_jax.json").write_text(json.dumps(settings))
    with pytest.raises(LayoutError, match="the folder was changed since it was written"):
        weights.read(path)


@pytest.mark.parametrize(
    ("layout", "file", "old", "new", "message"),
    [
        ("hugging_face", "config.json", '"quick_gelu"', '"gelu"',
         "activation is 'gelu', but it was written as 'quick_gelu'"),
        ("hugging_face", "preprocessor_config.json", "0.48145466", "0.5", "preprocess.mean is"),
        ("open_clip", "open_clip_config.json", '"quick_gelu": true', '"quick_gelu": false',
         "activation is 'gelu'"),
    ],
)  # fmt: skip
def test_other_layouts_folders_too(tmp_path, made, layout, file, old, new, message):
    """What the tensors' file says of itself and the settings beside it must agree."""
    path = write(tmp_path / "folder", made("vit"), layout)
    assert weights.read(path).config.activation == "quick_gelu"
    text = (path / file).read_text()
    assert old in text
    (path / file).write_text(text.replace(old, new))
    with pytest.raises(LayoutError, match=message):
        weights.read(path)


def test_a_file_taken_out_of_its_folder_still_tells(tmp_path, made):
    model = made("vit")
    own = dataclasses.replace(model.preprocess, mean=(0.1, 0.2, 0.3), transparency="white")
    folder = write(tmp_path / "folder", dataclasses.replace(model, preprocess=own), "open_clip")
    alone = tmp_path / "alone.safetensors"
    (folder / "open_clip_model.safetensors").rename(alone)
    found = weights.read(alone)
    assert (found.layout, found.config.activation) == ("open_clip", "quick_gelu")
    assert found.preprocess == own
    with pytest.raises(LayoutError, match="activation is 'gelu', but it was written as 'quick"):
        weights.read(alone, activation="gelu")


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_survives_its_description(name):
    config = VARIANTS[name]
    assert weights.model_from_dict(weights.model_to_dict(config), "x") == config
    with pytest.raises(LayoutError, match="not the description of a model"):
        weights.model_from_dict({**weights.model_to_dict(config), "more": 1}, "x")
    assert dataclasses.asdict(config)


# Of a clip_jax.json that was written before the fields were called num_heads and num_layers.
STORED = """
{"embed_dim": 16, "vision": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 2,
"heads": 4, "mlp_ratio": 4.0, "position_init": "normal", "stem": [], "pool": "class"},
"text": {"width": 32, "layers": 2, "heads": 4, "context_length": 8, "vocab_size": 64,
"eot_id": 63, "mlp_ratio": 4.0, "causal": true, "pool": "eot"}, "activation": "quick_gelu",
"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258,
0.27577711], "norm_epsilon": 1e-05, "logit_bias": false, "image_tower": "vit"}
"""


def test_old_descriptions_are_read_and_fingerprints_stay():
    stored, config = json.loads(STORED), VARIANTS["ViT-Test/8"]
    assert weights.model_from_dict(stored, "x") == config
    assert weights.model_to_dict(config) == stored
    described = weights.Weights(config, {}, Preprocess(224), None, "clip_jax", "x")
    assert described.fingerprint == (
        "e01d5ee4eda5eb231505e8a199d225c602b0b771ba47ee9d7f8b6b5c3c91def2"
    )
