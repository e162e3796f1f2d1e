"""Few-shot probes, paper section 3.1.5."""

import numpy as np

from clip_jax.data.test_sets.types import ClassificationDataset
from clip_jax.evals.datasets.resolve import DatasetSplits
from clip_jax.evals.feature_store import Store
from clip_jax.evals.metrics import intervals
from clip_jax.evals.probes import few_shot
from clip_jax.evals.probes.logistic import Solver
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.tasks.linear_probe import chosen_metric, features, splits, splits_key
from clip_jax.evals.tasks.zero_shot import classified, prompt_key
from clip_jax.evals.types import EvalModel, EvalSettings, NotApplicable, Result


class FewShot(Task[ClassificationDataset]):
    """Probes by the number of examples a class: paper Figures 6 to 8."""

    name = "few_shot"
    title = "Few-shot probe"
    section = "few-shot"
    dataset_type = ClassificationDataset
    version = 2

    def prepare(self, test: ClassificationDataset, data: DatasetSplits) -> None:
        _shots(splits(test, data)["train"], test, data.settings)

    def cache_key_parts(self, data: DatasetSplits) -> dict[str, object]:
        drawn = {"shots": list(data.settings.shots), "seeds": data.settings.seeds}
        return splits_key(data) | prompt_key(data) | drawn

    def run(
        self, model: EvalModel, test: ClassificationDataset, data: DatasetSplits, store: Store
    ) -> Result:
        settings = data.settings
        sets = splits(test, data)
        numbers = _shots(sets["train"], test, settings)
        train, val, test_rows = features(model, store, sets)
        classes = max(test.classes, sets["train"].classes)
        metric = chosen_metric(data, test.labels)
        seeds = range(settings.seed, settings.seed + settings.seeds)
        of_curve = few_shot.FewShotSettings(
            numbers, seeds, classes, metric.of, solver=Solver(model.mesh)
        )
        curve = few_shot.few_shot(train, val, test_rows, of_curve)
        points = zip(curve.shots, curve.mean, curve.standard_deviation, curve.values, strict=True)
        details: dict[str, object] = {
            "curve": [
                {"shots": s, "mean": float(m), "std": float(d), "values": list(map(float, v))}
                for s, m, d, v in points
            ]
        }
        try:
            *_, metrics = classified(model, store, data.with_prompts(test))
            details["zero_shot"] = metrics[metric.key]
            details["efficiency"] = _efficiency(curve, metrics[metric.key])
        except NotApplicable:
            details["zero_shot"] = details["efficiency"] = None
        return Result(
            n=len(test),
            main_metric=f"{metric.key}@{numbers[-1]}",
            metrics={
                f"{metric.key}@{s}": float(m) for s, m in zip(numbers, curve.mean, strict=True)
            },
            intervals={
                f"{metric.key}@{s}": _over_draws(v, len(test))
                for s, v in zip(numbers, curve.values, strict=True)
            },
            details=details,
        )


def _shots(
    train: ClassificationDataset, test: ClassificationDataset, settings: EvalSettings
) -> list[int]:
    """The numbers of shots that every class of train has images for.

    Raises:
      NotApplicable: there are none.
    """
    if test.multilabel:
        raise NotApplicable("few-shot needs images of one class each")
    least = np.bincount(train.labels, minlength=max(test.classes, train.classes))
    possible = [s for s in settings.shots if s <= least.min()]
    if not possible:
        raise NotApplicable(
            f"class {least.argmin()} has {least.min()} images to learn from, fewer than "
            f"{min(settings.shots)} shots"
        )
    return possible


def _efficiency(curve: few_shot.Curve, zero_shot: float) -> dict[str, object]:
    """Shots that match zero-shot; None where no probe of up to ``most`` shots does."""
    rows, bound = few_shot.data_efficiency(curve, zero_shot)
    return {"shots": None if bound == ">" else rows, "bound": bound, "most": curve.shots[-1]}


def _over_draws(values: np.ndarray, n: int) -> tuple[float, float]:
    """Of a mean over draws: Wilson's interval of the images, and 1.96 standard errors."""
    mean = float(np.clip(values.mean(), 0, 1))
    low, high = intervals.wilson(mean, n)
    error = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return (
        max(0.0, mean - float(np.hypot(mean - low, error))),
        min(1.0, mean + float(np.hypot(high - mean, error))),
    )
