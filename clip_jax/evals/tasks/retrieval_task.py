"""The suite's retrieval between pictures and captions: as the fields of a record."""

from typing import Any

import numpy as np

from clip_jax.data.test_sets.types import RetrievalDataset
from clip_jax.evals.datasets.prompts import RETRIEVAL_PREFIX
from clip_jax.evals.metrics import intervals, retrieval
from clip_jax.evals.tasks import search

KS = (1, 5, 10)


def retrieval_record(
    model: Any, store: Any, test: RetrievalDataset, opener: Any, settings: Any
) -> dict[str, Any]:
    """Paper Table 13. Its prefix for captions belongs to its protocol and its data sets."""
    prefix = RETRIEVAL_PREFIX if settings.protocol == "paper" and opener.entry else ""
    texts = model.embedder.texts(model.tokenize([prefix + c for c in test.captions]))
    images = store.get("images", model.embedder.images, test, model.preprocess)
    shares = retrieval.hit_shares(images, texts, test.image_of_text, KS)
    found = {name: float(values.mean()) for name, values in shares.items()}
    asking = np.unique(test.image_of_text)
    clusters = {"image_to_text": asking, "text_to_image": test.image_of_text}
    between = {k: intervals.clustered(v, clusters[k[:13]]) for k, v in shares.items()}
    for k in KS:
        ways = [found[f"{way}_r@{k}"] for way in clusters]
        found[f"mean_r@{k}"] = sum(ways) / 2
        between[f"mean_r@{k}"] = intervals.wilson(sum(ways) / 2, len(asking))
    return {
        "n": len(texts),
        "main_metric": "mean_r@1" if settings.protocol == "datacomp" else "image_to_text_r@1",
        "metrics": found,
        "intervals": between,
        "templates": [prefix + "{}"],
        "details": {
            "pictures": len(images),
            "captions": len(texts),
            "search": search.of_captions(images, texts, test.captions, test.image_of_text),
        },
    }
