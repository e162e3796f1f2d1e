"""Files that were changed, cut short or described by an older version: noticed, or read."""

import dataclasses
import json

import pytest

from clip_jax.data.preprocess import Preprocess
from clip_jax.interop import weights
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.torch import weight_file
from clip_jax.interop.write import write
from clip_jax.models.variants import VARIANTS

NAMES = {"openai": "model.pt", "big_vision": "model.npz"}


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


@pytest.mark.parametrize(("layout", "name"), [("openai", "vit"), ("big_vision", "siglip")])
def test_preprocessing_that_a_layout_does_not_say_is_refused(tmp_path, made, layout, name):
    model = made(name)
    changed = dataclasses.replace(model.preprocess, mean=(0.1, 0.2, 0.3))
    with pytest.raises(
        LayoutError, match=r"another way than this model's \(mean=\[0.1, 0.2, 0.3\]"
    ):
        write(tmp_path / NAMES[layout], dataclasses.replace(model, preprocess=changed), layout)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["hugging_face", "open_clip", "clip_jax"])
def test_flipped_bits_are_noticed(tmp_path, made, layout):
    path = write(tmp_path / "folder", made("vit"), layout)
    file = next(path.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1000] ^= 0x04
    file.write_bytes(data)
    with pytest.raises(LayoutError, match=rf"{file.name} is damaged"):
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


@pytest.mark.parametrize("keep", [0, 9, 200, 0.5, -1])
@pytest.mark.parametrize("layout", ["openai", "hugging_face", "big_vision"])
def test_truncated_files(tmp_path, layout, keep, made):
    name = "siglip" if layout == "big_vision" else "vit"
    path = write(tmp_path / NAMES.get(layout, "folder"), made(name), layout)
    file = path / "model.safetensors" if path.is_dir() else path
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises((LayoutError, weight_file.WeightFileError), match=file.name):
        weights.read(path, layout=layout)


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
