"""What a complete run leaves behind: its last evaluation, result.json and the report."""

import dataclasses
import time
from typing import Any

import jax

from clip_jax.evals import evaluators, records
from clip_jax.evals.records import Record
from clip_jax.report import examples, run_page
from clip_jax.report.types import ReportData
from clip_jax.runtime import distributed
from clip_jax.runtime.integrity import combined, fingerprint
from clip_jax.training import metric_writer, workdir
from clip_jax.training.trainer import Run, say


def finish(run: Run) -> dict[str, Any]:
    """Evaluates a complete run, writes the results into its workdir and returns result.json."""
    given = run.evaluators
    say("final evaluation:" if given else f"no evaluation ({evaluators.KEY} is empty)")
    started = time.perf_counter()
    measured = run.evaluate(given)
    result = {
        "step": run.step,
        "examples": run.step * run.config.train.batch_size,
        "seconds": run.clock.seconds(),
        "metrics": {name: evaluators.scalars(record) for name, record in measured.items()},
        "state_fingerprint": combined(fingerprint(run.state)),
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
            say(*(f"wrote {p}" for p in run_page.write_report(run.workdir, _page(run, measured))))
    say(f"evaluation and report took {metric_writer.duration(time.perf_counter() - started)}")
    return result


def _page(run: Run, measured: dict[str, Record]) -> ReportData:
    return ReportData(
        title=f"clip_jax: {run.workdir.name}",
        config_summary=_summary(run),
        curves=metric_writer.read(run.workdir / "metrics.jsonl"),
        results=examples.results(measured),
        **examples.of_run([(measured[e.name], e.data.open("test")) for e in run.evaluators]),
    )


def _summary(run: Run) -> list[tuple[str, Any]]:
    c, m = run.config, run.model.config
    count = sum(x.size for x in jax.tree.leaves(run.program.abstract.params))
    return [
        ("model", f"{c.model.variant}, {count:,} parameters"),
        ("image tower", f"{m.vision.image_size} px, {_sizes(m.vision)}"),
        ("text tower", f"{m.text.context_length} tokens, {_sizes(m.text)}"),
        ("data", f"{c.data.source}, {len(run.source):,} pairs"),
        ("tokenizer", f"{c.tokenizer.name}, {run.tokenizer.vocab_size:,} entries"),
        ("training", f"{run.total_steps:,} steps of {c.train.batch_size:,} pairs"),
        ("learning rate", c.optim.learning_rate),
        ("devices", f"{jax.device_count()} {jax.default_backend()}"),
        ("seed", c.seed),
    ]


def _sizes(tower: Any) -> str:
    d = dataclasses.asdict(tower)
    if "layers" not in d:  # a tower from outside
        return f"width {d['width']}"
    return f"width {d['width']}, {d['layers']} layers, {d['heads']} heads"
