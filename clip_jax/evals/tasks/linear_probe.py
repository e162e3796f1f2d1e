"""Linear probes, and what few-shot probes share with them: splits, features and metric."""

import numpy as np

from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.test_sets.types import ClassificationDataset
from clip_jax.evals.datasets.resolve import DatasetSplits
from clip_jax.evals.feature_store import Store
from clip_jax.evals.metrics import classification, intervals
from clip_jax.evals.probes import linear_probe
from clip_jax.evals.probes.logistic import Solver
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.types import EvalModel, NotApplicable, Result

# Features float32[n, F] and labels of a split.
Split = tuple[np.ndarray, np.ndarray]


def splits(test: ClassificationDataset, data: DatasetSplits) -> dict[str, ClassificationDataset]:
    """The sets "train", "val" (where there is one) and "test".

    Raises:
      NotApplicable: there is no train, or it has images of test, or other classes.
    """
    sets = {"test": test}
    scored = {test.describe(i) for i in range(len(test))}
    for split in ("train", "val"):
        try:
            images = data.open(split)
        except MissingData as error:
            if split == "train":
                raise NotApplicable(f"a probe needs images to learn from: {error}") from error
            continue
        seen = next((d for i in range(len(images)) if (d := images.describe(i)) in scored), None)
        if seen is None and len(images):
            sets[split] = images
        elif split == "train":
            raise NotApplicable(
                f"a probe needs images to learn from, but train has images of test ({seen}): "
                "give each split a folder of its own, or name it in a column split"
            )
        if list(images.class_names) != list(test.class_names):
            raise NotApplicable(f"the classes of {split} are not those of test, in their order")
    return sets


def features(
    model: EvalModel, store: Store, sets: dict[str, ClassificationDataset]
) -> tuple[Split, Split | None, Split]:
    """Features and labels of train, val (None where there is none) and test."""
    return tuple(
        (store.get("features", model.embedder.features, s, model.preprocess), s.labels)
        if (s := sets.get(split)) is not None
        else None
        for split in ("train", "val", "test")
    )


def splits_key(data: DatasetSplits) -> dict[str, object]:
    """The splits that a probe learns from, for cache keys."""
    fingerprints = {}
    for split in ("train", "val"):
        try:
            fingerprints[split] = data.open(split).fingerprint
        except DataError:
            fingerprints[split] = ""
    return fingerprints


def chosen_metric(data: DatasetSplits, labels: np.ndarray) -> classification.PaperMetric:
    """The metric that a penalty is chosen by: that of the dataset, where the labels allow it."""
    protocol = data.settings.protocol
    metrics = classification.PAPER_METRICS
    if labels.ndim == 2:
        return metrics["11-point mAP"] if protocol == "paper" else classification.STEP_METRIC
    key = data.entry.metric if data.entry is not None and protocol == "paper" else "top1"
    several = key == metrics["11-point mAP"].key
    one_class = key == metrics["ROC AUC"].key and len(np.unique(labels)) != 2
    known = {m.key: m for m in metrics.values()}
    return known["top1" if several or one_class else key]


class LinearProbe(Task[ClassificationDataset]):
    """Logistic regression on image features: paper section 3.2 and appendix A.3."""

    name = "linear_probe"
    title = "Linear probe"
    section = "linear-probe"
    dataset_type = ClassificationDataset

    def prepare(self, test: ClassificationDataset, data: DatasetSplits) -> None:
        splits(test, data)

    def cache_key_parts(self, data: DatasetSplits) -> dict[str, object]:
        return splits_key(data)

    def run(
        self, model: EvalModel, test: ClassificationDataset, data: DatasetSplits, store: Store
    ) -> Result:
        train, val, test_rows = features(model, store, splits(test, data))
        metric = chosen_metric(data, test.labels)
        of_probe = linear_probe.ProbeSettings(
            metric=metric.of, seed=data.settings.seed, solver=Solver(model.mesh)
        )
        result = linear_probe.probe(train, val, test_rows, of_probe)
        return Result(
            n=len(test),
            main_metric=metric.key,
            metrics=result.metrics,
            intervals=_probe_intervals(result, test.labels, data.settings.seed),
            details={
                "lambda": result.lam,
                "visited": [list(pair) for pair in result.visited],
                "gradient_norm": result.gradient_norm,
                "converged": result.converged,
                "unconverged": list(result.unconverged),
                "train": len(train[1]),
                "val": len(val[1]) if val else 0,
            },
        )


def _probe_intervals(
    result: linear_probe.ProbeResult, labels: np.ndarray, seed: int
) -> dict[str, tuple[float, float]]:
    bounds = {}
    for metric in (*classification.PAPER_METRICS.values(), classification.STEP_METRIC):
        if metric.key not in result.metrics or metric.key == "top1":
            continue
        # Within classes, except for a metric that weighs images alike.
        draw = intervals.bootstrap if metric.key == "mean_top1_top5" else classification.resampled
        bounds[metric.key] = draw(metric.of, result.scores, labels, samples=200, seed=seed)
    for key in {"top1", "top5"} & set(result.metrics):
        bounds[key] = intervals.wilson(result.metrics[key], len(labels))
    return bounds
