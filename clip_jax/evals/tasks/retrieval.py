"""Retrieval between images and captions."""

import numpy as np

from clip_jax.data.test_sets.types import RetrievalDataset
from clip_jax.evals.datasets.prompts import RETRIEVAL_PREFIX
from clip_jax.evals.datasets.resolve import DatasetSplits
from clip_jax.evals.feature_store import Store
from clip_jax.evals.metrics import intervals, retrieval
from clip_jax.evals.tasks import search
from clip_jax.evals.tasks.base import Task
from clip_jax.evals.types import EvalModel, Result

KS = (1, 5, 10)


class Retrieval(Task[RetrievalDataset]):
    """Retrieval of captions by images and of images by captions: paper Table 13."""

    name = "retrieval"
    title = "Retrieval"
    section = "retrieval"
    dataset_type = RetrievalDataset
    version = 3

    def run(
        self, model: EvalModel, test: RetrievalDataset, data: DatasetSplits, store: Store
    ) -> Result:
        # The prefix belongs to the paper's protocol and its datasets.
        prefix = RETRIEVAL_PREFIX if data.settings.protocol == "paper" and data.entry else ""
        texts = model.embedder.texts(model.tokenize([prefix + c for c in test.captions]))
        images = store.get("images", model.embedder.images, test, model.preprocess)
        shares = retrieval.expected_hits(images, texts, test.image_of_text, KS)
        metrics = {name: float(values.mean()) for name, values in shares.items()}
        captioned = np.unique(test.image_of_text)
        clusters = {"image_to_text": captioned, "text_to_image": test.image_of_text}
        bounds = {k: intervals.clustered(v, clusters[k[:13]]) for k, v in shares.items()}
        for k in KS:
            mean = sum(metrics[f"{way}_r@{k}"] for way in clusters) / 2
            metrics[f"mean_r@{k}"] = mean
            bounds[f"mean_r@{k}"] = intervals.wilson(mean, len(captioned))
        pairs = (images, texts, test.captions, test.image_of_text)
        return Result(
            n=len(texts),
            main_metric="mean_r@1" if data.settings.protocol == "datacomp" else "image_to_text_r@1",
            metrics=metrics,
            intervals=bounds,
            templates=[prefix + "{}"],
            details={
                "pictures": len(images),
                "captions": len(texts),
                "search": search.of_captions(*pairs),
                "image_search": search.of_images(*pairs),
                "similarity": search.similarity(*pairs),
            },
        )
