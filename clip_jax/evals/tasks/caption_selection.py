"""Image-caption selection: whether similar images and captions are told apart."""

import numpy as np

from clip_jax.data.test_sets.types import CompositionalityDataset
from clip_jax.evals.datasets.resolve import DatasetSplits
from clip_jax.evals.feature_store import Store
from clip_jax.evals.metrics import caption_selection, intervals
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.types import EvalModel, NotApplicable, Result


class CaptionSelection(Task[CompositionalityDataset]):
    """Winoground's and SugarCrepe's choices, with the captions as they are.

    A score is given where every instance has a choice for it: ``text_score`` takes several
    captions, ``image_score`` several images, ``group_score`` both.
    """

    name = "caption_selection"
    title = "Image-caption selection"
    dataset_type = CompositionalityDataset

    def prepare(self, test: CompositionalityDataset, data: DatasetSplits) -> None:
        _choices(test)

    def run(
        self, model: EvalModel, test: CompositionalityDataset, data: DatasetSplits, store: Store
    ) -> Result:
        choices = _choices(test)
        texts = model.embedder.texts(model.tokenize(list(test.captions)))
        images = store.get("images", model.embedder.images, test, model.preprocess)
        right = caption_selection.select(
            images, texts, test.instance_of_image, test.instance_of_text
        )
        n = len(test.instances)
        metrics = {name: float(np.mean(right[name])) for name, given in choices.items() if given}
        return Result(
            n=n,
            main_metric="group_score" if "group_score" in metrics else next(iter(metrics)),
            metrics=metrics,
            intervals={name: intervals.wilson(share, n) for name, share in metrics.items()},
            templates=["{}"],
            details={"pictures": len(images), "captions": len(texts)},
        )


def _choices(test: CompositionalityDataset) -> dict[str, bool]:
    """The scores, each with whether every instance has a choice for it.

    Raises:
      NotApplicable: some instances choose between captions only, and others between images.
    """
    choices = {
        "text_score": bool((test.captions_each > 1).all()),
        "image_score": bool((test.images_each > 1).all()),
    }
    choices["group_score"] = all(choices.values())
    if not any(choices.values()):
        raise NotApplicable(
            "some instances have one caption and others one image; put each kind in a file of "
            "its own"
        )
    return choices
