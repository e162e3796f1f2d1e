"""What an evaluation's report calls things: metrics, datasets, models."""

from collections.abc import Sequence

from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.datasets.locate import METRICS
from clip_jax.evals.records import Record
from clip_jax.report.text import plural

WAYS = {"image_to_text": "image → text", "text_to_image": "text → image", "mean": "mean of both"}
_METRICS = METRICS | {
    "top5": "top-5 accuracy",
    "mean_average_precision_step": "mean average precision",
    "agreement": "agreement with the labels",
    "crime_related": "given a crime-related class",
    "non_human": "given a non-human class",
}


def metric(name: str) -> str:
    """A metric in words: what the paper calls it, "R@5, image → text", or "accuracy, 16 shots"."""
    way, recall, k = name.partition("_r@")
    if recall and way in WAYS:
        return f"R@{k}, {WAYS[way]}"
    name, at, shots = name.partition("@")
    words = _METRICS.get(name, name.replace("_", " "))
    return f"{words}, {plural(int(shots), 'shot')}" if at and shots.isdigit() else words


def dataset(record: Record) -> str:
    """A dataset by the name that people know."""
    entry = CATALOG.get(record.dataset)
    return entry.title if entry else record.dataset


class Titles:
    """Names records by what tells them apart in a list: the dataset and, where there are several,
    its splits, the models and the protocols.
    """

    def __init__(self, records: Sequence[Record]):
        self._models = {(r.model, r.model_fingerprint) for r in records}
        self._protocols = {r.protocol for r in records}
        self._splits = {(r.dataset, r.split) for r in records}

    def __call__(self, record: Record) -> str:
        """What one record is about."""
        parts = [dataset(record)]
        if sum(name == record.dataset for name, _ in self._splits) > 1:
            parts.append(record.split)
        if len(self._models) > 1:
            parts.append(self.model(record))
        if len(self._protocols) > 1:
            parts.append(record.protocol)
        return ", ".join(parts)

    def source(self, record: Record) -> str:
        """The model, and the protocol where there are several."""
        several = len(self._protocols) > 1
        return f"{self.model(record)}, {record.protocol}" if several else self.model(record)

    def model(self, record: Record) -> str:
        """The model, with some of its fingerprint where two have one name."""
        name = record.model or "a model without a name"
        if sum(other == record.model for other, _ in self._models) > 1:
            return f"{name} ({record.model_fingerprint[:6]})"
        return name
