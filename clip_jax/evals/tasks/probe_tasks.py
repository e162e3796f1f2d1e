"""The suite's probes of features, linear and few-shot: as the fields of a record."""

from typing import Any

import numpy as np

from clip_jax.data.errors import DataError, MissingData
from clip_jax.data.test_sets.types import ClassificationDataset
from clip_jax.evals.metrics import classification, intervals
from clip_jax.evals.probes import few_shot, linear_probe
from clip_jax.evals.records import NotApplicable
from clip_jax.evals.tasks import zero_shot_task
from clip_jax.evals.tasks.zero_shot_task import classified


def splits(test: ClassificationDataset, opener: Any) -> dict[str, ClassificationDataset]:
    """The sets "train", "val" (where there is one) and "test".

    Raises:
      NotApplicable: there is no train, or it has pictures of test, or other classes.
    """
    sets = {"test": test}
    scored = {test.describe(i) for i in range(len(test))}
    for split in ("train", "val"):
        try:
            found = opener.open(split)
        except MissingData as error:
            if split == "train":
                raise NotApplicable(f"a probe needs pictures to learn from: {error}") from error
            continue
        seen = next((d for i in range(len(found)) if (d := found.describe(i)) in scored), None)
        if seen is None and len(found):
            sets[split] = found
        elif split == "train":
            raise NotApplicable(
                f"a probe needs pictures to learn from, but train has pictures of test ({seen}): "
                "give each split a folder of its own, or name it in a column split"
            )
        if list(found.class_names) != list(test.class_names):
            raise NotApplicable(f"the classes of {split} are not those of test, in their order")
    return sets


def shots(train: ClassificationDataset, test: ClassificationDataset, settings: Any) -> list[int]:
    """The numbers of shots that every class of train has pictures for.

    Raises:
      NotApplicable: there are none.
    """
    if test.multilabel:
        raise NotApplicable("few-shot needs pictures of one class each")
    least = np.bincount(train.labels, minlength=max(test.classes, train.classes))
    found = [s for s in settings.shots if s <= least.min()]
    if not found:
        raise NotApplicable(
            f"class {least.argmin()} has {least.min()} pictures to learn from, fewer than "
            f"{min(settings.shots)} shots"
        )
    return found


def _features(
    model: Any, store: Any, sets: dict[str, ClassificationDataset]
) -> tuple[Any, Any, Any]:
    """Features and labels of train, val (None where there is none) and test."""
    return tuple(
        (store.get("features", model.embedder.features, s, model.preprocess), s.labels)
        if (s := sets.get(split)) is not None
        else None
        for split in ("train", "val", "test")
    )


def few_shot_facts(settings: Any, opener: Any) -> dict[str, Any]:
    """As ``facts``, of few-shot probes and the zero-shot classifier beside them."""
    drawn = {"shots": list(settings.shots), "seeds": settings.seeds}
    return facts(settings, opener) | zero_shot_task.facts(settings, opener) | drawn


def facts(settings: Any, opener: Any) -> dict[str, Any]:
    """What decides the numbers besides the test set: for the key of records."""
    del settings
    found = {}
    for split in ("train", "val"):
        try:
            found[split] = opener.open(split).fingerprint
        except DataError:
            found[split] = ""
    return found


def _metric(opener: Any, protocol: str, labels: np.ndarray) -> Any:
    """The metric that a penalty is chosen by: that of the data set, where the labels allow it."""
    metrics = classification.PAPER_METRICS
    if labels.ndim == 2:
        return metrics["11-point mAP"] if protocol == "paper" else classification.STEP_METRIC
    key = opener.entry.metric if opener.entry is not None and protocol == "paper" else "top1"
    several = key == metrics["11-point mAP"].key
    one_class = key == metrics["ROC AUC"].key and len(np.unique(labels)) != 2
    known = {m.key: m for m in metrics.values()}
    return known["top1" if several or one_class else key]


def linear_probe_record(
    model: Any, store: Any, test: ClassificationDataset, opener: Any, settings: Any
) -> dict[str, Any]:
    """Paper appendix A.3."""
    train, val, test_rows = _features(model, store, splits(test, opener))
    metric = _metric(opener, settings.protocol, test.labels)
    result = linear_probe.probe(
        train, val, test_rows, metric=metric.of, seed=settings.seed, mesh=model.mesh
    )
    return {
        "n": len(test),
        "main_metric": metric.key,
        "metrics": result.metrics,
        "intervals": _probe_intervals(result, test.labels, settings.seed),
        "details": {
            "lambda": result.lam,
            "visited": [list(pair) for pair in result.visited],
            "gradient_norm": result.gradient_norm,
            "converged": result.converged,
            "unconverged": list(result.unconverged),
            "train": len(train[1]),
            "val": len(val[1]) if val else 0,
        },
    }


def _probe_intervals(
    result: linear_probe.ProbeResult, labels: np.ndarray, seed: int
) -> dict[str, tuple[float, float]]:
    found = {}
    for metric in (*classification.PAPER_METRICS.values(), classification.STEP_METRIC):
        if metric.key not in result.metrics or metric.key == "top1":
            continue
        # Within classes, but for a figure that weighs pictures alike.
        draw = intervals.bootstrap if metric.key == "mean_top1_top5" else classification.resampled
        found[metric.key] = draw(metric.of, result.scores, labels, samples=200, seed=seed)
    for key in {"top1", "top5"} & set(result.metrics):
        found[key] = intervals.wilson(result.metrics[key], len(labels))
    return found


def few_shot_record(
    model: Any, store: Any, test: ClassificationDataset, opener: Any, settings: Any
) -> dict[str, Any]:
    """Paper section 3.1.5, Figures 6 to 8."""
    sets = splits(test, opener)
    numbers = shots(sets["train"], test, settings)
    train, val, test_rows = _features(model, store, sets)
    classes = max(test.classes, sets["train"].classes)
    metric = _metric(opener, settings.protocol, test.labels)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    curve = few_shot.few_shot(
        train, val, test_rows, shots=numbers, seeds=seeds, classes=classes,
        metric=metric.of, mesh=model.mesh,
    )  # fmt: skip
    points = zip(curve.shots, curve.mean, curve.standard_deviation, curve.values, strict=True)
    details: dict[str, Any] = {
        "curve": [
            {"shots": s, "mean": float(m), "std": float(d), "values": list(map(float, v))}
            for s, m, d, v in points
        ]
    }
    try:
        *_, found = classified(model, store, opener.prompted(test))
        details["zero_shot"] = found[metric.key]
        details["efficiency"] = _efficiency(curve, found[metric.key])
    except NotApplicable:
        details["zero_shot"] = details["efficiency"] = None
    return {
        "n": len(test),
        "main_metric": f"{metric.key}@{numbers[-1]}",
        "metrics": {
            f"{metric.key}@{s}": float(m) for s, m in zip(numbers, curve.mean, strict=True)
        },
        "intervals": {
            f"{metric.key}@{s}": _over_draws(v, len(test))
            for s, v in zip(numbers, curve.values, strict=True)
        },
        "details": details,
    }


def _efficiency(curve: few_shot.Curve, zero_shot: float) -> dict[str, Any]:
    """What zero-shot is worth in shots: None where no probe reaches it; then more than ``most``."""
    rows, bound = few_shot.data_efficiency(curve, zero_shot)
    return {"shots": None if bound == ">" else rows, "bound": bound, "most": curve.shots[-1]}


def _over_draws(values: np.ndarray, n: int) -> tuple[float, float]:
    """Of a mean over draws: the pictures' own uncertainty (Wilson), and 1.96 standard errors."""
    mean = float(np.clip(values.mean(), 0, 1))
    low, high = intervals.wilson(mean, n)
    error = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return (
        max(0.0, mean - float(np.hypot(mean - low, error))),
        min(1.0, mean + float(np.hypot(high - mean, error))),
    )
