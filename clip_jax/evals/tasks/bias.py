"""Bias probes (paper section 7.1) on a user's own dataset.

See the caveats in ``evals.metrics.bias`` on what they do not measure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clip_jax.data.test_sets.types import ClassificationDataset
from clip_jax.evals.datasets.prompts import PLAIN
from clip_jax.evals.datasets.resolve import DatasetSplits
from clip_jax.evals.feature_store import Store
from clip_jax.evals.metrics import bias, intervals
from clip_jax.evals.metrics.ranking import quantized_unit_rows
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.tasks.zero_shot import prompt_key, prompts_of, weights_of
from clip_jax.evals.types import EvalModel, EvalSettings, NotApplicable, Result

# An Embedder has no temperature: this is the greatest that training allows (paper section 2.5).
LOGIT_SCALE = 100.0
CLASS_SETS = {"default": False, "with child": True}
HARMFUL = ("crime-related", "non-human")
_LABELS = 20  # shown of each threshold


class Bias(Task[ClassificationDataset]):
    """How often each group is given each category of class, and its own class.

    Metrics: ``agreement``, the share of images whose own class is the best; ``disparity_A``, the
    largest difference in it between two groups of the attribute A, with bounds for all pairs of
    groups at once; ``crime_related`` and ``non_human``, the shares of images that are given such
    a class of the paper's. The first two are left out where a dataset has no names of classes, or
    several classes an image.
    """

    name = "bias"
    title = "Bias probes"
    section = "bias"
    dataset_type = ClassificationDataset

    def default_on(self, test: ClassificationDataset, settings: EvalSettings) -> bool:
        return bool(test.groups)

    def prepare(self, test: ClassificationDataset, data: DatasetSplits) -> None:
        if not test.groups:
            raise NotApplicable(
                f"{test.name} names no groups of its images: give a table (csv:PATH) and the "
                "columns with them by --group-keys=race,gender,age"
            )

    def cache_key_parts(self, data: DatasetSplits) -> dict[str, Any]:
        return prompt_key(data)

    def run(
        self, model: EvalModel, test: ClassificationDataset, data: DatasetSplits, store: Store
    ) -> Result:
        self.prepare(test, data)
        images = quantized_unit_rows(
            store.get("images", model.embedder.images, test, model.preprocess)
        )
        rates = bias.probe(_class_sets(model, images), test.groups)
        shares = {category: _overall(rates, category) for category in HARMFUL}
        metrics = {category.replace("-", "_"): share for category, share in shares.items()}
        bounds = {name: intervals.wilson(share, len(test)) for name, share in metrics.items()}
        details: dict[str, Any] = {"rates": rates, "disparities": _disparities(rates)}
        names: list[str] = []
        if (named := _named(data, test)) is not None:
            texts, templates = prompts_of(named)
            templates = templates if len(named.descriptions) else PLAIN
            cosines = images @ quantized_unit_rows(weights_of(model, texts, templates)).T
            names = [n if isinstance(n, str) else n[0] for n in named.class_names or texts]
            details |= {"gendered_labels": _gendered(cosines, names, test.groups)}
            details |= {"logit_scale": LOGIT_SCALE, "labels": len(names)}
            if not named.multilabel:
                details["agreement"], own, own_bounds = _agreement(cosines, named)
                metrics, bounds = own | metrics, own_bounds | bounds
        return Result(
            n=len(test),
            main_metric="agreement" if "agreement" in metrics else "crime_related",
            metrics=metrics,
            intervals=bounds,
            class_names=names,
            templates=list(PLAIN),
            details=details,
        )


def _class_sets(
    model: EvalModel, images: np.ndarray
) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Of each of the paper's class sets the cosines and the categories."""
    found = {}
    for name, child in CLASS_SETS.items():
        classes = bias.class_set(child=child)
        weights = quantized_unit_rows(weights_of(model, classes.names, PLAIN))
        found[name] = images @ weights.T, classes.categories
    return found


def _named(data: DatasetSplits, test: ClassificationDataset) -> ClassificationDataset | None:
    """The set with the names of its classes, or the user's; None where there are none."""
    try:
        return data.with_prompts(test)
    except NotApplicable:
        return None


def _overall(rates: Sequence[Mapping[str, Any]], category: str) -> float:
    """The share of all images that are given a class of a category, of the default set."""
    wanted = ("default", category, "all")
    return next(
        row["share"] for row in rates
        if (row["class_set"], row["category"], row["group"]) == wanted
    )  # fmt: skip


def _disparities(rates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The largest differences between groups in what they are given of harmful classes."""
    found = {}
    for row in rates:
        if row["category"] in HARMFUL:
            key = (row["class_set"], row["attribute"], row["category"])
            found.setdefault(key, []).append(bias.Rate(*(row[f] for f in bias.Rate._fields)))
    return [
        {"class_set": name, "attribute": attribute, "category": category} | largest
        for (name, attribute, category), groups in found.items()
        if (largest := _disparity(groups)) is not None
    ]


def _disparity(rates: Sequence[bias.Rate]) -> dict[str, Any] | None:
    """The largest difference between groups; None where there is but one."""
    return bias.disparity(rates)._asdict() if len(rates) > 2 else None  # "all" is among them


def _agreement(
    cosines: np.ndarray, named: ClassificationDataset
) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, tuple[float, float]]]:
    """Of every attribute the agreement by group; and what of it are metrics, with intervals."""
    found, metrics, bounds = [], {}, {}
    for attribute, groups in named.groups.items():
        rates = bias.agreement(cosines, named.labels, groups)
        metrics["agreement"] = rates[-1].share
        bounds["agreement"] = rates[-1].low, rates[-1].high
        largest = _disparity(rates)
        found.append({
            "attribute": attribute,
            "rates": [rate._asdict() for rate in rates],
            "disparity": largest,
        })  # fmt: skip
        if largest:
            metrics[f"disparity_{attribute}"] = largest["difference"]
            bounds[f"disparity_{attribute}"] = largest["low"], largest["high"]
    return found, metrics, bounds


def _gendered(
    cosines: np.ndarray, names: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Of every attribute with two groups, the labels that differ most between them."""
    logits = LOGIT_SCALE * cosines
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exps / exps.sum(axis=1, keepdims=True)
    return [
        {
            "attribute": attribute,
            "groups": sorted(set(values)),
            "threshold": threshold,
            "labels": [
                row._asdict() | {"shares": list(row.shares)}
                for row in bias.gendered_labels(probabilities, names, values, threshold)[:_LABELS]
            ],
        }
        for attribute, values in groups.items()
        if len(set(values)) == 2
        for threshold in bias.THRESHOLDS
    ]
