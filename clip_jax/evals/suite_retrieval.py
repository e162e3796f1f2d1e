"""The suite's retrieval between pictures and captions: as the fields of a record."""

from typing import Any

import numpy as np

from clip_jax.data.labelled import CaptionedSet
from clip_jax.evals import intervals, retrieval

RETRIEVAL_PREFIX = "a photo of "  # paper Table 13
KS = (1, 5, 10)


def retrieval_record(
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
