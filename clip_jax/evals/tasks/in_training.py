"""The evaluations a config can name, each prepared once and run as often as wanted."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from clip_jax.config import ConfigError
from clip_jax.data import paths
from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.transforms import decode, evaluation_images
from clip_jax.evals.embedder import Embedder
from clip_jax.evals.metrics import retrieval, zero_shot
from clip_jax.evals.tasks import scheduled
from clip_jax.runtime.mesh import create_mesh

Tokenize = Callable[[Sequence[str]], np.ndarray]


class Task(Protocol):
    """An evaluation with its data loaded. ``baselines``: metric -> what a cheap method reaches."""

    name: str
    baselines: dict[str, float]

    def run(self, embedder: Embedder, tokenize: Tokenize) -> dict[str, float]:
        """Metric name -> value; the same on every process."""


@dataclasses.dataclass(frozen=True)
class ZeroShotTask:
    """Classification of pictures by class names in prompt templates.

    Attributes:
      images: uint8[n, H, W, 3].
      labels: int[n].
      class_names: K names.
      templates: prompts with ``{}`` for the name.
      descriptions: texts of each class to be used instead of its name in the templates, whose
        results are then reported beside the others as ``names_top1`` and ``names_top5``.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    templates: Sequence[str]
    descriptions: Sequence[Sequence[str]] = ()
    baselines: dict[str, float] = dataclasses.field(default_factory=dict)

    def class_weights(self, embedder: Embedder, tokenize: Tokenize) -> np.ndarray:
        """The classifier: float32[K, E], of the descriptions where there are any."""
        if self.descriptions:
            return zero_shot.classifier(embedder.texts, tokenize, self.descriptions, ("{}",))
        return zero_shot.classifier(embedder.texts, tokenize, self.class_names, self.templates)

    def run(self, embedder: Embedder, tokenize: Tokenize) -> dict[str, float]:
        images = zero_shot.embed_images(embedder, self.images)
        found = zero_shot.measure(images, self.class_weights(embedder, tokenize), self.labels)
        if self.descriptions:
            names = dataclasses.replace(self, descriptions=())
            by_name = zero_shot.measure(
                images, names.class_weights(embedder, tokenize), self.labels
            )
            found |= {f"names_{k}": by_name[k] for k in ("top1", "top5")}
        return found


@dataclasses.dataclass(frozen=True)
class RetrievalTask:
    """Retrieval between pictures uint8[n, H, W, 3] and texts, text j belonging to picture
    ``image_of_text[j]``.
    """

    name: str
    images: np.ndarray
    texts: Sequence[str]
    image_of_text: np.ndarray
    baselines: dict[str, float] = dataclasses.field(default_factory=dict)

    def run(self, embedder: Embedder, tokenize: Tokenize) -> dict[str, float]:
        found = retrieval.recall(
            zero_shot.embed_images(embedder, self.images),
            embedder.texts(tokenize(self.texts)),
            self.image_of_text,
        )
        return found | {"n": len(self.texts)}


# The better of nearest neighbour on pixels and kernel ridge regression from hand-made features,
# both on the train split: what `python -m clip_jax.benchmark baselines` prints.
_BASELINES = {
    "unseen_vendor": {"top1": 0.201, "top5": 0.348},
    "held_out": {"top1": 0.325, "top5": 0.568},
}


def _emoji_zero_shot(split: str) -> Callable[[Any, Preprocess, str], Task]:
    def prepare(config: Any, preprocess: Preprocess, trained_on: str) -> Task:
        del trained_on
        from clip_jax.data.pairs import emoji

        preset = config.data.emoji.preset
        data = emoji.zero_shot_set(paths.cache_dir(config.data.cache_dir), preset, split)
        return ZeroShotTask(
            split,
            evaluation_images(data.images, preprocess),
            data.labels,
            data.class_names,
            emoji.TEMPLATES,
            data.descriptions,
            _BASELINES[split] if preset == "all" else {},
        )

    return prepare


def _emoji_retrieval(config: Any, preprocess: Preprocess, trained_on: str) -> Task:
    """Held-out concepts as one vendor draws them: one picture a name."""
    del trained_on
    from clip_jax.data.pairs import emoji

    data = emoji.zero_shot_set(
        paths.cache_dir(config.data.cache_dir), config.data.emoji.preset, "held_out"
    )
    rows = [i for i, vendor in enumerate(data.vendors) if vendor == "Google"]
    return RetrievalTask(
        "held_out_retrieval",
        evaluation_images([data.images[i] for i in rows], preprocess),
        [data.class_names[data.labels[i]] for i in rows],
        np.arange(len(rows)),
    )


def _retrieval(config: Any, preprocess: Preprocess, trained_on: str) -> Task:
    """The pairs that are kept from training; see ``sources.build_validation``."""
    source = registry.build_validation(config.data)
    if source.fingerprint == trained_on:
        raise ConfigError(
            "eval.tasks has 'retrieval', but data.validation_path (tfds: data.validation_split) "
            "gives the pairs that are trained on; give it others"
        )
    limit = min(config.eval.limit or len(source), len(source))
    rng = np.random.default_rng(0)
    size = preprocess.image_size
    images, texts = np.empty((limit, size, size, 3), np.uint8), []
    for i in range(limit):
        try:
            pair = source.read(i, rng)
            images[i] = preprocess(decode(pair.image))
        except Exception as error:  # whatever the data did
            raise DataError(
                f"validation pair {source.describe(i)}: {error}; mend it or take it out"
            ) from error
        texts.append(pair.caption)
    return RetrievalTask("retrieval", images, texts, np.arange(limit))


TASKS: dict[str, Callable[[Any, Preprocess, str], Task]] = {
    "unseen_vendor": _emoji_zero_shot("unseen_vendor"),
    "held_out": _emoji_zero_shot("held_out"),
    "held_out_retrieval": _emoji_retrieval,
    "retrieval": _retrieval,
}


def prepare(
    config: Any, preprocess: Preprocess, trained_on: str = "", mesh: Mesh | None = None
) -> list[Task]:
    """Loads the data of every task in ``config.eval.tasks``.

    Args:
      config: the whole config.
      preprocess: the way from a picture to the model's input.
      trained_on: fingerprint of the training data, which no task may use.
      mesh: of the devices, for what ``scheduled`` prepares; by default of all.

    Raises:
      ConfigError: unknown task, or one for which the config names no data of its own.
      DataError: data of a task is missing or unreadable.
    """
    unknown = [t for t in config.eval.tasks if t not in TASKS and "@" not in t]
    if unknown:
        raise ConfigError(
            f"eval.tasks has {unknown[0]!r}, which is not one of {sorted(TASKS)}, nor TASK@DATA "
            "such as 'zero_shot@ImageNet'"
        )
    mesh = mesh or create_mesh({"data": -1})
    return [
        TASKS[name](config, preprocess, trained_on)
        if name in TASKS
        else scheduled.prepare(name, config, preprocess, mesh)
        for name in config.eval.tasks
    ]
