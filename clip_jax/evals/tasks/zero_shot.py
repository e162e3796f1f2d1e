"""Zero-shot classification, paper section 3.1."""

import numpy as np

from clip_jax.data.digests import digest
from clip_jax.data.errors import DataError
from clip_jax.data.test_sets.types import ClassificationDataset, Names
from clip_jax.evals.datasets.prompts import PLAIN
from clip_jax.evals.datasets.resolve import DatasetSplits
from clip_jax.evals.exports import datacomp
from clip_jax.evals.feature_store import Store
from clip_jax.evals.metrics import classification, intervals, zero_shot
from clip_jax.evals.tasks import search
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.types import EvalModel, NotApplicable, Result


def _main_metric(data: DatasetSplits, metrics: dict[str, float]) -> str:
    protocol, entry = data.settings.protocol, data.entry
    if "mean_average_precision" in metrics:
        return "mean_average_precision" + ("" if protocol == "paper" else "_step")
    if protocol == "paper" and entry is not None and entry.metric in metrics:
        return entry.metric
    if protocol == "datacomp" and entry is not None:
        return datacomp.MAIN_METRIC.get(entry.datacomp, "top1")
    return "top1"


class ZeroShot(Task[ClassificationDataset]):
    """Images against sentences about classes, with the ensemble and with one template."""

    name = "zero_shot"
    title = "Zero-shot classification"
    section = "zero-shot"
    dataset_type = ClassificationDataset
    version = 3

    def prepare(self, test: ClassificationDataset, data: DatasetSplits) -> None:
        data.with_prompts(test)

    def cache_key_parts(self, data: DatasetSplits) -> dict[str, object]:
        return prompt_key(data)

    def run(
        self, model: EvalModel, test: ClassificationDataset, data: DatasetSplits, store: Store
    ) -> Result:
        test = data.with_prompts(test)
        names, templates = prompts_of(test)
        images, weights, metrics = classified(model, store, test)
        seed = data.settings.seed
        bounds = classification.confidence_intervals(images, weights, test.labels, seed=seed)
        details: dict[str, object] = {}
        if templates != PLAIN and len(test.class_names):
            plain = weights_of(model, test.class_names, PLAIN)
            details["plain"] = classification.measure(images, plain, test.labels)
        if len(test.descriptions) and len(test.class_names):
            by_name = weights_of(model, test.class_names, tuple(test.templates) or PLAIN)
            of_names = classification.measure(images, by_name, test.labels)
            for key in [k for k in ("top1", "top5") if k in of_names]:
                metrics[f"names_{key}"] = of_names[key]
                bounds[f"names_{key}"] = intervals.wilson(of_names[key], len(test))
        if not test.multilabel:
            details["per_class"] = _per_class(images, weights, test)
            details["search"] = search.of_classes(
                images, weights, test.labels, (names, templates), details["per_class"]
            )
            details["predictions"] = search.predictions(
                images, weights, test.labels, _first_names(test, len(weights)), model.logit_scale
            )
        if test.baselines:
            details["baselines"] = dict(test.baselines)
        return Result(
            n=len(test),
            main_metric=_main_metric(data, metrics),
            metrics=metrics,
            intervals=bounds,
            class_names=list(names),
            templates=list(templates),
            details=details,
        )


def prompt_key(data: DatasetSplits) -> dict[str, object]:
    """The prompts of a dataset, for the cache key of tasks that use them."""
    try:
        test = data.with_prompts(data.open("test"))
    except (NotApplicable, DataError):
        return {"prompts": ""}
    names, templates = prompts_of(test)
    return {"prompts": digest(names, templates, test.class_names, test.labels)}


def prompts_of(test: ClassificationDataset) -> tuple[Names, tuple[str, ...]]:
    """The names or descriptions of the classes, and the templates that they go into."""
    if len(test.descriptions):
        return test.descriptions, ("{}",)
    return test.class_names, tuple(test.templates) or PLAIN


def classified(
    model: EvalModel, store: Store, test: ClassificationDataset
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Embeddings of the images, weights of the classes, and what is measured of them."""
    weights = weights_of(model, *prompts_of(test))
    images = store.get("images", model.embedder.images, test, model.preprocess)
    return images, weights, classification.measure(images, weights, test.labels)


def weights_of(model: EvalModel, names: Names, templates: tuple[str, ...]) -> np.ndarray:
    """The classifier float32[K, E] of class names in templates."""
    return zero_shot.classifier(model.embedder.texts, model.tokenize, names, templates)


def _first_names(test: ClassificationDataset, count: int) -> list[str]:
    """One name of each class; numbers where there are none."""
    names = [n if isinstance(n, str) else n[0] for n in test.class_names]
    return names or [str(i) for i in range(count)]


def _per_class(
    images: np.ndarray, weights: np.ndarray, test: ClassificationDataset
) -> list[dict[str, object]]:
    best, _ = zero_shot.predict(images, weights, k=1)
    counts = classification.confusion_matrix(best[:, 0], test.labels, len(weights))
    names = _first_names(test, len(weights))
    return [
        row._asdict() | {
            "name": names[row.index],
            "taken_for": names[row.taken_for] if row.taken_for >= 0 else "",
        }
        for row in classification.per_class(counts)
    ]  # fmt: skip
