"""The suite's zero-shot classification: as the fields of a record."""

from typing import Any

import numpy as np

from clip_jax.data.digests import digest
from clip_jax.data.errors import DataError
from clip_jax.data.test_sets.types import ClassificationDataset
from clip_jax.evals.datasets.prompts import PLAIN
from clip_jax.evals.exports import datacomp
from clip_jax.evals.metrics import classification, zero_shot
from clip_jax.evals.records import NotApplicable
from clip_jax.evals.tasks import search


def _main_metric(opener: Any, protocol: str, found: dict[str, float]) -> str:
    if "mean_average_precision" in found:
        return "mean_average_precision" + ("" if protocol == "paper" else "_step")
    if protocol == "paper" and opener.entry is not None and opener.entry.metric in found:
        return opener.entry.metric
    if protocol == "datacomp" and opener.entry is not None:
        return datacomp.MAIN_METRIC.get(opener.entry.datacomp, "top1")
    return "top1"


def zero_shot_record(
    model: Any, store: Any, test: ClassificationDataset, opener: Any, settings: Any
) -> dict[str, Any]:
    """Paper section 3.1: pictures against sentences, with the ensemble and with one template."""
    test = opener.prompted(test)
    names, templates = prompts_of(test)
    images, weights, metrics = classified(model, store, test)
    details: dict[str, Any] = {}
    if templates != PLAIN and len(test.class_names):
        plain = weights_of(model, test.class_names, PLAIN)
        details["plain"] = _shares(classification.measure(images, plain, test.labels))
    if not test.multilabel:
        details["per_class"] = _per_class(images, weights, test)
        details["search"] = search.of_classes(
            images, weights, test.labels, (names, templates), details["per_class"]
        )
    return {
        "n": len(test),
        "main_metric": _main_metric(opener, settings.protocol, metrics),
        "metrics": _shares(metrics),
        "intervals": classification.confidence_intervals(
            images, weights, test.labels, seed=settings.seed
        ),
        "class_names": list(names),
        "templates": list(templates),
        "details": details,
    }


def facts(settings: Any, opener: Any) -> dict[str, Any]:
    """What decides the numbers besides the pictures: for the key of records."""
    del settings
    try:
        test = opener.prompted(opener.open("test"))
    except (NotApplicable, DataError):
        return {"prompts": ""}
    names, templates = prompts_of(test)
    return {"prompts": digest(names, templates, test.class_names, test.labels)}


def prompts_of(test: ClassificationDataset) -> tuple[Any, tuple[str, ...]]:
    """The texts of the classes, and the templates that they go into."""
    if len(test.descriptions):
        return test.descriptions, ("{}",)
    return test.class_names, tuple(test.templates) or PLAIN


def classified(
    model: Any, store: Any, test: ClassificationDataset
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Embeddings of the pictures, weights of the classes, and what is measured of them."""
    weights = weights_of(model, *prompts_of(test))
    images = store.get("images", model.embedder.images, test, model.preprocess)
    return images, weights, classification.measure(images, weights, test.labels)


def weights_of(model: Any, names: Any, templates: tuple[str, ...]) -> np.ndarray:
    """The classifier float32[K, E] of class names in templates."""
    return zero_shot.classifier(model.embedder.texts, model.tokenize, names, templates)


def _shares(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if k != "n" and not k.endswith("_ci95")}


def _per_class(
    images: np.ndarray, weights: np.ndarray, test: ClassificationDataset
) -> list[dict[str, Any]]:
    best, _ = zero_shot.predict(images, weights, k=1)
    counts = classification.confusion_matrix(best[:, 0], test.labels, len(weights))
    names = [n if isinstance(n, str) else n[0] for n in test.class_names]
    names = names or [str(i) for i in range(len(weights))]
    return [
        row._asdict() | {
            "name": names[row.index],
            "taken_for": names[row.taken_for] if row.taken_for >= 0 else "",
        }
        for row in classification.per_class(counts)
    ]  # fmt: skip
