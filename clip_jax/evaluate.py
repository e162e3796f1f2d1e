"""Evaluates a model as the paper does: python -m clip_jax.evaluate --model=runs/quickstart

--model is the workdir of a run, a file or folder of weights, or a name on the hub. --data names
data sets (docs/data_sets.md) or says where they lie: wds:FOLDER, tfds:NAME, folder:FOLDER,
csv:FILE, selection:FILE, emoji:held_out, digits, or NAME=SPEC for the prompts and the metric of
NAME.
"""

import argparse
import functools
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from clip_jax import api, distributed
from clip_jax.config import ConfigError
from clip_jax.data.labelled import Options
from clip_jax.evals import suite, suite_gallery, suite_overlap, suite_report, suite_tasks, writers
from clip_jax.evals.catalog import CATALOG
from clip_jax.evals.records import Record
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.torch_file import WeightFileError


def evaluate(
    clip: api.Clip,
    data: Sequence[str] = suite.OFFLINE,
    tasks: Sequence[str] = (),
    settings: suite.Settings | None = None,
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
      out: folder for records, results of other formats and the report; None writes nothing.
      cache: folder for features, to be read the next time; None keeps none.
      name: what to call the model; by default its source.
      say: called with lines of progress.

    Returns:
      A record for each data set and task.

    Raises:
      ConfigError: a task, a data set or a setting that does not exist.
    """
    model = clip.as_evaluated(name)
    folder = Path(out) if out else None
    found = suite.run(
        model, data, tasks, settings, folder=folder and folder / "records",
        cache=Path(cache) if cache else None, say=say,
    )  # fmt: skip
    if folder and distributed.is_lead() and any(not r.skipped for r in found):
        writers.write_clip_benchmark(folder / "clip_benchmark", found)
        writers.write_datacomp(folder / "eval_results.jsonl", found)
        shown = suite_gallery.load(found, data, settings or suite.Settings())
        say(f"wrote {suite_report.write(folder / 'report.html', found, *shown)}")
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags of a command line.

    Raises:
      ConfigError: a flag or value that is not legal.
    """
    parser = _Parser(
        prog="python -m clip_jax.evaluate", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", required=True, help="workdir, weights, or name on the hub")
    add(
        "--data",
        type=_listed,
        default=suite.OFFLINE,
        help=f"data sets, with commas; 'all' of the catalog; default: {','.join(suite.OFFLINE)}",
    )
    add("--tasks", type=_listed, default=(), help=f"of {','.join(suite_tasks.TASKS)}; default: all")
    add("--protocol", default="paper", choices=suite.PROTOCOLS)
    add("--templates", default="all", help="all, subset7, plain or names")
    add("--class-names", default="", help="file with the classes' names")
    add("--template-file", default="", help="file with templates")
    add("--data-root", default="", help="folder with data sets of the catalog")
    add("--data-dir", default="", help="folder with prepared TFDS data sets")
    add("--image-key", default="image", help="column of tables with the pictures' paths")
    add("--label-key", default="label", help="column of tables with the labels")
    add("--group-keys", type=_listed, default=(), help="columns with groups, for bias probes")
    add("--image-root", default="", help="folder of the pictures of selection:FILE")
    add("--cache-dir", default="", help="of features and indices; default: ~/.cache/clip_jax")
    add("--out", default="", help="folder of the results; default: evaluations/<model>")
    add("--batch-size", type=int, default=api.BATCH_SIZE, help="pictures on all devices at once")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add("--shots", default="1,2,4,8,16", help="examples a class of few-shot probes")
    add("--seeds", type=int, default=3, help="draws of them for each number of shots")
    add("--seed", type=int, default=0)
    add(
        "--overlap-with",
        default="",
        help="training pictures to be looked for among the test pictures, such as folder:FOLDER",
    )
    add("--overlap-by", default="embedding", choices=suite_overlap.MEASURES)
    add(
        "--overlap-threshold",
        type=float,
        help="the same from this cosine up (0.95), by hash from so many bits down (6)",
    )
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

    options = Options(
        data_dir=flags.data_dir, cache_dir=flags.cache_dir, image_key=flags.image_key,
        label_key=flags.label_key, group_keys=flags.group_keys, image_root=flags.image_root,
    )  # fmt: skip
    settings = suite.Settings(
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


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    began = time.time()
    try:
        flags = parse(sys.argv[1:] if arguments is None else arguments)
        distributed.initialize()
        found = run(flags)
    except (ConfigError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return distributed.USAGE
    except LayoutError as error:
        print(f"error: {error}", file=sys.stderr)
        return distributed.MISMATCH
    except WeightFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return distributed.BAD_DATA
    if distributed.is_lead():
        made = [r for r in found if not r.skipped]
        print(f"{len(made)} results, {len(found) - len(made)} skipped, {time.time() - began:.0f} s")
    return distributed.OK if any(not r.skipped for r in found) else distributed.BAD_DATA


class _Callable(types.ModuleType):
    """``clip_jax.evaluate`` names this module, and in the public API the function in it."""

    @functools.wraps(evaluate)
    def __call__(self, *args: Any, **options: Any) -> list[Record]:
        return evaluate(*args, **options)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    distributed.shut_down(main())
