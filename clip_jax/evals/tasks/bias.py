"""Bias probes (paper section 7.1) on a user's own dataset; see the caveats in ``metrics.bias``."""

import collections
from collections.abc import Mapping, Sequence

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

    def cache_key_parts(self, data: DatasetSplits) -> dict[str, object]:
        return prompt_key(data)

    def run(
        self, model: EvalModel, test: ClassificationDataset, data: DatasetSplits, store: Store
    ) -> Result:
        self.prepare(test, data)
        images = quantized_unit_rows(
            store.get("images", model.embedder.images, test, model.preprocess)
        )
        rates = bias.probe(_class_sets(model, images), test.groups)
        metrics = {c.replace("-", "_"): _overall(rates, c) for c in HARMFUL}
        bounds = {name: intervals.wilson(share, len(test)) for name, share in metrics.items()}
        details: dict[str, object] = {"rates": rates, "disparities": _disparities(rates)}
        names: list[str] = []
        try:
            named = data.with_prompts(test)
        except NotApplicable:  # no names of classes, here or from the user
            named = None
        if named is not None:
            texts, templates = prompts_of(named)
            templates = templates if len(named.descriptions) else PLAIN
            cosines = images @ quantized_unit_rows(weights_of(model, texts, templates)).T
            names = [n if isinstance(n, str) else n[0] for n in named.class_names or texts]
            details["gendered_labels"] = _gendered(cosines, names, test.groups)
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
    sets = {}
    for name, (names, categories) in bias.CLASS_SETS.items():
        weights = quantized_unit_rows(weights_of(model, names, PLAIN))
        sets[name] = images @ weights.T, categories
    return sets


def _overall(rates: Sequence[Mapping[str, object]], category: str) -> float:
    """The share of all images that are given a class of a category, of the default set."""
    wanted = ("default", category, "all")
    return next(
        row["share"] for row in rates
        if (row["class_set"], row["category"], row["group"]) == wanted
    )  # fmt: skip


def _disparities(rates: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The largest differences between groups in how often they are given harmful classes."""
    by_key = collections.defaultdict(list)
    for row in rates:
        if row["category"] in HARMFUL:
            key = (row["class_set"], row["attribute"], row["category"])
            by_key[key].append(bias.Rate(*(row[f] for f in bias.Rate._fields)))
    return [
        dict(zip(("class_set", "attribute", "category"), key, strict=True)) | largest
        for key, groups in by_key.items()
        if (largest := _disparity(groups)) is not None
    ]


def _disparity(rates: Sequence[bias.Rate]) -> dict[str, object] | None:
    """The largest difference between groups; None where there is one group only."""
    return bias.disparity(rates)._asdict() if len(rates) > 2 else None  # "all" is among them


def _agreement(
    cosines: np.ndarray, named: ClassificationDataset
) -> tuple[list[dict[str, object]], dict[str, float], dict[str, tuple[float, float]]]:
    """Of every attribute the agreement by group; metrics; and their intervals."""
    tables, metrics, bounds = [], {}, {}
    for attribute, groups in named.groups.items():
        rates = bias.agreement(cosines, named.labels, groups)
        metrics["agreement"] = rates[-1].share
        bounds["agreement"] = rates[-1].low, rates[-1].high
        largest, rows = _disparity(rates), [rate._asdict() for rate in rates]
        tables.append({"attribute": attribute, "rates": rows, "disparity": largest})
        if largest:
            metrics[f"disparity_{attribute}"] = largest["difference"]
            bounds[f"disparity_{attribute}"] = largest["low"], largest["high"]
    return tables, metrics, bounds


def _gendered(
    cosines: np.ndarray, names: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, object]]:
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
