"""What a complete run leaves behind: its last evaluation, result.json and the report."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from clip_jax.data.test_sets.types import ImageDataset
from clip_jax.evals import evaluators, records
from clip_jax.evals.records import Record
from clip_jax.runtime import distributed
from clip_jax.runtime.distributed import say
from clip_jax.training import metric_writer, setup, workdir
from clip_jax.training.trainer import Run

Summary = list[tuple[str, object]]
# (workdir, summary, records of metrics.jsonl, name -> record and test set) -> the files written
WriteReport = Callable[
    [Path, Summary, Sequence[dict], dict[str, tuple[Record, ImageDataset]]], Sequence[Path]
]


def finish(run: Run, write_report: WriteReport) -> dict[str, object]:
    """Evaluates a complete run, writes the results into its workdir and returns result.json."""
    say("final evaluation:" if run.evaluators else f"no evaluation ({evaluators.KEY} is empty)")
    started = time.perf_counter()
    measured = run.evaluate(run.evaluators)
    result = {
        "step": run.step,
        "examples": run.stages.examples(run.step),
        "seconds": run.clock.seconds(),
        "metrics": {name: evaluators.scalars(record) for name, record in measured.items()},
        "state_fingerprint": run.state_fingerprint(),
        "data_fingerprint": run.source.fingerprint,
        "bad_records": run.unreadable,
    }
    if distributed.is_lead():
        writer = metric_writer.Writer(run.workdir, run.step, run.config.log.tensorboard, final=True)
        run.record(writer, measured)
        writer.close()
        for record in measured.values():
            if not record.skipped:
                final = dataclasses.replace(record, model_fingerprint=result["state_fingerprint"])
                records.write(run.workdir / "records", final, key=result["state_fingerprint"])
        workdir.write_json(run.workdir / "result.json", result)
        if run.config.log.report:
            curves = metric_writer.read(run.workdir / "metrics.jsonl")
            tested = {e.name: (measured[e.name], e.data.open("test")) for e in run.evaluators}
            paths = write_report(run.workdir, _summary(run), curves, tested)
            say(*(f"wrote {path}" for path in paths))
    say(f"evaluation and report took {metric_writer.duration(time.perf_counter() - started)}")
    return result


def _summary(run: Run) -> Summary:
    c, m = run.config, run.setup.model.config
    count = sum(x.size for x in jax.tree.leaves(run.setup.program.abstract.params))
    return [
        ("model", f"{c.model.variant}, {count:,} parameters"),
        ("image tower", f"{m.vision.image_size} px, {_sizes(m.vision)}"),
        ("text tower", f"{m.text.context_length} tokens, {_sizes(m.text)}"),
        ("data", f"{c.data.source}, {len(run.source):,} pairs"),
        ("tokenizer", f"{c.tokenizer.name}, {run.setup.tokenizer.vocab_size:,} entries"),
        *setup.summary(run.setups),
        ("devices", f"{jax.device_count()} {jax.default_backend()}"),
        ("seed", c.seed),
    ]


def _sizes(tower: object) -> str:
    if not hasattr(tower, "num_layers"):  # a tower from outside
        return f"width {tower.width}"
    return f"width {tower.width}, {tower.num_layers} layers, {tower.num_heads} heads"
