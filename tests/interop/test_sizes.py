"""Sizes that files claim: heads are never guessed, and nothing is built on a claim alone."""

import dataclasses
import json
import resource
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clip_jax.interop import mapping, tree, weights
from clip_jax.interop.formats import hugging_face, open_clip, openai
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.torch import weight_file
from clip_jax.interop.write import write
from clip_jax.models.variants import VARIANTS

HUGE = ["ViT-H/14", "ViT-g/14", "ViT-bigG/14"]


def placeholders(name):
    """Tensors without memory of a whole named variant in open_clip's layout."""
    config = VARIANTS[name]
    shapes = mapping.foreign_shapes(openai.entries(config), tree.flatten(tree.shapes(config)))
    return {k: np.broadcast_to(np.float32(0), s) for k, s in shapes.items()}


@pytest.mark.parametrize("name", [*HUGE, "ViT-B/32", "ViT-L/14@336", "RN50x4", "ViT-Test/8"])
def test_heads_of_a_lone_file_are_those_of_the_known_model(name):
    inferred = openai.infer(placeholders(name), VARIANTS[name].activation)
    assert open_clip.with_known_heads(inferred, "x") == VARIANTS[name]
    # OpenAI's rule would be wrong for these.
    assert (inferred == VARIANTS[name]) == (name not in [*HUGE, "ViT-Test/8"])


def test_heads_that_nothing_tells(tmp_path, made):
    path = write(tmp_path / "folder", made("gelu"), "open_clip") / "open_clip_model.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(LayoutError, match=r"folder with open_clip_config.json.*heads=\(image, te"):
        weights.read(path, layout="open_clip")
    hints = weights.read(path, layout="open_clip", heads=(8, 2)).config
    assert (hints.vision.num_heads, hints.text.num_heads) == (8, 2)
    with pytest.raises(LayoutError, match="not divisible by model.vision.num_heads=7"):
        weights.read(path, layout="open_clip", heads=(7, 2))
    with pytest.raises(LayoutError, match="vision.num_heads is 0"):
        weights.read(path, layout="open_clip", heads=(0, 2))


@pytest.mark.parametrize(
    ("layout", "name", "message"),
    [
        ("clip_jax", "vit", "heads is decided by clip_jax.json"),
        ("open_clip", "vit", "heads is decided by open_clip_config.json"),
        ("hugging_face", "vit", r"heads is decided by config.json \(hidden_act, num_attention_h"),
        ("openai", "vit", r"OpenAI's are 64 wide, which makes \(1, 1\)"),
        ("big_vision", "siglip", "heads is decided by the tensors"),
    ],
)
def test_heads_that_files_tell_cannot_be_said(tmp_path, made, layout, name, message):
    names = {"openai": "model.pt", "big_vision": "model.npz"}
    path = write(tmp_path / names.get(layout, "folder"), made(name), layout)
    with pytest.raises(LayoutError, match=message):
        weights.read(path, layout=layout, heads=(2, 2))


@pytest.mark.parametrize("name", [n for n, c in VARIANTS.items() if c.text.pool == "eot"])
def test_open_clips_settings_are_stable(name):
    """Config to JSON and back, for all that a hidden width and its rounded ratio can do."""
    config = dataclasses.replace(VARIANTS[name], activation="gelu")
    if getattr(config.vision, "stem", ()):
        config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, stem=()))
    written = open_clip.to_json(config)
    again = open_clip.from_json(json.loads(json.dumps(written)), "x")
    assert again == config
    assert open_clip.to_json(again) == written
    v, t = written["vision_cfg"], written["text_cfg"]
    assert int(t["width"] * t["mlp_ratio"]) == config.text.mlp_width
    # As in open_clip's own model files.
    own = {"ViT-g/14": 4.3637, "ViT-bigG/14": 4.9231}.get(name, 4.0)
    assert v.get("mlp_ratio", 4.0) == own
    if "mlp_ratio" in v:
        assert int(v["width"] * v["mlp_ratio"]) == config.vision.mlp_width


def test_any_hidden_width_survives_open_clips_rounding():
    base = VARIANTS["ViT-B/32"]
    for width, hidden in ((1152, 4304), (768, 3071), (96, 291), (1408, 6143), (64, 1)):
        vision = dataclasses.replace(
            base.vision, width=width, num_heads=1, mlp_ratio=hidden / width
        )
        config = dataclasses.replace(base, vision=vision, activation="gelu")
        written = open_clip.to_json(config)
        ratio = written["vision_cfg"]["mlp_ratio"]
        assert int(width * ratio) == hidden  # what open_clip makes of it
        assert open_clip.from_json(written, "x") == config


@pytest.mark.parametrize("name", HUGE)
def test_readers_and_variants_agree(name):
    config = VARIANTS[name]
    assert hugging_face.from_json(hugging_face.to_json(config), "x") == config
    inferred = openai.infer(placeholders(name), config.activation)
    assert inferred.vision.mlp_ratio == config.vision.mlp_ratio


def without(tensors, *names):
    return {k: np.array(v) for k, v in tensors.items() if k not in names}


@pytest.mark.parametrize("gone", ["visual.proj", "text_projection", "positional_embedding",
                                  "visual.conv1.weight", "visual.class_embedding",
                                  "visual.positional_embedding", "token_embedding.weight",
                                  "transformer.resblocks.0.mlp.c_fc.weight"])  # fmt: skip
def test_all_problems_of_openais_layout_in_one_error(tmp_path, made, gone):
    whole = weight_file.read(write(tmp_path / "model.pt", made("vit"), "openai"))
    bad = without(whole, gone, "ln_final.bias") | {"extra": np.zeros(2, np.float32)}
    bad["visual.ln_post.weight"] = np.zeros(65, np.float32)
    path = tmp_path / "bad.pt"
    weight_file.write(path, bad)
    with pytest.raises(LayoutError) as error:
        weights.read(path, layout="openai")
    text = str(error.value)
    assert str(path) in text and "4 tensor(s) do not fit the model" in text, text
    for line in (f"missing: {gone} ", "missing: ln_final.bias [64]", "left over: extra [2]",
                 "misshapen: visual.ln_post.weight is [65], the model has [64]"):  # fmt: skip
        assert line in text, text


def test_all_problems_of_a_resnet_in_one_error(tmp_path, made):
    whole = weight_file.read(write(tmp_path / "model.pt", made("resnet"), "openai"))
    bad = without(whole, "visual.layer1.0.conv1.weight", "visual.attnpool.positional_embedding")
    path = tmp_path / "bad.pt"
    weight_file.write(path, bad)
    with pytest.raises(LayoutError, match="2 tensor") as error:
        weights.read(path, layout="openai")
    assert "missing: visual.layer1.0.conv1.weight [8, 8, 1, 1]" in str(error.value)


def test_all_problems_of_big_vision_in_one_error(tmp_path, made):
    path = write(tmp_path / "model.npz", made("siglip"), "big_vision")
    bad = dict(np.load(path))
    del bad["params/txt/pos_embedding"], bad["params/txt/head/bias"]
    bad["params/img/embedding/kernel"] = np.zeros((), np.float32)
    bad["params/img/Transformer/encoderblock/x"] = np.zeros((10**12, 0), np.float32)
    np.savez(path, **bad)
    with pytest.raises(LayoutError, match="4 tensor") as error:
        weights.read(path)
    text = str(error.value)
    assert str(path) in text and "misshapen: params/img/embedding/kernel is []" in text
    assert "missing: params/txt/pos_embedding" in text
    assert "missing: params/txt/head/bias [64]" in text
    assert "left over: params/img/Transformer/encoderblock/x" in text


def test_axes_of_one_are_no_difference(tmp_path, made):
    path = write(tmp_path / "model.pt", made("vit"), "openai")
    tensors = dict(weight_file.read(path))
    for name in ("visual.conv1.weight", "text_projection"):
        tensors[name] = np.array(tensors[name])[..., None]
    weight_file.write(path, tensors)
    again = weights.read(path, layout="openai").variables["params"]["image_tower"]
    want = made("vit").variables["params"]["image_tower"]
    np.testing.assert_array_equal(
        again["patch_embedding"]["kernel"], want["patch_embedding"]["kernel"]
    )


def cheap(read):
    """Runs what should fail early; the seconds and the new megabytes that it took."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LayoutError) as error:
        read()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert time.monotonic() - start < 5 and grown < 200 * 1024
    return str(error.value)


def test_the_number_of_a_block_claims_nothing(tmp_path, made):
    path = write(tmp_path / "model.pt", made("vit"), "openai")
    far = {
        f"visual.transformer.resblocks.{n}.ln_1.bias": np.zeros(1, np.float32)
        for n in (60000, 10**9, "9" * 5000)
    }
    weight_file.write(path, dict(weight_file.read(path)) | far)
    text = cheap(lambda: weights.read(path, layout="openai"))
    assert "3 tensor(s) do not fit" in text and "left over: visual.transformer.resblocks.60" in text


def test_many_small_blocks(tmp_path, made):
    path = write(tmp_path / "folder", made("vit"), "hugging_face") / "model.safetensors"
    many = {f"visual.transformer.resblocks.{n}.x": np.zeros(4, np.float32) for n in range(20_000)}
    save_file(many, path)
    assert "blocks cannot be made of" in cheap(lambda: weights.read(path, layout="openai"))


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("vision_config", "num_hidden_layers", 10**6),
        ("text_config", "num_hidden_layers", 65),
        ("vision_config", "hidden_size", 2**30),
        ("vision_config", "intermediate_size", 2**31 - 1),
        ("vision_config", "image_size", 10**9),
        ("text_config", "max_position_embeddings", 10**8),
        ("text_config", "vocab_size", 10**9),
    ],
)
def test_settings_claim_nothing(tmp_path, made, group, key, value):
    folder = write(tmp_path / "folder", made("vit"), "hugging_face")
    settings = json.loads((folder / "config.json").read_text())
    settings[group][key] = value
    (folder / "config.json").write_text(json.dumps(settings))
    text = cheap(lambda: weights.read(folder))
    assert "config.json" in text and "tensors" in text
