"""Measurements to be repeated: python -m clip_jax.benchmark baselines

baselines: cheap methods on the quickstart's zero-shot tasks; needs the extra benchmark.
probe: the linear probe's sweep against scikit-learn's; likewise, and minutes.
fits: what the paper's recipes need on TPU pods; needs the extra tpu, and an hour.
scaling: what a chip does as chips are added; likewise, a quarter of an hour.
"""

import functools
import sys
import time
from collections.abc import Callable

import numpy as np

from clip_jax import aot, cli
from clip_jax import config as config_lib
from clip_jax.benchmarks import baselines, linear_probe, require_scikit_learn, tpu_fit
from clip_jax.data import paths
from clip_jax.data.emoji import drawings
from clip_jax.data.pairs import emoji
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.transforms import evaluation_images
from clip_jax.evals.metrics import zero_shot
from clip_jax.runtime.distributed import OK

PREPROCESS = Preprocess(72, transparency="white")


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
            scores = baselines.nearest_neighbour(
                baselines.pixel_features(train_images), labels,
                baselines.pixel_features(images), len(number),
            )  # fmt: skip
            accuracies[f"{split}/pixel nearest neighbour"] = zero_shot.accuracy(scores, test.labels)
        classes = {r["name"]: emoji.document(r) for r in plain} | dict(
            zip(test.class_names, test.documents, strict=True)
        )
        row = {name: i for i, name in enumerate(classes)}
        text = baselines.text_features(list(classes.values()))
        predicted = baselines.kernel_ridge(
            baselines.shape_and_color_features(train_images),
            text[[row[r["name"]] for r in plain]],
            baselines.shape_and_color_features(images),
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


def _on_tpus(measure: Callable[[], None]) -> Callable[[str], None]:
    def run(_: str) -> None:
        aot.prepare_environment()
        measure()

    return run


BENCHMARKS: dict[str, Callable[[str], object]] = {
    "baselines": measure_baselines,
    "probe": lambda _: linear_probe.compare(),
    "fits": _on_tpus(tpu_fit.fits),
    "scaling": _on_tpus(tpu_fit.scaling),
}


def _command(arguments: list[str]) -> int:
    parser = cli.Parser("benchmark", __doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("--cache-dir", default=config_lib.defaults().data.cache_dir)
    flags = parser.parse_args(arguments)
    BENCHMARKS[flags.name](flags.cache_dir)
    return OK


main = functools.partial(cli.run_command, _command)


if __name__ == "__main__":
    sys.exit(main())
