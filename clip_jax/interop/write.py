"""Writes weights in the layouts that exist; the counterpart of ``weights.read``."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

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
    """Writes weights, and returns the path.

    Args:
      path: "openai" and "big_vision": a new file, ``.pt`` and ``.npz``; else a new folder.
      weights: what to write.
      layout: a name in ``LAYOUTS``.
      dtype: a name in ``DTYPES``. In half precision, "hugging_face" and "big_vision" narrow all
        tensors; the others matrices and their biases only, as OpenAI's files do: norms,
        embeddings and the logit scale stay float32.

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


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode() + b"\n"


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
    sizes = (vision.image_size, text.context_length, text.vocab_size)
    names = ("input_resolution", "context_length", "vocab_size")
    scalars = {n: np.array(size, np.int64) for n, size in zip(names, sizes, strict=True)}
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
    lost, t = [], weights.tokenizer
    known = (ClipTokenizer, SigLipTokenizer) if layout == "hugging_face" else ClipTokenizer
    if t is not None and not isinstance(t, known):  # CLIP's is known to all loaders
        lost.append(f"its tokenizer ({t.name})")
    if weights.preprocess.transparency != "drop" and layout in ("openai", "big_vision"):
        lost.append("that transparent images are shown on white")
    return lost


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
    _folder(path, weights, "open_clip", tensors | _counters(tensors), settings)


def _hugging_face(path: Path, weights: Weights, tensors: Tensors) -> None:
    settings = hugging_face.to_json(weights.config)
    others = {files.PREPROCESSOR: _json(to_hugging_face(weights.preprocess))}
    if isinstance(weights.tokenizer, SigLipTokenizer):
        others["spiece.model"] = weights.tokenizer.model
    elif isinstance(weights.tokenizer, ClipTokenizer):
        texts = hugging_face_files(weights.tokenizer.context_length)
        others |= {name: text.encode() for name, text in texts.items()}
    _folder(path, weights, "hugging_face", tensors, settings, others)


def _clip_jax(path: Path, weights: Weights, tensors: Tensors) -> None:
    model = getattr(weights.tokenizer, "model", None)
    others = {} if model is None else {TOKENIZER_FILE: model}
    settings = weights.description() | {"format": FORMAT, "fingerprint": weights.fingerprint}
    _folder(path, weights, "clip_jax", tensors, settings, others)


def _folder(
    path: Path,
    weights: Weights,
    layout: str,
    tensors: Tensors,
    settings: Mapping[str, object],
    others: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a folder, the settings last: without them it is not a model."""
    settings_name, (tensors_name, *_), _ = files.FOLDERS[layout]
    path.mkdir(parents=True, exist_ok=True)
    files.save_safetensors(path / tensors_name, tensors, weights.file_metadata(layout))
    for name, data in (others or {}).items():
        write_atomically(path / name, data)
    write_atomically(path / settings_name, _json(settings))


def _big_vision(path: Path, weights: Weights, tensors: Tensors) -> None:
    _suffix(path, ".npz")
    half = (0.5, 0.5, 0.5)
    _standard(weights, Preprocess(weights.config.vision.image_size, "squash", mean=half, std=half))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        np.savez(partial, **tensors)


_WRITERS: dict[str, Callable[[Path, Weights, Tensors], None]] = {
    "clip_jax": _clip_jax,
    "openai": _openai,
    "open_clip": _open_clip,
    "hugging_face": _hugging_face,
    "big_vision": _big_vision,
}
