"""Pretrained models in Python: ``clip = clip_jax.load(path)``, then images and texts go in.

Everything that decides what a model sees (preprocessing, tokenizer, activation) comes with its
weights, so there is nothing to choose and nothing to get wrong.
"""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from clip_jax import pretrained
from clip_jax.data.preprocess import ImageInput
from clip_jax.evals import embedder
from clip_jax.evals.metrics import zero_shot
from clip_jax.evals.types import EvalModel
from clip_jax.interop import weights as interop
from clip_jax.models import clip as models
from clip_jax.models.execution import Execution
from clip_jax.runtime.digests import json_digest
from clip_jax.runtime.integrity import combined, fingerprint
from clip_jax.runtime.mesh import create_mesh
from clip_jax.training import step

Images = ImageInput | Iterable[ImageInput]
DEFAULT_TEMPLATES = ("a photo of a {}.",)  # paper section 3.1.4
BATCH_SIZE = 64


class Clip:
    """A CLIP ready for use, on all devices of this process.

    Calls are cut into batches, and what is left over is padded to a power of two a device, so
    that few sizes are ever compiled and odd numbers of rows change nothing.

    Attributes:
      config: sizes and mathematics of the model.
      preprocess: an image -> uint8[H, W, 3].
      tokenizer: texts -> int32[B, L], or None where the weights came without one.
      fingerprint: sha256 (hex) of architecture, activation, preprocessing and tokenizer.
    """

    def __init__(
        self,
        weights: interop.Weights,
        *,
        batch_size: int = BATCH_SIZE,
        dtype: str = "float32",
        devices: Sequence[jax.Device] | None = None,
    ):
        """Puts weights on devices; see ``load``.

        Raises:
          ValueError: no such dtype, no rows in a batch, or no devices.
        """
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={dtype!r} is not one of ('float32', 'bfloat16')")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if devices is not None and not devices:
            raise ValueError("devices is empty; None takes all of this process")
        self.weights = weights
        self.config, self.preprocess = weights.config, weights.preprocess
        self.tokenizer, self.fingerprint = weights.tokenizer, weights.fingerprint
        self._mesh = create_mesh({"data": -1}, jax.local_devices() if devices is None else devices)
        # A rolled loop over the blocks compiles in a fraction of the time.
        self._model = models.ClipModel(self.config, Execution(jnp.dtype(dtype), scan_layers=True))
        self._variables = jax.device_put(
            dict(weights.variables),
            jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec()),
        )
        self._batch_size = batch_size

    def __repr__(self) -> str:
        v, t = self.config.vision, self.config.text
        return (
            f"Clip({self.weights.source!r}, {self.weights.layout}, {v.image_size} px, "
            f"{type(v).__name__.removesuffix('Config')}, text of {t.context_length} tokens, "
            f"{self.config.embed_dim} dimensions)"
        )

    @functools.cached_property
    def embedder(self) -> embedder.Embedder:
        """The model as evaluations take it."""
        return embedder.BatchedEmbedder(
            *(functools.partial(f, self._variables)
              for f in step.embed_steps(self._model, self._mesh)),
            mesh=self._mesh,
            batch_size=self._batch_size,
            embed_dim=self.config.embed_dim,
            probe_dim=self._model.probe_dim,
            text=self.config.text,
            shrink=True,
        )  # fmt: skip

    def as_evaluated(self, name: str = "") -> EvalModel:
        """The model as ``evals.runner`` takes it; ``name`` is what results call it."""
        numbers, dtype = combined(fingerprint(self._variables)), str(self._model.execution.dtype)
        return EvalModel(
            name or Path(self.weights.source).name,
            json_digest([numbers, self.fingerprint, dtype]),
            self.embedder,
            self.tokenize,
            self.preprocess,
            self._mesh,
            self.logit_scale,
        )

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with before a softmax or sigmoid."""
        return float(np.exp(self.weights.variables["params"]["logit_scale"]))

    @property
    def logit_bias(self) -> float:
        """What is added then; 0 for models without."""
        return float(self.weights.variables["params"].get("logit_bias", 0.0))

    def encode_image(self, images: Images) -> np.ndarray:
        """Unit embeddings float32[n, E] of images.

        Args:
          images: one image or several: PIL images, paths, encoded bytes or uint8[H, W, 3]; or
            already preprocessed uint8[n, size, size, 3].

        Raises:
          BadImage, OSError: an image cannot be read; the message names it.
        """
        with jax.set_mesh(self._mesh):
            parts = [self.embedder.images(pixels) for pixels in self._batches(images)]
        return np.concatenate([np.zeros((0, self.config.embed_dim), np.float32), *parts])

    def encode_text(self, texts: str | Iterable[str] | np.ndarray) -> np.ndarray:
        """Unit embeddings float32[n, E] of texts, or of tokens int[n, L] or int[L].

        Raises:
          ValueError: tokens that this model does not have, or rows without an end.
        """
        tokens = self._checked(texts) if isinstance(texts, np.ndarray) else self.tokenize(texts)
        with jax.set_mesh(self._mesh):
            return self.embedder.texts(tokens)

    def _checked(self, tokens: np.ndarray) -> np.ndarray:
        text = self.config.text
        tokens = np.atleast_2d(tokens)
        if tokens.dtype.kind not in "iu" or tokens.shape[1:] != (text.context_length,):
            raise ValueError(
                f"tokens are {tokens.dtype}{list(tokens.shape)}, not int[n, {text.context_length}]"
            )
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < text.vocab_size:
            raise ValueError(
                f"token ids from {tokens.min()} to {tokens.max()}: this model's are 0 to "
                f"{text.vocab_size - 1}"
            )
        endless = np.flatnonzero((tokens != text.eot_id).all(axis=1))
        if text.pool == "eot" and len(endless):
            raise ValueError(
                f"row {endless[0]} of the tokens has no end of text (id {text.eot_id}), whose "
                "feature is the embedding; tokens of another vocabulary?"
            )
        return tokens.astype(np.int32)

    def tokenize(self, texts: str | Iterable[str], *, truncate: bool = True) -> np.ndarray:
        """Texts -> int32[n, L]; see ``Tokenizer.__call__``.

        Raises:
          ValueError: the weights came without a tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError(
                f"{self.weights.source} holds no tokenizer, and its vocabulary of "
                f"{self.config.text.vocab_size} ids is not CLIP's: give token ids "
                f"int32[n, {self.config.text.context_length}] instead of texts"
            )
        texts = texts if isinstance(texts, str) else list(texts)
        return self.tokenizer(texts, truncate=truncate)

    def similarity(self, images: Images, texts: str | Sequence[str]) -> np.ndarray:
        """Cosines float32[n, m] of every image with every text."""
        return self.encode_image(images) @ self.encode_text(texts).T

    def classify(
        self,
        images: Images,
        labels: Sequence[str | Sequence[str]],
        templates: Sequence[str] = DEFAULT_TEMPLATES,
    ) -> np.ndarray:
        """Zero-shot probabilities float32[n, K] (paper section 3.1.2).

        Args:
          images: as in ``encode_image``.
          labels: K class names; a class may have several.
          templates: prompts in which every ``{}`` stands for the name; the embeddings of a class
            are averaged over them (section 3.1.4).

        Raises:
          ValueError: a text instead of a list; or see ``zero_shot.classifier``.
        """
        for name, given in (("labels", labels), ("templates", templates)):
            if isinstance(given, str):
                raise ValueError(f"{name}={given!r} is one text: give a list of them")
        classes = zero_shot.classifier(self.encode_text, self.tokenize, labels, templates)
        logits = self.logit_scale * (self.encode_image(images) @ classes.T) + self.logit_bias
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def _batches(self, images: Images) -> Iterator[np.ndarray]:
        """Preprocessed images uint8[n, size, size, 3], a batch at a time.

        So any number of paths or a generator will do: one batch of pixels is in memory.
        """
        size = self.config.vision.image_size
        if isinstance(images, np.ndarray) and images.ndim == 4:
            if images.shape[1:] != (size, size, 3) or images.dtype != np.uint8:
                raise ValueError(
                    f"images are {images.dtype}{list(images.shape)}, not uint8[n, {size}, {size}, "
                    "3]: pass a list of images to have them preprocessed"
                )
            yield images
            return
        single = isinstance(images, str | os.PathLike | bytes | np.ndarray) or hasattr(
            images, "convert"
        )
        pending = iter([images] if single else images)
        # Pillow releases the interpreter lock while it decodes and resizes.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            while batch := list(itertools.islice(pending, self._batch_size)):
                yield np.stack(list(pool.map(self.preprocess, batch)))


def load(
    name_or_path: str | os.PathLike,
    *,
    layout: str | None = None,
    activation: str | None = None,
    heads: tuple[int, int] | None = None,
    batch_size: int = BATCH_SIZE,
    dtype: str = "float32",
    devices: Sequence[jax.Device] | None = None,
) -> Clip:
    """Loads a CLIP from files of any known layout, from a workdir, or from the hub.

    Args:
      name_or_path: a file or folder of weights (see ``clip_jax.interop.weights``), the workdir of
        a run of ours, or the id of a model on the Hugging Face hub ("openai/clip-vit-base-patch32";
        needs the extra ``hub``: huggingface_hub).
      layout, activation, heads: for lone files that do not say; see
        ``clip_jax.interop.weights.read``.
      batch_size: images or texts on the devices at once, at most.
      dtype: of the computation, "float32" or "bfloat16".
      devices: all of this process by default.

    Raises:
      FileNotFoundError: there is no such path, and it is no id of the hub either.
      LayoutError, WeightFileError: the files cannot be used; the message says why.
      ValueError: see ``Clip``.
    """
    weights = pretrained.find(name_or_path, layout=layout, activation=activation, heads=heads)
    return Clip(weights, batch_size=batch_size, dtype=dtype, devices=devices)
