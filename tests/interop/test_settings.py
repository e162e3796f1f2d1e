"""JSON that others wrote: whatever it holds, one kind of error that names file and key."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from clip_jax.interop import weights
from clip_jax.interop.files import PREPROCESSOR
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.write import write

FILES = {
    "clip_jax": ("clip_jax.json",),
    "open_clip": ("open_clip_config.json",),
    "hugging_face": ("config.json", PREPROCESSOR),
}
TENSORS = {"open_clip": "open_clip_model.safetensors"}
GONE = object()


@pytest.fixture(scope="module")
def folders(made, tmp_path_factory):
    """One folder of each layout, whose settings alone say what the tensors mean."""
    found = {}
    for layout in FILES:
        found[layout] = write(tmp_path_factory.mktemp("made") / layout, made("vit"), layout)
        file = found[layout] / TENSORS.get(layout, "model.safetensors")
        save_file(load_file(file), file)
    return found


def changed(value, path, new):
    """A copy with another value in a place."""
    value = copy.deepcopy(value)
    group = value
    for key in path[:-1]:
        group = group[key]
    if new is GONE:
        del group[path[-1]]
    else:
        group[path[-1]] = new
    return value


def read_with(folder, file, text):
    """Reads a folder while one of its files holds another text."""
    whole = (folder / file).read_text()
    try:
        (folder / file).write_text(text)
        return weights.read(folder)
    finally:
        (folder / file).write_text(whole)


CLIP, HF, OPEN = "clip_jax", "hugging_face", "open_clip"
C, H, O = "clip_jax.json", "config.json", "open_clip_config.json"  # noqa: E741


@pytest.mark.parametrize(
    ("layout", "file", "path", "new", "message"),
    [
        (CLIP, C, ("preprocess",), GONE, "has no preprocess"),
        (CLIP, C, ("preprocess",), None, "preprocess is None"),
        (CLIP, C, ("preprocess", "mean"), "abc", "mean='abc'"),
        (CLIP, C, ("preprocess", "mean"), [10**400, 0, 0], "mean="),
        (CLIP, C, ("model",), None, "model is None"),
        (CLIP, C, ("model", "vision", "width"), "64", "vision.width is '64'"),
        (CLIP, C, ("model", "vision", "width"), True, "vision.width is True"),
        (CLIP, C, ("model", "image_tower"), ["vit"], "image_tower is"),
        (CLIP, C, ("model", "vision"), [], "vision is"),
        (CLIP, C, ("model", "text", "mlp_ratio"), 1e308, r"text.mlp_ratio is 1e\+308"),
        (CLIP, C, ("model", "image_mean"), [0, 0], "image_mean is"),
        (CLIP, C, ("tokenizer",), {"name": "bert", "context_length": 16}, "tokenizer.name is"),
        (CLIP, C, ("tokenizer",), {}, "has no tokenizer.context_length"),
        (CLIP, C, ("tokenizer",), [1], "tokenizer is"),
        (HF, H, ("text_config",), [1, 2], "text_config is"),
        (HF, H, ("model_type",), ["clip"], "model_type is"),
        (HF, H, ("text_config", "hidden_act"), ["gelu"], "text_config.hidden_act is"),
        (HF, H, ("vision_config", "hidden_size"), 0, "vision_config.hidden_size is 0"),
        (HF, H, ("vision_config", "num_attention_heads"), 7, "not divisible by"),
        (HF, H, ("vision_config", "num_attention_heads"), None, "num_attention_heads is None"),
        (HF, H, ("vision_config", "patch_size"), [8, 8], "vision_config.patch_size is"),
        (HF, H, ("vision_config", "layer_norm_eps"), float("nan"), "layer_norm_eps"),
        (HF, H, ("text_config", "eos_token_id"), 96, "the end of text, 96"),
        (HF, H, ("text_config", "max_position_embeddings"), 1, "no room for start and end"),
        (HF, PREPROCESSOR, ("size",), [1], r"size=\[1\]"),
        (HF, PREPROCESSOR, ("image_processor",), [1], "image_processor="),
        (HF, PREPROCESSOR, ("resample",), [3], "resample="),
        (HF, PREPROCESSOR, ("image_processor_type",), "X", "image_processor_type=X"),
        (OPEN, O, ("model_cfg",), None, "model_cfg is None"),
        (OPEN, O, ("model_cfg",), GONE, "model_cfg is None"),
        (OPEN, O, ("model_cfg", "embed_dim"), GONE, "has no model_cfg.embed_dim"),
        (OPEN, O, ("model_cfg", "vision_cfg"), [1], "model_cfg.vision_cfg is"),
        (OPEN, O, ("model_cfg", "vision_cfg", "head_width"), None, "head_width is None"),
        (OPEN, O, ("model_cfg", "vision_cfg", "layers"), [], "layers is"),
        (OPEN, O, ("model_cfg", "vision_cfg", "attentional_pool"), True, "attentional_pool=True"),
        (OPEN, O, ("model_cfg", "text_cfg", "context_length"), None, "context_length is None"),
        (OPEN, O, ("preprocess_cfg",), [1], "preprocess_cfg is"),
        (OPEN, O, ("preprocess_cfg", "interpolation"), "nearest", "interpolation='nearest'"),
        (OPEN, O, ("preprocess_cfg", "size"), {}, None),  # the model's own goes before it
    ],
)
def test_odd_values(folders, layout, file, path, new, message):
    value = changed(json.loads((folders[layout] / file).read_text()), path, new)
    if message is None:
        assert read_with(folders[layout], file, json.dumps(value)).layout == layout
        return
    with pytest.raises(LayoutError, match=message) as error:
        read_with(folders[layout], file, json.dumps(value))
    assert str(folders[layout] / file) in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{", "[1]", "3", "9" * 5000, "", "\ufeff{}", '{"a":' * 60 + "1" + "}" * 60],
)
@pytest.mark.parametrize("layout", FILES)
def test_other_texts(folders, layout, text):
    file = FILES[layout][0]
    with pytest.raises(LayoutError, match=file):
        read_with(folders[layout], file, text)


def test_what_a_preprocessor_and_a_model_disagree_about(folders):
    folder = folders[HF]
    value = json.loads((folder / PREPROCESSOR).read_text())
    value |= {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    with pytest.raises(LayoutError, match=rf"{PREPROCESSOR} makes images of 48 px.*32 px") as e:
        read_with(folder, PREPROCESSOR, json.dumps(value))
    assert "config.json" in str(e.value) and "clip_jax.convert --image-size=48" in str(e.value)


@pytest.mark.parametrize("given", [49407, None, GONE])
def test_an_end_of_text_that_siglip_does_not_have(made, tmp_path, given):
    """transformers writes CLIP's into the settings of models with 32,000 ids."""
    folder = write(tmp_path / "hf", made("siglip"), "hugging_face")
    value = json.loads((folder / "config.json").read_text())
    value = changed(value, ("text_config", "eos_token_id"), given)
    assert read_with(folder, "config.json", json.dumps(value)).config.text.eot_id == 1


def places(value, path=()):
    """Every place in a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield from places(inner, (*path, key)) if isinstance(inner, dict | list) else [(*path, key)]


ODD = [
    GONE, None, True, False, 0, -1, 1, 2, 2**31, 10**400, 0.5, 1e308, float("inf"), float("nan"),
    "", "x", "gelu", [], [1], [None], [[1]], ["x"], [1, 2, 3], {}, {"x": 1}, {"width": None},
]  # fmt: skip


@pytest.mark.parametrize(("layout", "file"), [(k, f) for k, files in FILES.items() for f in files])
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_value_in_any_place(folders, layout, file, data):
    value = json.loads((folders[layout] / file).read_text())
    path = data.draw(st.sampled_from(sorted(places(value), key=repr)))
    new = data.draw(st.sampled_from(ODD))
    try:
        read_with(folders[layout], file, json.dumps(changed(value, path, new)))
    except (LayoutError, FileNotFoundError) as error:
        assert str(folders[layout]) in str(error)
