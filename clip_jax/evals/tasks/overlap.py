"""Overlap of a test set with the training data, paper section 5 and appendix C.

The model's own embeddings or a hash of the pixels tell which test images are among the training
images; zero-shot accuracy on them is compared with that on the others.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.data.test_sets.types import ClassificationDataset, ImageDataset
from clip_jax.evals.datasets.resolve import DatasetSplits
from clip_jax.evals.embedder import Rows
from clip_jax.evals.feature_store import Store
from clip_jax.evals.metrics import intervals, overlap, zero_shot
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.tasks.zero_shot import prompt_key, prompts_of, weights_of
from clip_jax.evals.types import OVERLAP_MEASURES, EvalModel, EvalSettings, NotApplicable, Result

PAIRS = 24  # the most similar, for choosing a threshold
AROUND = 6  # on each side of the threshold
_HASHED = 1024


def _threshold(settings: EvalSettings) -> float:
    given = settings.overlap_threshold
    return OVERLAP_MEASURES[settings.overlap_by].threshold if given is None else given


class Overlap(Task[ClassificationDataset]):
    """How much of zero-shot accuracy may be memory: paper section 5."""

    name = "overlap"
    title = "Overlap with training data"
    section = "overlap"
    dataset_type = ClassificationDataset

    def check_settings(self, settings: EvalSettings) -> None:
        if not settings.overlap_with:
            raise ConfigError(
                "tasks: 'overlap' needs overlap_with, the path of the training images"
            )

    def default_on(self, test: ClassificationDataset, settings: EvalSettings) -> bool:
        return bool(settings.overlap_with) and not test.multilabel

    def prepare(self, test: ClassificationDataset, data: DatasetSplits) -> None:
        if not data.settings.overlap_with:
            raise NotApplicable("overlap needs overlap_with, the path of the training images")
        if test.multilabel:
            raise NotApplicable("overlap is compared where an image has one class")
        data.training_images()
        data.with_prompts(test)

    def cache_key_parts(self, data: DatasetSplits) -> dict[str, object]:
        settings = data.settings
        try:
            training = data.training_images().fingerprint
        except DataError:
            training = ""  # without training images there will be no record
        parts = {"by": settings.overlap_by, "threshold": _threshold(settings)}
        return parts | {"training": training} | prompt_key(data)

    def run(
        self, model: EvalModel, test: ClassificationDataset, data: DatasetSplits, store: Store
    ) -> Result:
        self.prepare(test, data)
        settings = data.settings
        training, by = data.training_images(), OVERLAP_MEASURES[settings.overlap_by]
        test = data.with_prompts(test)
        images = store.get("images", model.embedder.images, test, model.preprocess)
        best, _ = zero_shot.predict(images, weights_of(model, *prompts_of(test)), k=1)
        correct = best[:, 0] == test.labels
        if by.unit == "bits":
            hashes = [_concatenated(store, s) for s in (test, training)]
            index, value = overlap.nearest_hash(*hashes)
        else:
            parts = store.parts("images", model.embedder.images, training, model.preprocess)
            index, value = overlap.nearest(images, parts)
        threshold = _threshold(settings)
        similar = value <= threshold if by.unit == "bits" else value >= threshold
        row = overlap.compare(data.title, correct, similar)
        order = np.argsort(value if by.unit == "bits" else -value, kind="stable")
        pairs = _Pairs(test, training, index, value, similar, correct, by.unit)
        edge = int(similar.sum())
        return Result(
            n=row.n,
            main_metric="contamination",
            metrics=_metrics(row),
            intervals=_intervals(row),
            class_names=list(prompts_of(test)[0]),
            templates=list(prompts_of(test)[1]),
            details={
                "row": _row(row),
                "by": settings.overlap_by,
                "unit": by.unit,
                "threshold": threshold,
                "training": settings.overlap_with,
                "training_pictures": len(training),
                "training_fingerprint": training.fingerprint,
                "pairs": pairs(order[:PAIRS]),
                "around": pairs(order[max(edge - AROUND, 0) : edge + AROUND]),
            },
        )


def _concatenated(store: Store, data: ImageDataset) -> np.ndarray:
    """The hashes of a set's images, uint64[n]."""
    parts = list(store.parts("hash", _hashes, data, overlap.HASH_INPUT))
    return np.concatenate([np.zeros(0, np.uint64), *(part[:, 0] for part in parts)])


def _hashes(rows: Rows) -> np.ndarray:
    """uint64[n, 1] of images uint8[n, 32, 32, 3]."""
    return np.array([[overlap.image_hash(p)] for p in _each(rows)], np.uint64).reshape(-1, 1)


def _each(rows: Rows) -> Iterator[np.ndarray]:
    for at in range(0, len(rows), _HASHED):
        yield from rows[np.arange(at, min(at + _HASHED, len(rows)))]


class _Pairs(NamedTuple):
    """Test images, each with the training image that is most like it."""

    test: ImageDataset
    training: ImageDataset
    index: np.ndarray
    value: np.ndarray
    similar: np.ndarray
    correct: np.ndarray
    unit: str

    def __call__(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, object]]:
        return [
            {
                "test": self.test.describe(int(i)),
                "training": self.training.describe(int(self.index[i])),
                "test_index": int(i),
                "training_index": int(self.index[i]),
                self.unit: self.value[i].item(),
                "found": bool(self.similar[i]),
                "correct": bool(self.correct[i]),
            }
            for i in rows
        ]


def _row(row: overlap.OverlapRow) -> dict[str, object]:
    """The row in JSON's types, without the correction for several datasets."""
    fields = row._asdict()
    del fields["p_corrected"]
    missing = {k for k, v in fields.items() if isinstance(v, float) and not math.isfinite(v)}
    return fields | dict.fromkeys(missing)


_SHARES = ("contamination", "all", "clean", "overlap", "difference")


def _metrics(row: overlap.OverlapRow) -> dict[str, float]:
    """The shares of at least one image."""
    return {k: float(v) for k in _SHARES if math.isfinite(v := getattr(row, k))}


def _intervals(row: overlap.OverlapRow) -> dict[str, tuple[float, float]]:
    """Of 95% as of all records; the paper's, of 99.5% on Overlap, is in the row."""
    sizes = {"contamination": row.n, "all": row.n, "clean": row.n - row.n_overlap,
             "overlap": row.n_overlap}  # fmt: skip
    return {k: intervals.wilson(getattr(row, k), n) for k, n in sizes.items() if n}
