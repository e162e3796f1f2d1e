"""How fast a train step or the encoding is, on this machine, alone or in turn with open_clip."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from clip_jax import cli
from clip_jax import config as config_lib
from clip_jax.benchmarks import inputs, paired
from clip_jax.interop.formats import open_clip as layout
from clip_jax.models import clip

OURS, THEIRS = "clip_jax", "open_clip"


def step(arguments: Sequence[str]) -> None:
    """The command ``benchmark step``: a whole train step."""
    _run("step", ("step",), arguments)


def encode(arguments: Sequence[str]) -> None:
    """The command ``benchmark encode``: images, then texts."""
    _run("encode", ("images", "texts"), arguments)


def _parser(name: str) -> cli.Parser:
    parser = cli.Parser(f"benchmark {name}", __doc__)
    parser.add_argument("--config", required=True, help="Python file with get_config()")
    parser.add_argument("--stage", type=int, default=1, help="of a config with train.stages (1)")
    parser.add_argument("--captions", choices=inputs.CAPTIONS, default="full", help="their lengths")
    parser.add_argument("--against", choices=(THEIRS,), help="measure it too, in turn")
    parser.add_argument("--torch-compile", action="store_true", help="compile open_clip's model")
    parser.add_argument("--profile", action="store_true", help="also the time by kind of kernel")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--calls", type=int, default=1, help="a round and program")
    parser.add_argument("--json", help="file to write the results to")
    parser.add_argument("--compare", help="file that --json wrote earlier")
    return parser


def _run(name: str, parts: Sequence[str], arguments: Sequence[str]) -> None:
    flags, rest = _parser(name).parse_known_args(arguments)
    overrides = config_lib.overrides(rest)
    config = config_lib.stage_config(config_lib.load(flags.config, overrides), flags.stage - 1)
    if config.tokenizer.name != "clip":
        raise config_lib.ConfigError("the benchmark needs tokenizer.name=clip, as its peers have")
    _check(flags, config)
    if flags.against and importlib.util.find_spec("open_clip") is None:
        raise config_lib.ConfigError("--against=open_clip: pip install '.[benchmark]'")
    results = [_measure(part, config, flags, overrides) for part in parts]
    paired.write_record(flags.json, name, arguments, results)
    if flags.compare:
        _compare(results, json.loads(Path(flags.compare).read_text(encoding="utf-8")))


def _check(flags: argparse.Namespace, config: config_lib.ConfigDict) -> None:
    """Refuses, before anything is measured, what could not be measured or written."""
    paired.require_folder(flags.json)
    problem = ""
    if min(flags.rounds, flags.calls) < 1:
        problem = "--rounds and --calls must be 1 or more"
    elif flags.compare and not Path(flags.compare).is_file():
        problem = f"--compare={flags.compare}: no such file"
    elif flags.against:
        ours_alone = {
            "model.patch_dropout": (config.model.patch_dropout, 0),
            "train.context_length": (
                config.train.context_length or config.tokenizer.context_length,
                config.tokenizer.context_length,
            ),
            "train.num_microbatches": (config.train.num_microbatches, 1),
            "loss.name": (config.loss.name, "softmax"),
        }
        for key, (value, common) in ours_alone.items():
            if value != common:
                problem = f"--against=open_clip: {key}={value} is not measured there; set {common}"
    if problem:
        raise config_lib.ConfigError(problem)


def _measure(
    part: str,
    config: config_lib.ConfigDict,
    flags: argparse.Namespace,
    overrides: Sequence[tuple[str, str]],
) -> paired.JsonDict:
    """Times of one part, printed and returned."""
    c = config.tokenizer
    sizes = SimpleNamespace(context_length=c.context_length, vocab_size=49408, eot_id=49407)
    model = clip.resolve(config.model, sizes)
    common = {"what": part, "batch": config.train.batch_size, "captions": flags.captions}
    ours = {**common, "config": flags.config, "overrides": list(overrides),
            "stage": flags.stage, "profile": flags.profile}  # fmt: skip
    workers = [paired.Worker(OURS, "clip_jax.benchmarks.clip_jax_worker", ours)]
    if flags.against and workers[0].about["devices"] > 1:
        workers[0].close()
        raise config_lib.ConfigError(
            "--against=open_clip measures one device; set CUDA_VISIBLE_DEVICES=0"
        )
    if flags.against:
        theirs = {
            **common,
            "model_cfg": layout.to_json(model),
            "context_length": c.context_length,
            "dtype": config.model.dtype,
            "compile": flags.torch_compile,
        }
        workers.append(paired.Worker(THEIRS, "clip_jax.benchmarks.open_clip_worker", theirs))
    times = paired.in_turn(workers, flags.rounds, flags.calls)
    result: paired.JsonDict = {"what": part, "batch": config.train.batch_size}
    for worker in workers:
        low, middle, high = paired.quartiles(times[worker.name])
        result[worker.name] = {
            **worker.about, **worker.close(), "seconds": middle, "quartiles": [low, high],
            "pairs_per_second": config.train.batch_size / middle, "all": times[worker.name],
        }  # fmt: skip
    if flags.against:
        result["ratio"] = paired.ratios(times, OURS, THEIRS)
    _show(part, result)
    return result


def _show(part: str, result: paired.JsonDict) -> None:
    unit = "pairs" if part == "step" else part
    for name in (OURS, THEIRS):
        if name not in result:
            continue
        r = result[name]
        low, high = r["quartiles"]
        print(
            f"{part:<7}{name:<10}{1e3 * r['seconds']:>10,.1f} ms ({1e3 * low:,.1f} to "
            f"{1e3 * high:,.1f})  {r['pairs_per_second']:>8,.1f} {unit}/s  peak "
            f"{r['peak_bytes'] / 2**30:.2f} GiB  first call {r['compile_seconds']:.1f} s{_mfu(r)}"
        )
    if "ratio" in result:
        low, middle, high = result["ratio"]
        print(f"{part:<7}{OURS} is {middle:.2f} times as fast ({low:.2f} to {high:.2f})")
    if kernels := result[OURS].get("kernels"):
        whole = sum(kernels.values())
        print("       kernels: " + ", ".join(f"{k} {s / whole:.0%}" for k, s in kernels.items()))
    print(f"       {result[OURS]['execution']}; captions at {result[OURS]['text_length']} tokens")
    sys.stdout.flush()


def _mfu(r: paired.JsonDict) -> str:
    if not r.get("flops"):
        return ""
    rate = f"{r['flops'] / r['seconds'] / 1e12:,.2f} TFLOP/s"
    share = r["flops"] / r["seconds"] / r["peak"] if r.get("peak") else 0.0
    return f"  {rate}" + (f" (MFU {share:.0%})" if share else "")


def _compare(results: Sequence[paired.JsonDict], earlier: paired.JsonDict) -> None:
    before = {r["what"]: r for r in earlier["results"]}
    for r in results:
        if old := before.get(r["what"]):
            change = old[OURS]["seconds"] / r[OURS]["seconds"]
            print(f"{r['what']:<7}{change:.2f} times as fast as in {earlier['command']}")
            if "ratio" in r and "ratio" in old:
                print(f"       against open_clip {r['ratio'][1]:.2f}, then {old['ratio'][1]:.2f}")
