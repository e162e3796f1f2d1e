"""Evaluates a model as the paper does: python -m clip_jax.evaluate --model=runs/quickstart

--model is the workdir of a run, a file or folder of weights, or a name on the hub. --data names
datasets (docs/data_sets.md) or gives their path: wds:FOLDER, tfds:NAME, folder:FOLDER, csv:FILE,
selection:FILE, emoji:held_out, digits, or NAME=SPEC for the prompts and the metric of NAME.
"""

import argparse
import dataclasses
import functools
import importlib
import re
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

from clip_jax import api, cli
from clip_jax.config import ConfigError
from clip_jax.data import paths
from clip_jax.data.emoji.drawings import PRESETS
from clip_jax.data.test_sets.types import Options
from clip_jax.evals import records, runner
from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.datasets.prompts import PROTOCOLS
from clip_jax.evals.exports import clip_benchmark, datacomp
from clip_jax.evals.records import Record
from clip_jax.evals.tasks import registry
from clip_jax.evals.types import OVERLAP_MEASURES, EvalSettings
from clip_jax.report import eval_page, examples
from clip_jax.report.sections.view import View
from clip_jax.runtime import compile_cache, distributed


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
    """Evaluates a loaded model.

    Args:
      clip: of ``clip_jax.load``.
      data, tasks, settings: as in ``evals.runner.run``.
      out: folder for records, results of other formats and the report, with the model's earlier
        results in that folder; None writes nothing.
      cache: folder for features, to be read the next time; None stores none.
      name: the model's name in the results; by default its source.
      say: called with lines of progress.

    Returns:
      A record for each dataset and task.

    Raises:
      ConfigError: a task, a dataset or a setting that does not exist.
    """
    model = clip.as_evaluated(name)
    folder = Path(out) if out else None
    evaluated = runner.run(
        model, data, tasks, settings, folder=folder and folder / "records",
        cache=Path(cache) if cache else None, say=say,
    )  # fmt: skip
    if folder and distributed.is_lead() and any(not r.skipped for r in evaluated):
        named = (data,) if isinstance(data, str) else data
        _write(folder, evaluated, named, settings or EvalSettings(), say)
    if folder:
        distributed.barrier("results written")
    return evaluated


def _write(
    folder: Path,
    evaluated: list[Record],
    data: Sequence[str],
    settings: EvalSettings,
    say: Callable[[str], None],
) -> None:
    """The report and the results in other formats, with the model's earlier results there."""
    whole = _with_earlier(folder / "records", evaluated, settings)
    gallery, pairs = examples.load(evaluated, data, settings)
    view = View(whole, registry.TASKS, gallery, pairs)
    say(f"wrote {eval_page.write(folder / 'report.html', view)}")
    same = [r for r in whole if r.protocol == settings.protocol]
    folder /= settings.protocol  # which readers of these formats do not look at
    try:
        clip_benchmark.write(folder / "clip_benchmark", same)
        datacomp.write(folder / "eval_results.jsonl", same)
    except ValueError as error:
        say(f"not written for other programs: {error}")


def _with_earlier(folder: Path, evaluated: list[Record], settings: EvalSettings) -> list[Record]:
    """The records of a run, and those of earlier ones that were made in the same way."""

    def key(record: Record) -> tuple[str, ...]:
        return record.dataset, record.split, record.task, record.protocol

    made_in = evaluated[0].model_fingerprint, settings.prompts()
    earlier = {
        key(r): r for r in records.of_folder(folder) if (r.model_fingerprint, r.settings) == made_in
    }
    replaced = {key(r) for r in evaluated if not r.skipped}
    return evaluated + [r for k, r in earlier.items() if k not in replaced]


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    if not text.replace(",", "").isdigit():
        raise argparse.ArgumentTypeError(f"{text} must be whole numbers with commas between")
    return tuple(map(int, _listed(text)))


# The flags of the settings are their fields; these have other names.
_FLAGS = {"class_file": "--class-names", "root": "--data-root"}
_CHOICES = {"protocol": PROTOCOLS, "overlap_by": OVERLAP_MEASURES, "emoji_preset": PRESETS}
_TYPES = {
    int: int, float | None: float, tuple[int, ...]: _numbers, tuple[str, ...]: _listed,
}  # fmt: skip


def _add_flags(parser: argparse.ArgumentParser, settings: type, without: Sequence[str]) -> None:
    """Adds a flag for each field of a settings class; its help is the field's in the docstring."""
    types = typing.get_type_hints(settings)
    section = (settings.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    help_of: dict[str, str] = {}
    for entry in re.split(r"\n {6}(?! )", "\n" + section):
        names, _, meaning = " ".join(entry.split()).partition(": ")
        help_of |= dict.fromkeys(names.split(", "), meaning.replace("%", "%%").replace("``", ""))
    for field in dataclasses.fields(settings):
        if field.name not in without:
            parser.add_argument(
                _FLAGS.get(field.name, "--" + field.name.replace("_", "-")),
                dest=field.name,
                default=field.default,
                type=_TYPES.get(types[field.name], str),
                choices=_CHOICES.get(field.name),
                help=help_of.get(field.name),
            )


def _given(flags: argparse.Namespace, settings: type) -> dict[str, object]:
    names = (field.name for field in dataclasses.fields(settings))
    return {name: getattr(flags, name) for name in names if hasattr(flags, name)}


def parser() -> cli.Parser:
    """The parser of the command line."""
    parser = cli.Parser("evaluate", __doc__)
    add = parser.add_argument
    add("--model", required=True, help="workdir, weights, or name on the hub")
    add(
        "--data",
        type=_listed,
        default=runner.OFFLINE,
        help=f"datasets, with commas; 'all' of the catalog; default: {','.join(runner.OFFLINE)}",
    )
    add(
        "--tasks",
        type=_listed,
        default=(),
        help=f"of {','.join(registry.TASKS)}; default: all that fit",
    )
    add("--out", default="", help="folder of the results; default: evaluations/<model>")
    add("--batch-size", type=int, default=api.BATCH_SIZE, help="images on all devices at once")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add(
        "--extensions",
        type=_listed,
        default=(),
        help="modules to import first, which register readers or tasks",
    )
    _add_flags(parser, EvalSettings, without=["options"])
    _add_flags(parser, Options, without=["class_names"])
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags of a command line.

    Raises:
      ConfigError: a flag or value that is not legal.
    """
    flags = parser().parse_args(arguments)
    if flags.data == ("all",):
        flags.data = tuple(CATALOG)
    if flags.batch_size < 1:
        raise ConfigError(f"--batch-size={flags.batch_size} must be at least 1")
    return flags


def run(flags: argparse.Namespace) -> list[Record]:
    """Evaluates as the flags say."""
    import jax

    for module in flags.extensions:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(f"--extensions={module}: {error}; is it on PYTHONPATH?") from error
    options = Options(**_given(flags, Options))
    settings = EvalSettings(**_given(flags, EvalSettings), options=options)
    clip = api.load(
        flags.model, batch_size=flags.batch_size, dtype=flags.dtype, devices=jax.devices()
    )
    say = functools.partial(print, flush=True) if distributed.is_lead() else lambda _: None
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
    compile_cache.enable(paths.cache_dir(flags.cache_dir))
    evaluated = run(flags)
    made = [r for r in evaluated if not r.skipped]
    if distributed.is_lead():
        skipped = len(evaluated) - len(made)
        print(f"{len(made)} results, {skipped} skipped, {time.time() - began:.0f} s")
    return distributed.OK if made else distributed.BAD_DATA


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return cli.run_command(_command, arguments)
