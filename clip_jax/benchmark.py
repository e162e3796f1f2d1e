"""Measurements to be repeated: python -m clip_jax.benchmark NAME

step, encode: how fast a train step or the encoding is here, alone or beside open_clip; with flags
    of their own (--help) and --config.
loss: how fast each implementation of a loss is on the devices here.
start: how long a launch takes until its first step, with --config.
input: how fast images are read and decoded, where the time goes, and how many cores a chip needs;
    with --config, the data being one's own.

baselines: cheap methods on the quickstart's zero-shot tasks; needs the extra benchmark.
probe: the linear probe's sweep against scikit-learn's; likewise, and minutes.
fits: what the paper's recipes need on TPU pods; needs the extra tpu, and an hour.
fits-gpus: what they need on eight GPUs; needs the extra gpu, and ten minutes.
scaling: what a chip does as chips are added; likewise, a quarter of an hour.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from clip_jax import aot, cli
from clip_jax import config as config_lib
from clip_jax.benchmarks import (
    baselines,
    input_rate,
    linear_probe,
    loss,
    recipes,
    require_scikit_learn,
    speed,
    start,
)
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


def _baselines(arguments: Sequence[str]) -> None:
    parser = cli.Parser("benchmark baselines", measure_baselines.__doc__)
    parser.add_argument("--cache-dir", default=config_lib.defaults().data.cache_dir)
    measure_baselines(parser.parse_args(arguments).cache_dir)


def _without_flags(name: str, measure: Callable[[], object]) -> Callable[[Sequence[str]], None]:
    def run(arguments: Sequence[str]) -> None:
        cli.Parser(f"benchmark {name}", measure.__doc__).parse_args(arguments)
        measure()

    return run


def _ahead_of_time(name: str, measure: Callable[[], None]) -> Callable[[Sequence[str]], None]:
    def run(arguments: Sequence[str]) -> None:
        aot.prepare_environment()
        _without_flags(name, measure)(arguments)

    return run


BENCHMARKS: dict[str, Callable[[Sequence[str]], None]] = {
    "step": speed.step,
    "encode": speed.encode,
    "loss": loss.command,
    "start": start.command,
    "input": input_rate.command,
    "baselines": _baselines,
    "probe": _without_flags("probe", linear_probe.compare),
    "fits": _ahead_of_time("fits", recipes.fits),
    "fits-gpus": _ahead_of_time("fits-gpus", recipes.fits_gpus),
    "scaling": _ahead_of_time("scaling", recipes.scaling),
}


def _command(arguments: list[str]) -> int:
    parser = cli.Parser("benchmark", __doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    BENCHMARKS[parser.parse_args(arguments[:1]).name](arguments[1:])
    return OK


main = functools.partial(cli.run_command, _command)


if __name__ == "__main__":
    sys.exit(main())
