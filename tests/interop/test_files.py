"""Files and folders of weights: divided, in two layouts, damaged or absent."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clip_jax.interop import weights
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.torch import weight_file
from clip_jax.interop.write import write

NAMES = {"openai": "model.pt", "big_vision": "model.npz"}


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


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


@pytest.mark.parametrize("layout", ["hugging_face", "open_clip", "clip_jax"])
def test_flipped_bits_are_noticed(tmp_path, made, layout):
    path = write(tmp_path / "folder", made("vit"), layout)
    file = next(path.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1000] ^= 0x04
    file.write_bytes(data)
    with pytest.raises(LayoutError, match=rf"{file.name} is damaged"):
        weights.read(path)


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


def test_a_missing_path_and_a_folder_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        weights.read(tmp_path / "none.pt")
    with pytest.raises(LayoutError, match="none of clip_jax.json, open_clip_config.json"):
        weights.read(tmp_path)
