"""Choosing between look-alikes: images and captions that are told apart within a small group.

Winoground (Thrush et al. 2022) gives two images and two captions made of the same words,
SugarCrepe (Hsieh et al. 2023) one image, its caption and a wrong one. In either the i-th image
of an instance belongs to its i-th caption; what is left over on the longer side only misleads.
"""

import numpy as np

from clip_jax.evals.metrics.ranking import quantized_unit_rows
from clip_jax.evals.metrics.validation import integers

# CLIP_benchmark's names of these scores, in its task image_caption_selection.
CLIP_BENCHMARK = {"text_acc": "text_score", "image_acc": "image_score", "acc": "group_score"}


def select(
    image_emb: np.ndarray,
    text_emb: np.ndarray,
    instance_of_image: np.ndarray,
    instance_of_text: np.ndarray,
) -> dict[str, np.ndarray]:
    """Returns for every instance whether its images and captions prefer each other.

    A choice is right if the right answer scores higher than every other one; a tie is wrong, as in
    Winoground's definition. (CLIP_benchmark takes the first of tied answers.)

    Args:
      image_emb: float[n, E], any scale; the images of an instance in the order of its captions.
      text_emb: float[m, E], any scale.
      instance_of_image, instance_of_text: int[n] and int[m]; an instance has one or more of each.

    Returns:
      For the instances in rising order, bool arrays: ``text_score``, every image prefers its
      caption; ``image_score``, every caption prefers its image; ``group_score``, both. With one
      image there is nothing to choose for the caption and ``image_score`` is true.

    Raises:
      ValueError: no instance, one without an image or caption, or arrays that do not fit.
    """
    images, texts = (
        quantized_unit_rows(image_emb, "image embeddings"),
        quantized_unit_rows(text_emb, "captions"),
    )
    image_rows = _rows_by_instance(instance_of_image, len(images), "instance_of_image")
    text_rows = _rows_by_instance(instance_of_text, len(texts), "instance_of_text")
    if lonely := sorted(image_rows.keys() ^ text_rows.keys()):
        side = "caption" if lonely[0] in image_rows else "image"
        raise ValueError(f"instance {lonely[0]} has no {side}: leave it out, or add one")
    right = np.empty((len(image_rows), 2), bool)
    for i, instance in enumerate(sorted(image_rows)):
        scores = images[image_rows[instance]] @ texts[text_rows[instance]].T
        right[i] = _all_prefer_their_own(scores), _all_prefer_their_own(scores.T)
    text, image = right.T
    return {"text_score": text, "image_score": image, "group_score": text & image}


def _all_prefer_their_own(scores: np.ndarray) -> bool:
    """Whether row i of float[r, c] has its one greatest score in column i, for every i it can."""
    own = np.diag(scores)
    others = scores[: len(own)].copy()
    np.fill_diagonal(others, -np.inf)
    return bool((own > others.max(axis=1)).all())


def _rows_by_instance(instances: np.ndarray, n: int, name: str) -> dict[int, np.ndarray]:
    instances = integers(instances, n, name)
    if not n:
        raise ValueError(f"{name} is empty: there is nothing to choose from")
    # Stable: the rows of an instance keep their order, which says what belongs together.
    order = np.argsort(instances, kind="stable")
    values, starts = np.unique(instances[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, starts[1:]), strict=True))
