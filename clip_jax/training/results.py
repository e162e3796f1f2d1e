"""What a complete run leaves behind: its last evaluation, result.json and the report."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from clip_jax.report import run_examples, run_page
from clip_jax.runtime import distributed
from clip_jax.runtime.integrity import combined, fingerprint
from clip_jax.training import metric_writer, workdir
from clip_jax.training.trainer import Run, say


def finish(run: Run) -> dict[str, Any]:
    """Evaluates a complete run, writes the results into its workdir and returns result.json."""
    say("final evaluation:" if run.tasks else "no evaluation (eval.tasks is empty)")
    started = time.perf_counter()
    values = run.evaluate()
    result = {
        "step": run.step,
        "examples": run.step * run.config.train.batch_size,
        "seconds": run.clock.seconds(),
        "metrics": values,
        "state_fingerprint": combined(fingerprint(run.state)),
        "data_fingerprint": run.source.fingerprint,
        "bad_records": run.bad,
    }
    if distributed.is_lead():
        writer = metric_writer.Writer(run.workdir, run.step, run.config.log.tensorboard, final=True)
        run.record(writer, values)
        writer.close()
    page = _page(run, values) if run.config.log.report else None
    if distributed.is_lead():
        workdir.write_json(run.workdir / "result.json", result)
        if page is not None:
            say(*(f"wrote {p}" for p in run_page.write_report(run.workdir, page)))
    say(f"evaluation and report took {metric_writer.duration(time.perf_counter() - started)}")
    return result


def _page(run: Run, values: dict[str, dict[str, float]]) -> Any:
    curves = metric_writer.read(run.workdir / "metrics.jsonl")
    with jax.set_mesh(run.mesh):
        return run_examples.build(
            f"clip_jax: {run.workdir.name}", _summary(run), curves,
            run.tasks, values, run.embedder(), run.tokenizer,
            float(np.exp(jax.device_get(run.state.eval_variables["params"]["logit_scale"]))),
        )  # fmt: skip


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
