"""Writes weights in the layouts that exist; the counterpart of ``weights.read``."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from clip_jax.data.preprocess import Preprocess
from clip_jax.data.preprocess_formats import to_hugging_face, to_open_clip
from clip_jax.interop import files
from clip_jax.interop.formats import hugging_face, open_clip
from clip_jax.interop.mapping import LayoutError, export_tensors
from clip_jax.interop.torch import weight_file
from clip_jax.interop.weights import FORMAT, LAYOUTS, TOKENIZER_FILE, Weights
from clip_jax.runtime.atomic import whole_file, write_atomically
from clip_jax.tokenizers import ClipTokenizer, SigLipTokenizer
from clip_jax.tokenizers.clip_bpe import hugging_face_files

DTYPES = ("float32", "float16", "bfloat16")
_ALL_NARROW = ("hugging_face", "big_vision")  # layouts in which half precision is that of all

Tensors = dict[str, np.ndarray]


def write(path: str | os.PathLike, weights: Weights, layout: str, dtype: str = "float32") -> Path:
    """Writes weights.

    Args:
      path: "openai" and "big_vision": the file, ``.pt`` and ``.npz``; else a folder, which is
        made.
      weights: what to write.
      layout: a name in ``LAYOUTS``.
      dtype: a name in ``DTYPES``. In half precision, "hugging_face" and "big_vision" narrow all
        tensors; the others matrices and their biases only, as OpenAI's files do: norms,
        embeddings and the logit scale stay float32.

    Returns:
      The path.

    Raises:
      LayoutError: the layout cannot hold this model, or something is at ``path`` already.
    """
    if layout not in LAYOUTS:
        raise LayoutError(f"--to={layout} is not one of {', '.join(LAYOUTS)}")
    if dtype not in DTYPES:
        raise LayoutError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}")
    path = Path(path)
    if path.exists() and (path.is_file() or any(path.iterdir())):
        raise LayoutError(f"{path} exists; nothing was written. Remove it or name another place")
    entries = LAYOUTS[layout].entries(weights.config)
    tensors = export_tensors(weights.variables, entries)
    narrow = {n for e in entries if layout in _ALL_NARROW or _is_matrix(e.ours) for n in e.theirs}
    kind = jnp.dtype(dtype)
    tensors = {n: a.astype(kind) if n in narrow else a for n, a in tensors.items()}
    _WRITERS[layout](path, weights, tensors)
    return path


def _is_matrix(ours: str) -> bool:
    """Whether half precision narrows a leaf: weights and biases of linear maps and convolutions.

    The rule of openai/CLIP's ``convert_weights``.
    """
    *_, module, leaf = ours.split("/")
    return leaf == "kernel" or (leaf == "bias" and "norm" not in module)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


def _suffix(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise LayoutError(f"{path}: this layout is one file, name it ...{suffix}")


def _openai(path: Path, weights: Weights, tensors: Tensors) -> None:
    _suffix(path, ".pt")
    if weights.config.activation != "quick_gelu":
        raise LayoutError(
            "OpenAI's loader always applies QuickGELU, this model was trained with "
            f"{weights.config.activation}; write --to=open_clip or --to=hugging_face"
        )
    vision, text = weights.config.vision, weights.config.text
    width = getattr(vision, "features", vision.width)
    if width != 64 * vision.num_heads or text.width != 64 * text.num_heads:
        raise LayoutError(
            "OpenAI's loader takes heads to be 64 wide, and this model's are not; write "
            "--to=open_clip or --to=hugging_face"
        )
    _standard(weights, Preprocess(vision.image_size))
    path.parent.mkdir(parents=True, exist_ok=True)
    # As in the published archives, by which readers know them.
    sizes = {
        "input_resolution": vision.image_size,
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
    }
    scalars = {name: np.array(value, np.int64) for name, value in sizes.items()}
    weight_file.write(path, tensors | _counters(tensors) | scalars)


def _standard(weights: Weights, implied: Preprocess) -> None:
    """Refuses images prepared in a way of their own, where a layout's loaders know but one."""
    theirs, ours = implied.to_dict(), weights.preprocess.to_dict()
    different = [f"{k}={v!r}, not {theirs[k]!r}" for k, v in ours.items()
                 if v != theirs[k] and k != "transparency"]  # fmt: skip
    if different:
        raise LayoutError(
            "this layout says nothing of preprocessing, and its loaders would prepare images in "
            f"another way than this model's ({'; '.join(different)}); write --to=clip_jax, "
            "--to=hugging_face or --to=open_clip"
        )


def losses(weights: Weights, layout: str) -> list[str]:
    """What belongs to a model and has no place in a layout, in words."""
    if layout == "clip_jax":
        return []
    found, t = [], weights.tokenizer
    # CLIP's is known to all loaders.
    if not (
        t is None
        or isinstance(t, ClipTokenizer)
        or (layout == "hugging_face" and isinstance(t, SigLipTokenizer))
    ):
        found.append(f"its tokenizer ({t.name})")
    if weights.preprocess.transparency != "drop" and layout in ("openai", "big_vision"):
        found.append("that transparent images are shown on white")
    return found


def _counters(tensors: Tensors) -> Tensors:
    """PyTorch's batch norms count their batches; strict loading wants the counters."""
    return {
        n.removesuffix("running_var") + "num_batches_tracked": np.zeros((), np.int64)
        for n in tensors
        if n.endswith(".running_var")
    }


def _open_clip(path: Path, weights: Weights, tensors: Tensors) -> None:
    settings = {
        "model_cfg": open_clip.to_json(weights.config),
        "preprocess_cfg": to_open_clip(weights.preprocess),
    }
    path.mkdir(parents=True, exist_ok=True)
    tensors |= _counters(tensors)
    facts = weights.travelling_facts("open_clip")
    files.save_safetensors(path / "open_clip_model.safetensors", tensors, facts)
    _write_json(path / "open_clip_config.json", settings)


def _hugging_face(path: Path, weights: Weights, tensors: Tensors) -> None:
    settings = hugging_face.to_json(weights.config)
    preprocessor = to_hugging_face(weights.preprocess)
    path.mkdir(parents=True, exist_ok=True)
    if isinstance(weights.tokenizer, SigLipTokenizer):
        write_atomically(path / "spiece.model", weights.tokenizer.model)
    elif isinstance(weights.tokenizer, ClipTokenizer):
        for name, text in hugging_face_files(weights.tokenizer.context_length).items():
            write_atomically(path / name, text.encode())
    facts = weights.travelling_facts("hugging_face")
    files.save_safetensors(path / "model.safetensors", tensors, facts)
    _write_json(path / files.PREPROCESSOR, preprocessor)
    _write_json(path / "config.json", settings)


def _big_vision(path: Path, weights: Weights, tensors: Tensors) -> None:
    _suffix(path, ".npz")
    half = (0.5, 0.5, 0.5)
    size = weights.config.vision.image_size
    _standard(weights, Preprocess(size, "squash", mean=half, std=half))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        np.savez(partial, **tensors)


def _clip_jax(path: Path, weights: Weights, tensors: Tensors) -> None:
    path.mkdir(parents=True, exist_ok=True)
    facts = weights.travelling_facts("clip_jax")
    files.save_safetensors(path / "model.safetensors", tensors, facts)
    model = getattr(weights.tokenizer, "model", None)
    if model is not None:
        write_atomically(path / TOKENIZER_FILE, model)
    # Last: a folder without it is not a model.
    facts = weights.facts() | {"format": FORMAT, "fingerprint": weights.fingerprint}
    _write_json(path / "clip_jax.json", facts)


_WRITERS: dict[str, Callable[[Path, Weights, Tensors], None]] = {
    "clip_jax": _clip_jax,
    "openai": _openai,
    "open_clip": _open_clip,
    "hugging_face": _hugging_face,
    "big_vision": _big_vision,
}
