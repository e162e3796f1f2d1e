"""Evaluates a model as the paper does: python -m clip_jax.evaluate --model=runs/quickstart

--model is the workdir of a run, a file or folder of weights, or a name on the hub. --data names
datasets (docs/data_sets.md) or says where they lie: wds:FOLDER, tfds:NAME, folder:FOLDER,
csv:FILE, selection:FILE, emoji:held_out, digits, or NAME=SPEC for the prompts and the metric of
NAME.
"""

import argparse
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clip_jax import api, cli
from clip_jax.config import ConfigError
from clip_jax.data.test_sets.types import Options
from clip_jax.evals import records, runner
from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.exports import clip_benchmark, datacomp
from clip_jax.evals.records import Record
from clip_jax.evals.tasks import registry
from clip_jax.evals.types import OVERLAP_MEASURES, PROTOCOLS, EvalSettings
from clip_jax.report import eval_page, examples
from clip_jax.report.sections.view import View
from clip_jax.runtime import distributed


def evaluate(
    clip: api.Clip,
    data: str | Sequence[str] = runner.OFFLINE,
    tasks: str | Sequence[str] = (),
    settings: EvalSettings | None = None,
    *,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    name: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> list[Record]:
    """Evaluates a loaded model; see ``evals.suite.run``.

    Args:
      clip: of ``clip_jax.load``.
      data, tasks, settings: as in ``evals.suite.run``.
      out: folder for records, results of other formats and the report, which have the model's
        earlier results in that folder too; None writes nothing.
      cache: folder for features, to be read the next time; None keeps none.
      name: what to call the model; by default its source.
      say: called with lines of progress.

    Returns:
      A record for each dataset and task.

    Raises:
      ConfigError: a task, a dataset or a setting that does not exist.
    """
    model = clip.as_evaluated(name)
    folder = Path(out) if out else None
    found = runner.run(
        model, data, tasks, settings, folder=folder and folder / "records",
        cache=Path(cache) if cache else None, say=say,
    )  # fmt: skip
    if folder and distributed.is_lead() and any(not r.skipped for r in found):
        named = (data,) if isinstance(data, str) else data
        _write(folder, found, named, settings or EvalSettings(), say)
    if folder:
        distributed.barrier("results written")
    return found


def _write(
    folder: Path, found: list[Record], data: Sequence[str], settings: EvalSettings, say: Any
) -> None:
    """The report and the results in other formats, with the model's earlier results there."""
    whole = _with_earlier(folder / "records", found, settings)
    gallery, pairs = examples.load(found, data, settings)
    view = View(whole, registry.TASKS, gallery, pairs)
    say(f"wrote {eval_page.write(folder / 'report.html', view)}")
    same = [r for r in whole if r.protocol == settings.protocol]
    place = folder / settings.protocol  # their readers do not ask for it
    try:
        clip_benchmark.write(place / "clip_benchmark", same)
        datacomp.write(place / "eval_results.jsonl", same)
    except ValueError as error:
        say(f"not written for other programs: {error}")


def _with_earlier(folder: Path, found: list[Record], settings: EvalSettings) -> list[Record]:
    """The records of a run, and those of earlier ones that were made in the same way."""

    def place(record: Record) -> tuple[str, ...]:
        return record.dataset, record.split, record.task, record.protocol

    alike = found[0].model_fingerprint, settings.prompts()
    earlier = {
        place(r): r for r in records.of_folder(folder) if (r.model_fingerprint, r.settings) == alike
    }
    mine = {place(r) for r in found if not r.skipped}
    return found + [r for where, r in earlier.items() if where not in mine]


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


FLAGS: dict[str, dict[str, Any]] = {
    "--model": dict(required=True, help="workdir, weights, or name on the hub"),
    "--data": dict(
        type=_listed,
        default=runner.OFFLINE,
        help=f"datasets, with commas; 'all' of the catalog; default: {','.join(runner.OFFLINE)}",
    ),
    "--tasks": dict(
        type=_listed, default=(), help=f"of {','.join(registry.TASKS)}; default: all that fit"
    ),
    "--protocol": dict(default="paper", choices=PROTOCOLS),
    "--templates": dict(default="all", help="all, subset7, plain or names"),
    "--class-names": dict(default="", help="file with the classes' names"),
    "--template-file": dict(default="", help="file with templates"),
    "--data-root": dict(default="data", help="folder with datasets of the catalog"),
    "--data-dir": dict(default="", help="folder with prepared TFDS datasets"),
    "--image-key": dict(default="image", help="column or feature with the images"),
    "--label-key": dict(default="label", help="column or feature with the labels"),
    "--caption-key": dict(default="caption", help="column or feature with the captions"),
    "--emoji-preset": dict(default="all", choices=("all", "free"), help="whose drawings"),
    "--group-keys": dict(type=_listed, default=(), help="columns with groups, for bias probes"),
    "--image-root": dict(default="", help="folder of the images of selection:FILE"),
    "--cache-dir": dict(default="", help="of features and indices; default: ~/.cache/clip_jax"),
    "--out": dict(default="", help="folder of the results; default: evaluations/<model>"),
    "--batch-size": dict(type=int, default=api.BATCH_SIZE, help="images on all devices at once"),
    "--dtype": dict(default="float32", choices=("float32", "bfloat16")),
    "--shots": dict(default="1,2,4,8,16", help="examples a class of few-shot probes"),
    "--seeds": dict(type=int, default=3, help="draws of them for each number of shots"),
    "--seed": dict(type=int, default=0, help="of whatever is drawn at random"),
    "--extensions": dict(
        type=_listed, default=(), help="modules to import first, which register readers or tasks"
    ),
    "--overlap-with": dict(
        default="",
        help="training images to be looked for among the test images, such as folder:FOLDER",
    ),
    "--overlap-by": dict(default="embedding", choices=OVERLAP_MEASURES),
    "--overlap-threshold": dict(
        type=float, help="the same from this cosine up (0.95), by hash from so many bits down (6)"
    ),
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags of a command line.

    Raises:
      ConfigError: a flag or value that is not legal.
    """
    parser = cli.Parser("evaluate", __doc__)
    for name, facts in FLAGS.items():
        parser.add_argument(name, **facts)
    flags = parser.parse_args(arguments)
    if flags.data == ("all",):
        flags.data = tuple(CATALOG)
    if flags.batch_size < 1:
        parser.error(f"--batch-size={flags.batch_size} must be at least 1")
    if not flags.shots.replace(",", "").isdigit():
        parser.error(f"--shots={flags.shots} must be whole numbers with commas between")
    flags.shots = tuple(int(s) for s in _listed(flags.shots))
    return flags


def run(flags: argparse.Namespace) -> list[Record]:
    """Evaluates as the flags say."""
    import jax

    for module in flags.extensions:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(f"--extensions={module}: {error}; is it on PYTHONPATH?") from error
    options = Options(
        data_dir=flags.data_dir, cache_dir=flags.cache_dir, image_root=flags.image_root,
        image_key=flags.image_key, label_key=flags.label_key, caption_key=flags.caption_key,
        group_keys=flags.group_keys, emoji_preset=flags.emoji_preset,
    )  # fmt: skip
    settings = EvalSettings(
        protocol=flags.protocol, templates=flags.templates, class_file=flags.class_names,
        template_file=flags.template_file, root=flags.data_root, options=options,
        shots=flags.shots, seeds=flags.seeds, seed=flags.seed,
        overlap_with=flags.overlap_with, overlap_by=flags.overlap_by,
        overlap_threshold=flags.overlap_threshold,
    )  # fmt: skip
    clip = api.load(
        flags.model, batch_size=flags.batch_size, dtype=flags.dtype, devices=jax.devices()
    )
    say: Any = (lambda line: print(line, flush=True)) if distributed.is_lead() else lambda _: None
    say(f"{clip}, {jax.device_count()} {jax.default_backend()} device(s)")
    name = Path(flags.model).name or flags.model
    return evaluate(
        clip, flags.data, flags.tasks, settings, name=name, say=say,
        out=flags.out or Path("evaluations") / name, cache=options.cache() / "features",
    )  # fmt: skip


def _command(arguments: list[str]) -> int:
    began = time.time()
    flags = parse(arguments)
    with cli.user_values():  # of the environment that names other processes
        distributed.initialize()
    found = run(flags)
    made = [r for r in found if not r.skipped]
    if distributed.is_lead():
        print(f"{len(made)} results, {len(found) - len(made)} skipped, {time.time() - began:.0f} s")
    return distributed.OK if made else distributed.BAD_DATA


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.run_command(_command, arguments)
