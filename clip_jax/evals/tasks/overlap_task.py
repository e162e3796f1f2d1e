"""The suite's overlap analysis, paper section 5 and appendix C: as the fields of a record.

Test pictures that the training pictures have too are found by the model's own embeddings or by a
hash of the pixels; ``overlap`` compares the zero-shot accuracy on them with that on the others.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from clip_jax.config import ConfigError
from clip_jax.data.errors import DataError
from clip_jax.data.test_sets.registry import READERS
from clip_jax.data.test_sets.types import ClassificationDataset
from clip_jax.evals.metrics import intervals, overlap, zero_shot
from clip_jax.evals.records import NotApplicable
from clip_jax.evals.tasks import zero_shot_task
from clip_jax.evals.tasks.zero_shot_task import prompts_of, weights_of

PAIRS = 24  # the most similar, for choosing a threshold
AROUND = 6  # the last that were found, and as many that just were not
_HASHED = 1024


class Measure(NamedTuple):
    """A way to compare pictures: what it counts, and the threshold that is taken without another.

    Cosines are of similar pictures from the threshold upward, bits from it downward.
    """

    unit: str
    threshold: float
    least: float
    most: float


MEASURES = {
    "embedding": Measure("cosine", 0.95, -1.0, 1.0),
    "hash": Measure("bits", 6, 0, 64),
}


def check(settings: Any) -> None:
    """Looks whether what the settings say of overlap is legal.

    Raises:
      ConfigError: it is not.
    """
    kind = settings.overlap_with.partition(":")[0]
    if settings.overlap_with and kind not in READERS:
        raise ConfigError(
            f"overlap_with={settings.overlap_with!r}: {kind!r} is not one of {sorted(READERS)}; "
            "write what the training pictures are in front of their path, such as folder:PATH"
        )
    if settings.overlap_by not in MEASURES:
        raise ConfigError(f"overlap_by={settings.overlap_by!r} is not one of {list(MEASURES)}")
    unit, _, least, most = MEASURES[settings.overlap_by]
    given = settings.overlap_threshold
    whole = unit != "bits" or given is None or float(given).is_integer()
    if given is not None and not (least <= given <= most and whole):
        of = "a whole number of bits" if unit == "bits" else "a cosine"
        raise ConfigError(f"overlap_threshold={given} is not {of} from {least:g} to {most:g}")


def facts(settings: Any, opener: Any) -> dict[str, Any]:
    """What decides the numbers besides the test set: for the key of records."""
    try:
        training = settings.training.fingerprint
    except DataError:
        training = ""  # without training pictures there will be no record
    own = {"by": settings.overlap_by, "threshold": _threshold(settings), "training": training}
    return own | zero_shot_task.facts(settings, opener)


def _threshold(settings: Any) -> float:
    given = settings.overlap_threshold
    return MEASURES[settings.overlap_by].threshold if given is None else given


def overlap_record(
    model: Any, store: Any, test: ClassificationDataset, opener: Any, settings: Any
) -> dict[str, Any]:
    """Paper section 5: how much of zero-shot accuracy may be memory."""
    if not settings.overlap_with:
        raise NotApplicable("say by overlap_with where the training pictures are")
    if test.multilabel:
        raise NotApplicable("overlap is compared where a picture has one class")
    training, by = settings.training, MEASURES[settings.overlap_by]
    test = opener.prompted(test)
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
    found = value <= threshold if by.unit == "bits" else value >= threshold
    row = overlap.compare(opener.title, correct, found)
    order = np.argsort(value if by.unit == "bits" else -value, kind="stable")
    pairs = _Pairs(test, training, index, value, found, correct, by.unit)
    edge = int(found.sum())
    return {
        "n": row.n,
        "main_metric": "contamination",
        "metrics": _metrics(row),
        "intervals": _intervals(row),
        "class_names": list(prompts_of(test)[0]),
        "templates": list(prompts_of(test)[1]),
        "details": {
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
    }


def _concatenated(store: Any, data: Any) -> np.ndarray:
    """The hashes of a set's pictures, uint64[n]."""
    parts = list(store.parts("hash", _hashes, data, overlap.HASH_INPUT))
    return np.concatenate([np.zeros(0, np.uint64), *(part[:, 0] for part in parts)])


def _hashes(rows: Any) -> np.ndarray:
    """uint64[n, 1] of pictures uint8[n, 32, 32, 3]."""
    return np.array([[overlap.picture_hash(p)] for p in _each(rows)], np.uint64).reshape(-1, 1)


def _each(rows: Any) -> Iterator[np.ndarray]:
    for at in range(0, len(rows), _HASHED):
        yield from rows[np.arange(at, min(at + _HASHED, len(rows)))]


class _Pairs(NamedTuple):
    """Test pictures, each with the training picture that is most like it."""

    test: Any
    training: Any
    index: np.ndarray
    value: np.ndarray
    found: np.ndarray
    correct: np.ndarray
    unit: str

    def __call__(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "test": self.test.describe(int(i)),
                "training": self.training.describe(int(self.index[i])),
                "test_index": int(i),
                "training_index": int(self.index[i]),
                self.unit: self.value[i].item(),
                "found": bool(self.found[i]),
                "correct": bool(self.correct[i]),
            }
            for i in rows
        ]


def _row(row: overlap.OverlapRow) -> dict[str, Any]:
    """As JSON has it; the correction is the business of whoever has all data sets."""
    fields = row._asdict().items()
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v
        for k, v in fields
        if k != "p_corrected"
    }


_SHARES = ("contamination", "all", "clean", "overlap", "difference")


def _metrics(row: overlap.OverlapRow) -> dict[str, float]:
    """Those that there are pictures for."""
    return {k: float(v) for k in _SHARES if math.isfinite(v := getattr(row, k))}


def _intervals(row: overlap.OverlapRow) -> dict[str, tuple[float, float]]:
    """Of 95% as of all records; the paper's, of 99.5% on Overlap, is in the row."""
    sizes = {"contamination": row.n, "all": row.n, "clean": row.n - row.n_overlap,
             "overlap": row.n_overlap}  # fmt: skip
    return {k: intervals.wilson(getattr(row, k), n) for k, n in sizes.items() if n}
