"""The tasks of the suite: what each asks of a data set, as the fields of a record."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from clip_jax.data.labelled import CaptionedSet, LabelledSet, MissingData
from clip_jax.evals import classification, few_shot, intervals, linear_probe, retrieval, zero_shot

PLAIN = ("a photo of a {}.",)  # paper section 3.1.4
RETRIEVAL_PREFIX = "a photo of "  # paper Table 13
KS = (1, 5, 10)

# DataComp's main metric where it is not top-1 accuracy, of what is in the catalog.
DATACOMP = {
    "Caltech101": "mean_per_class_recall", "FGVCAircraft": "mean_per_class_recall",
    "Flowers102": "mean_per_class_recall", "OxfordPets": "mean_per_class_recall",
}  # fmt: skip


class NotApplicable(ValueError):
    """A task that a data set does not allow; the message says why."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      takes: the kind of data set.
      run: (model, store, test set, opener, settings) -> fields of the record.
      version: of its numbers; records of another are made anew.
    """

    takes: type
    run: Callable[..., dict[str, Any]]
    version: int = 1


def _main_metric(opener: Any, protocol: str, found: dict[str, float]) -> str:
    if "mean_average_precision" in found:
        return "mean_average_precision" + ("" if protocol == "paper" else "_step")
    if protocol == "paper" and opener.entry is not None and opener.entry.metric in found:
        return opener.entry.metric
    return DATACOMP.get(opener.name, "top1") if protocol == "datacomp" else "top1"


def _zero_shot(
    model: Any, store: Any, test: LabelledSet, opener: Any, settings: Any
) -> dict[str, Any]:
    """Paper section 3.1: pictures against sentences, with the ensemble and with one template."""
    test = opener.prompted(test)
    names, templates = _prompts_of(test)
    images, weights, metrics = _classified(model, store, test)
    details: dict[str, Any] = {}
    if templates != PLAIN and len(test.class_names):
        plain = _weights(model, test.class_names, PLAIN)
        details["plain"] = _shares(classification.measure(images, plain, test.labels))
    if not test.multilabel:
        details["per_class"] = _per_class(images, weights, test)
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


def _prompts_of(test: LabelledSet) -> tuple[Any, tuple[str, ...]]:
    """The texts of the classes, and the templates that they go into."""
    if len(test.descriptions):
        return test.descriptions, ("{}",)
    return test.class_names, tuple(test.templates) or PLAIN


def _classified(
    model: Any, store: Any, test: LabelledSet
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Embeddings of the pictures, weights of the classes, and what is measured of them."""
    weights = _weights(model, *_prompts_of(test))
    images = store.get("images", model.embedder.images, test, model.preprocess)
    return images, weights, classification.measure(images, weights, test.labels)


def _weights(model: Any, names: Any, templates: tuple[str, ...]) -> np.ndarray:
    return zero_shot.classifier(model.embedder.texts, model.tokenize, names, templates)


def _shares(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if k != "n" and not k.endswith("_ci95")}


def _per_class(images: np.ndarray, weights: np.ndarray, test: LabelledSet) -> list[dict[str, Any]]:
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


def _retrieval(
    model: Any, store: Any, test: CaptionedSet, opener: Any, settings: Any
) -> dict[str, Any]:
    """Paper Table 13. Its prefix for captions belongs to its protocol alone."""
    prefix = RETRIEVAL_PREFIX if settings.protocol == "paper" else ""
    texts = model.embedder.texts(model.tokenize([prefix + c for c in test.captions]))
    images = store.get("images", model.embedder.images, test, model.preprocess)
    found = retrieval.recall(images, texts, test.image_of_text, KS)
    for k in KS:
        found[f"mean_r@{k}"] = (found[f"image_to_text_r@{k}"] + found[f"text_to_image_r@{k}"]) / 2
    asking = len(np.unique(test.image_of_text))
    queries = {"image_to_text": asking, "text_to_image": len(texts), "mean": asking}
    return {
        "n": len(texts),
        "main_metric": "mean_r@1" if settings.protocol == "datacomp" else "image_to_text_r@1",
        "metrics": found,
        "intervals": {
            k: intervals.wilson(v, queries[k.partition("_r@")[0]]) for k, v in found.items()
        },
        "templates": [prefix + "{}"],
        "details": {"pictures": len(images), "captions": len(texts)},
    }


def _splits(model: Any, store: Any, test: LabelledSet, opener: Any) -> tuple[Any, Any, Any]:
    """Features and labels of train, val (None where there is none) and test."""
    sets = {"test": test}
    for split in ("train", "val"):
        try:
            sets[split] = opener.open(split)
        except MissingData as error:
            if split == "train":
                raise NotApplicable(f"a probe needs pictures to learn from: {error}") from error
    return tuple(
        (store.get("features", model.embedder.features, s, model.preprocess), s.labels)
        if (s := sets.get(split)) is not None and len(s)
        else None
        for split in ("train", "val", "test")
    )


def _metric(opener: Any, protocol: str, labels: np.ndarray) -> Any:
    """The metric that a penalty is chosen by: that of the data set."""
    if labels.ndim == 2:
        return classification.PAPER_METRICS["11-point mAP"]
    known = {m.key: m for m in classification.PAPER_METRICS.values()}
    key = opener.entry.metric if opener.entry is not None and protocol == "paper" else "top1"
    return known[key]


def _linear_probe(
    model: Any, store: Any, test: LabelledSet, opener: Any, settings: Any
) -> dict[str, Any]:
    """Paper appendix A.3."""
    train, val, test_rows = _splits(model, store, test, opener)
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
    strata = None if labels.ndim == 2 else labels
    for metric in classification.PAPER_METRICS.values():
        if metric.key in result.metrics:
            found[metric.key] = intervals.bootstrap(
                metric.of, result.scores, labels, samples=200, seed=seed, strata=strata
            )
    for key in {"top1", "top5"} & set(result.metrics):
        found[key] = intervals.wilson(result.metrics[key], len(labels))
    return found


def _few_shot(
    model: Any, store: Any, test: LabelledSet, opener: Any, settings: Any
) -> dict[str, Any]:
    """Paper section 3.1.5, Figures 6 to 8."""
    if test.multilabel:
        raise NotApplicable("few-shot needs pictures of one class each")
    train, val, test_rows = _splits(model, store, test, opener)
    classes = max(test.classes, int(train[1].max()) + 1)
    least = np.bincount(train[1], minlength=classes)
    shots = [s for s in settings.shots if s <= least.min()]
    if not shots:
        raise NotApplicable(
            f"class {least.argmin()} has {least.min()} pictures to learn from, fewer than "
            f"{min(settings.shots)} shots"
        )
    metric = _metric(opener, settings.protocol, test.labels)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    curve = few_shot.few_shot(
        train, val, test_rows, shots=shots, seeds=seeds, classes=classes,
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
        *_, found = _classified(model, store, opener.prompted(test))
        details["zero_shot"] = found[metric.key]
        details["efficiency"] = str(few_shot.data_efficiency(curve, found[metric.key]))
    except NotApplicable:
        details["zero_shot"] = details["efficiency"] = None
    return {
        "n": len(test),
        "main_metric": f"{metric.key}@{shots[-1]}",
        "metrics": {f"{metric.key}@{s}": float(m) for s, m in zip(shots, curve.mean, strict=True)},
        "intervals": {
            f"{metric.key}@{s}": _over_draws(v, len(test))
            for s, v in zip(shots, curve.values, strict=True)
        },
        "details": details,
    }


def _over_draws(values: np.ndarray, n: int) -> tuple[float, float]:
    """Of a mean over draws: the pictures' own uncertainty (Wilson), and 1.96 standard errors."""
    mean = float(np.clip(values.mean(), 0, 1))
    low, high = intervals.wilson(mean, n)
    error = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return (
        max(0.0, mean - float(np.hypot(mean - low, error))),
        min(1.0, mean + float(np.hypot(high - mean, error))),
    )


TASKS: dict[str, Task] = {
    "zero_shot": Task(LabelledSet, _zero_shot),
    "retrieval": Task(CaptionedSet, _retrieval),
    "linear_probe": Task(LabelledSet, _linear_probe),
    "few_shot": Task(LabelledSet, _few_shot),
}
