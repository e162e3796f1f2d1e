"""Loading and using pretrained models: the same numbers however they are fed."""

import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image
from small_clip import small_clip

import clip_jax
from clip_jax.interop.write import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model of CLIP's vocabulary in Hugging Face's layout."""
    return write(tmp_path_factory.mktemp("model") / "hf", small_clip(), "hugging_face")


@pytest.fixture(scope="module")
def clip(folder):
    return clip_jax.load(folder, batch_size=16)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(1)
    sizes = [(40, 33), (32, 32), (64, 48), (35, 90), (50, 50)]
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)) for w, h in sizes]


def test_every_form_of_a_picture_gives_the_same(clip, pictures, tmp_path):
    want = clip.encode_image(pictures)
    assert want.shape == (5, 24) and want.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(want, axis=1), 1, atol=1e-6)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    arrays = [np.asarray(p) for p in pictures]
    ready = np.stack([clip.preprocess(p) for p in pictures])
    for form in (paths, [str(p) for p in paths], [p.read_bytes() for p in paths], arrays, ready):
        np.testing.assert_array_equal(clip.encode_image(form), want)
    np.testing.assert_allclose(clip.encode_image(pictures[2]), want[2:3], atol=1e-6)


def test_numbers_do_not_depend_on_how_rows_are_batched(folder, clip, pictures):
    texts = [f"a photo of thing {i}" for i in range(37)]
    want_texts, want_images = clip.encode_text(texts), clip.encode_image(pictures * 7)
    other = clip_jax.load(folder, batch_size=5, devices=jax.devices()[:1])
    np.testing.assert_allclose(other.encode_text(texts), want_texts, atol=2e-6)
    np.testing.assert_allclose(other.encode_image(pictures * 7), want_images, atol=2e-6)
    assert clip.encode_text([]).shape == (0, 24)
    assert clip.encode_image([]).shape == (0, 24)


def test_equals_the_model_itself(clip, pictures):
    from clip_jax.models.clip import ClipModel

    pixels = np.stack([clip.preprocess(p) for p in pictures])
    tokens = clip.tokenize(["red car", "blue bus"])
    out = jax.jit(ClipModel(clip.config).apply)(dict(clip.weights.variables), pixels, tokens)
    np.testing.assert_allclose(clip.encode_image(pictures), out.image_emb, atol=2e-6)
    np.testing.assert_allclose(clip.encode_text(["red car", "blue bus"]), out.text_emb, atol=2e-6)
    np.testing.assert_allclose(clip.encode_text(tokens), out.text_emb, atol=2e-6)
    np.testing.assert_allclose(
        clip.similarity(pictures, ["red car", "blue bus"]),
        np.asarray(out.image_emb) @ np.asarray(out.text_emb).T,
        atol=2e-6,
    )


def test_classify_is_the_papers_recipe(clip, pictures):
    got = clip.classify(pictures, ["dog", "cat", "bus"], templates=["a photo of a {}.", "art: {}"])
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-6)
    classes = []
    for name in ("dog", "cat", "bus"):
        mean = clip.encode_text([f"a photo of a {name}.", f"art: {name}"]).mean(0)
        classes.append(mean / np.linalg.norm(mean))
    logits = clip.logit_scale * clip.encode_image(pictures) @ np.stack(classes).T
    want = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(got, want / want.sum(1, keepdims=True), atol=1e-5)


def test_few_sizes_are_compiled(clip, pictures):
    clip.encode_image(pictures)
    clip.encode_image(pictures * 4)  # 20 rows: a batch of 16, and 4 rows in a padded one of 8
    with _no_compilation():
        for count in (1, 4, 8, 10, 15, 33):
            assert len(clip.encode_image((pictures * 7)[:count])) == count


class _no_compilation:
    """Fails if JAX compiles anything inside."""

    def __enter__(self):
        from jax import monitoring

        self.count = 0
        self.on = True

        def listen(event, duration, **facts):
            if self.on and "backend_compile" in event:
                self.count += 1

        monitoring.register_event_duration_secs_listener(listen)

    def __exit__(self, *error):
        self.on = False
        if error[0] is None:
            assert self.count == 0


def test_bad_input_is_named(clip, folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"broken.png"):
        clip.encode_image([tmp_path / "broken.png"])
    with pytest.raises(ValueError, match=r"not uint8\[n, 32, 32, 3\]"):
        clip.encode_image(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        clip_jax.load(tmp_path / "nothing")


def test_bad_arguments_are_named(clip, folder, pictures):
    tokens = clip.tokenize(["a", "b"])
    for wrong, message in (
        (tokens[:, :5], r"tokens are int32\[2, 5\], not int\[n, 12\]"),
        (tokens + 60000, "this model's are 0 to 49407"),
        (np.ones_like(tokens), "row 0 of the tokens has no end of text"),
        (tokens.astype(np.float32), "tokens are float32"),
    ):
        with pytest.raises(ValueError, match=message):
            clip.encode_text(wrong)
    np.testing.assert_array_equal(clip.encode_text(tokens[1]), clip.encode_text(tokens[1:]))
    for arguments, message in (
        ((pictures, "cat"), "labels='cat' is one text"),
        ((pictures, ["cat"], "a {}"), "templates='a {}' is one text"),
    ):
        with pytest.raises(ValueError, match=message):
            clip.classify(*arguments)
    for options, message in (
        (dict(dtype="float16"), "dtype='float16' is not one of"),
        (dict(batch_size=0), "batch_size=0 must be at least 1"),
        (dict(devices=[]), "devices is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            clip_jax.load(folder, **options)


def test_generators_are_taken_a_batch_at_a_time(clip, pictures):
    taken = 0

    def stream():
        nonlocal taken
        for picture in pictures * 8:
            taken += 1
            yield picture

    batches = clip._batches(stream())
    assert len(next(batches)) == 16
    assert taken == 16
    np.testing.assert_array_equal(
        clip.encode_image(p for p in pictures), clip.encode_image(pictures)
    )
    np.testing.assert_array_equal(clip.encode_text(t for t in ["a"]), clip.encode_text("a"))


def test_a_model_of_the_hub(folder, monkeypatch, tmp_path):
    """What is asked of the hub, and what is done with what it gives."""
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        if name != "some/model":
            raise OSError("offline")
        return str(folder)

    fake = types.SimpleNamespace(
        snapshot_download=snapshot_download,
        errors=types.SimpleNamespace(HfHubHTTPError=RuntimeError),
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    found = clip_jax.load("some/model")
    assert found.fingerprint == clip_jax.load(folder).fingerprint
    assert [name for name, _ in asked] == ["some/model"]
    assert "*.safetensors" in asked[0][1] and "*.bin" not in asked[0][1]
    with pytest.raises(FileNotFoundError, match="the Hugging Face hub did not give it: offline"):
        clip_jax.load("other/model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match="pip install huggingface_hub"):
        clip_jax.load("some/model")


def test_import_is_quick_and_touches_no_devices(root):
    """``import clip_jax`` does not even import JAX; using it imports no other framework."""
    code = (
        "import sys, clip_jax; slow = {'jax', 'numpy', 'flax', 'PIL'} & set(sys.modules); "
        "assert not slow, slow; clip_jax.tokenizers.build; "
        "assert not {'jax', 'flax'} & set(sys.modules); clip_jax.load; "
        "bad = {'torch', 'transformers', 'tensorflow'} & set(sys.modules); assert not bad, bad; "
        "import jax; from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=120)


# What a program may rely on. A name that goes from here breaks programs of others.
PUBLIC = {
    "": {"Clip", "evaluate", "load", "losses", "models", "tokenizers"},
    "models": {
        "ClipConfig", "ClipModel", "ResNet", "ResNetConfig", "TextConfig", "TextTransformer", "ViT",
        "ViTConfig",
    },
    "losses": {"LOSSES", "Loss", "build", "from_config"},
    "tokenizers": {
        "KINDS", "ClipTokenizer", "SentencePieceTokenizer", "SigLipTokenizer", "Tokenizer", "build",
        "train_sentencepiece",
    },
}  # fmt: skip


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    module = getattr(clip_jax, package) if package else clip_jax
    assert PUBLIC[package] <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018


def test_short_names_are_functions_and_packages():
    assert callable(clip_jax.evaluate) and callable(clip_jax.load)
    assert isinstance(clip_jax.models, types.ModuleType)
    assert clip_jax.models.ClipModel.__module__ == "clip_jax.models.clip"
    assert {"evaluate", "load"} <= set(dir(clip_jax))
