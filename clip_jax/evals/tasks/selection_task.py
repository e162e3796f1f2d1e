"""The suite's image-caption selection: as the fields of a record."""

from typing import Any

import numpy as np

from clip_jax.data.test_sets.types import CompositionalityDataset
from clip_jax.evals.metrics import caption_selection, intervals
from clip_jax.evals.records import NotApplicable


def caption_selection_record(
    model: Any, store: Any, test: CompositionalityDataset, opener: Any, settings: Any
) -> dict[str, Any]:
    """Winoground's and SugarCrepe's choices, with the captions as they are.

    A score is given where every instance has a choice for it: ``text_score`` takes several
    captions, ``image_score`` several pictures, ``group_score`` both.

    Raises:
      NotApplicable: some instances choose between captions only, and others between pictures.
    """
    choices = {
        "text_score": bool((test.captions_each > 1).all()),
        "image_score": bool((test.images_each > 1).all()),
    }
    choices["group_score"] = all(choices.values())
    if not any(choices.values()):
        raise NotApplicable(
            "some instances have one caption and others one picture; put each kind in a file of "
            "its own"
        )
    texts = model.embedder.texts(model.tokenize(list(test.captions)))
    images = store.get("images", model.embedder.images, test, model.preprocess)
    right = caption_selection.select(images, texts, test.instance_of_image, test.instance_of_text)
    n = len(test.instances)
    found = {name: float(np.mean(right[name])) for name, given in choices.items() if given}
    return {
        "n": n,
        "main_metric": "group_score" if "group_score" in found else next(iter(found)),
        "metrics": found,
        "intervals": {name: intervals.wilson(share, n) for name, share in found.items()},
        "templates": ["{}"],
        "details": {"pictures": len(images), "captions": len(texts)},
    }
