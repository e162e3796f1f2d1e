"""Cheap methods for zero-shot tasks: figures that a trained model has to beat.

Both see the training images without augmentation, and neither learns features: a nearest neighbour
on pixels, and kernel ridge regression from hand-made image features to hand-made text features.
"""

import time
from collections.abc import Sequence

import numpy as np

from clip_jax import cli
from clip_jax import config as config_lib
from clip_jax.benchmarks import require_scikit_learn
from clip_jax.data import paths
from clip_jax.data.emoji import drawings
from clip_jax.data.pairs import emoji
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.transforms import evaluation_images
from clip_jax.evals.metrics import zero_shot

PREPROCESS = Preprocess(72, transparency="white")


def pixel_features(images: np.ndarray, side: int = 24) -> np.ndarray:
    """Images uint8[n, S, S, 3] averaged down to ``side`` and centred: unit rows float32[n, F]."""
    n, size = len(images), images.shape[1]
    step = size // side
    x = images[:, : side * step, : side * step].astype(np.float32) / 255
    x = x.reshape(n, side, step, side, step, 3).mean(axis=(2, 4)).reshape(n, -1)
    return _unit(x - x.mean(axis=1, keepdims=True))


def nearest_neighbour(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, classes: int
) -> np.ndarray:
    """Class scores float32[n, K]: the cosine with the nearest training image of the class.

    Args:
      train, test: unit features of images.
      train_labels: int[m]; a class without training images scores -1, the least there is.
      classes: K.
    """
    scores = np.full((len(test), classes), -1, np.float32)
    cosines = test @ train.T
    for label in np.unique(train_labels):
        scores[:, label] = cosines[:, train_labels == label].max(axis=1)
    return scores


def shape_and_color_features(images: np.ndarray, cell: int = 8, bins: int = 9) -> np.ndarray:
    """Histograms of oriented gradients (Dalal and Triggs 2005) and mean colours of cells.

    Args:
      images: uint8[n, S, S, 3], S a multiple of ``cell``.
      cell: side of a cell, in pixels.
      bins: of a histogram.
    """
    x = images.astype(np.float32) / 255
    dy, dx = np.gradient(x.mean(axis=-1), axis=(1, 2))
    strength, angle = np.hypot(dx, dy), np.mod(np.arctan2(dy, dx), np.pi)
    n, cells = len(images), images.shape[1] // cell
    shape = (n, cells, cell, cells, cell)
    number = np.minimum((angle / np.pi * bins).astype(int), bins - 1)
    histogram = np.stack(
        [np.where(number == b, strength, 0).reshape(shape).sum(axis=(2, 4)) for b in range(bins)],
        axis=-1,
    )
    histogram /= np.linalg.norm(histogram, axis=-1, keepdims=True) + 0.1
    color = x.reshape(*shape, 3).mean(axis=(2, 4))
    return np.concatenate([histogram.reshape(n, -1), 3 * color.reshape(n, -1)], axis=1)


def text_features(names: Sequence[str], dimensions: int = 200) -> np.ndarray:
    """TF-IDF of words and character trigrams, reduced by SVD: unit rows float64[n, dimensions]."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def terms(name: str) -> list[str]:
        words = name.lower().replace(":", " ").replace(",", " ").split()
        return [f"word {w}" for w in words] * 2 + [
            f" {w} "[i : i + 3] for w in words for i in range(len(w))
        ]

    tfidf = TfidfVectorizer(analyzer=terms, smooth_idf=False).fit_transform(names).toarray()
    u, s, _ = np.linalg.svd(tfidf, full_matrices=False)
    return _unit(u[:, :dimensions] * s[:dimensions])


def kernel_ridge(
    x: np.ndarray, y: np.ndarray, test: np.ndarray, penalty: float = 0.3
) -> np.ndarray:
    """Predictions of ridge regression with a Gaussian kernel as wide as the median distance.

    Args:
      x, y: float[m, F] and float[m, D], training pairs; features count as they are scaled.
      test: float[n, F].
      penalty: added to the diagonal of the kernel.

    Returns:
      float64[n, D].
    """
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.metrics.pairwise import euclidean_distances

    x, test = x - x.mean(axis=0), test - x.mean(axis=0)
    width = np.median(euclidean_distances(x[:: max(1, len(x) // 500)], squared=True))
    model = KernelRidge(alpha=penalty, kernel="rbf", gamma=1 / width)
    return model.fit(x, y - y.mean(axis=0)).predict(test) + y.mean(axis=0)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)


def measure_baselines(cache_dir: str = "") -> dict[str, dict[str, float]]:
    """Prints and returns the accuracies of both methods, by task and method."""
    require_scikit_learn()
    cache = paths.cache_dir(cache_dir)
    source = emoji.EmojiSource(cache, "all", "train", "plain")
    plain = [r for r in source.records if not set(r["emoji"]) & drawings.TONES]
    train_images = evaluation_images([r["image"] for r in plain], PREPROCESS)
    accuracies = {}
    for split in ("unseen_vendor", "held_out"):
        test = emoji.zero_shot_set(cache, "all", split)
        images = evaluation_images(test.images, PREPROCESS)
        started = time.perf_counter()
        number = {name: i for i, name in enumerate(test.class_names)}
        if split == "unseen_vendor":  # held-out concepts have no training images to be near to
            labels = np.array([number[r["name"]] for r in plain])
            scores = nearest_neighbour(
                pixel_features(train_images), labels,
                pixel_features(images), len(number),
            )  # fmt: skip
            accuracies[f"{split}/pixel nearest neighbour"] = zero_shot.accuracy(scores, test.labels)
        classes = {r["name"]: emoji.document(r) for r in plain} | dict(
            zip(test.class_names, test.documents, strict=True)
        )
        row = {name: i for i, name in enumerate(classes)}
        text = text_features(list(classes.values()))
        predicted = kernel_ridge(
            shape_and_color_features(train_images),
            text[[row[r["name"]] for r in plain]],
            shape_and_color_features(images),
        )
        scores = zero_shot.scores(predicted, text[[row[n] for n in test.class_names]])
        accuracies[f"{split}/kernel ridge regression"] = zero_shot.accuracy(scores, test.labels)
        print(f"{split}: {len(images)} images, {len(number)} classes", end="")
        print(f" ({time.perf_counter() - started:.0f} s)")
        for name, values in accuracies.items():
            if name.startswith(split):
                shown = "  ".join(f"{k} {v:.1%}" for k, v in values.items())
                print(f"  {name.removeprefix(split + '/')}: {shown}")
    return accuracies


def command(arguments: Sequence[str]) -> None:
    """The command ``benchmark baselines``."""
    parser = cli.Parser("benchmark baselines", measure_baselines.__doc__)
    parser.add_argument("--cache-dir", default=config_lib.defaults().data.cache_dir)
    measure_baselines(parser.parse_args(arguments).cache_dir)
