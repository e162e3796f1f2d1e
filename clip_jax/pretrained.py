"""Where weights are looked for: files of any layout, the workdir of a run, the Hugging Face hub."""

import os
import re
from pathlib import Path

import jax
import optax

from clip_jax import config as config_lib
from clip_jax.data import transforms
from clip_jax.interop import weights
from clip_jax.interop.files import json_file
from clip_jax.interop.mapping import LayoutError
from clip_jax.models import clip
from clip_jax.runtime.integrity import Mismatch
from clip_jax.runtime.mesh import PyTree, create_mesh
from clip_jax.tokenizers import build as build_tokenizer
from clip_jax.training import checkpoint, state, workdir
from clip_jax.training.optim import stochastic_rounding

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Of a model that has both, the safetensors.
_HUB_FILES = (("*.json", "*.safetensors", "spiece.model", "tokenizer.model"), ("*.bin",))


def find(
    name_or_path: str | os.PathLike,
    *,
    layout: str | None = None,
    activation: str | None = None,
    heads: tuple[int, int] | None = None,
) -> weights.Weights:
    """Reads weights by path or name; see ``clip_jax.load``.

    Raises:
      FileNotFoundError: there is no such path, and it is no id of the hub either.
      LayoutError, WeightFileError: the files cannot be used; the message says why.
    """
    path = Path(name_or_path)
    run, step = _run_of(path)
    if run is not None:
        if layout not in (None, "clip_jax") or activation is not None or heads is not None:
            raise LayoutError(f"{path} is a run, which tells its layout and its model itself")
        return from_workdir(run, step)
    if path.exists():
        return weights.read(path, layout=layout, activation=activation, heads=heads)
    if isinstance(name_or_path, str) and _HUB_ID.fullmatch(name_or_path):
        folder = _from_hub(name_or_path)
        return weights.read(folder, layout=layout, activation=activation, heads=heads)
    raise FileNotFoundError(f"{name_or_path}: no such file or folder, and no id of the hub")


def _run_of(path: Path) -> tuple[Path | None, int | None]:
    """The workdir that a path is, or whose checkpoint it is, and the checkpoint's step."""
    if (path / "checkpoints").is_dir() and (path / "config.json").is_file():
        return path, None
    above = path.absolute().parent
    if path.name.isdigit() and above.name == "checkpoints" and path.is_dir():
        return above.parent, int(path.name)
    return None, None


def _from_hub(name: str) -> str:
    """Downloads a model (or finds it in the hub's cache) and returns its folder."""
    try:
        import huggingface_hub
    except ImportError:
        raise FileNotFoundError(
            f"{name}: no such path; to fetch it from the Hugging Face hub: "
            "pip install huggingface_hub"
        ) from None
    try:
        first, otherwise = _HUB_FILES
        folder = huggingface_hub.snapshot_download(name, allow_patterns=list(first))
        if not any(Path(folder).glob("*.safetensors")):
            huggingface_hub.snapshot_download(name, allow_patterns=list(otherwise))
        return folder
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"{name}: no such path, and the Hugging Face hub did not give it: {error}"
        ) from error


def from_workdir(path: Path, step: int | None = None) -> weights.Weights:
    """The newest whole checkpoint of a run: its averaged parameters where it keeps them.

    The workdir is only read: a run may be writing into it.

    Args:
      path: the workdir.
      step: the checkpoint of this step and no other.

    Raises:
      LayoutError: there is no such checkpoint, or it is not whole; or the tokenizer or the
        preprocessing is not what it was trained with.
    """
    config = config_lib.ConfigDict(config_lib.with_defaults(json_file(path / "config.json")))
    t, own = config.tokenizer, path / "tokenizer.model"
    mesh = create_mesh({"data": 1}, jax.local_devices()[:1])

    def model_of(stage: int) -> clip.ClipModel:
        return clip.build(config_lib.stage_config(config, stage).model, tokenizer)

    def wanted(metadata: checkpoint.Metadata) -> dict[str, PyTree]:
        """Of the state of a step, not the optimizer's part."""
        model, ema = model_of(metadata.get("stage", 0)), config.optim.ema_decay > 0
        dtype = config.model.text.param_dtype
        whole, _ = state.abstract(model, optax.identity(), ema, mesh, text_dtype=dtype)
        if whole.ema is not None:
            return {"ema": whole.ema}
        return {"params": whole.params, "batch_stats": whole.batch_stats}

    try:
        tokenizer = build_tokenizer(
            t.name, t.context_length, own if own.is_file() else t.model or None
        )
        model_of(0)
    except ValueError as error:
        raise LayoutError(f"{path}: {error}") from None
    try:
        parts, metadata = checkpoint.read(path / "checkpoints", wanted, step)
        c = model_of(metadata.get("stage", 0)).config
        preprocess = transforms.evaluation(
            c.vision.image_size, config.data.resize, c.image_mean, c.image_std
        )
        workdir.check_metadata(path, metadata, workdir.model_metadata(preprocess, tokenizer))
    except (checkpoint.CheckpointError, Mismatch) as error:
        raise LayoutError(str(error)) from None
    variables = jax.device_get(stochastic_rounding.upcast(parts.get("ema", parts)))
    return weights.Weights(c, variables, preprocess, tokenizer, "clip_jax", str(path))
