"""A training run: everything a config stands for, built in order, and the loop over its steps."""

import collections
import dataclasses
import functools
import importlib.metadata
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clip_jax import config as config_lib
from clip_jax import distributed, losses, mesh, metrics, optim, state, step, tokenizers, workdir
from clip_jax.checkpoint import Checkpoints, combined, fingerprint
from clip_jax.data import loader, sources, transforms
from clip_jax.evals import embedder, gallery, report, tasks
from clip_jax.models import clip


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class Preempted(Exception):
    """The run was told to stop; its state is saved."""


def say(*lines: str) -> None:
    """Prints on the lead process."""
    if distributed.is_lead():
        print(*lines, sep="\n", flush=True)


def build_tokenizer(config: Any, folder: Path, source: sources.Source) -> Any:
    """The tokenizer, a SentencePiece model being trained on the captions where none is given."""
    c = config.tokenizer
    if c.name != "sentencepiece" or c.model:
        return tokenizers.build(c.name, c.context_length, c.model or None)
    if distributed.is_lead():
        workdir.train_tokenizer(folder, config, source)
    distributed.barrier("tokenizer")
    return tokenizers.build(c.name, c.context_length, folder / "tokenizer.model")


class Run:
    """One launch of a run: builds its parts, restores its state, trains, evaluates, reports.

    Attributes:
      config: the resolved config.
      workdir: the run's folder.
      total_steps: length of the run.
      state: the train state, ahead of its checkpoints by at most their interval.
    """

    def __init__(self, config: Any, folder: Path):
        self.config, self.workdir = config, folder
        self.mesh = mesh.create_mesh(config.mesh)
        say(
            f"{jax.process_count()} process(es), {jax.device_count()} {jax.default_backend()} "
            f"device(s), mesh {dict(self.mesh.shape)}"
        )
        self.rows = mesh.local_rows(self.mesh, config.train.batch_size)
        self.source = self._lead_first(lambda: sources.build(config.data))
        self.tokenizer = build_tokenizer(config, folder, self.source)
        self.model = clip.build(config.model, self.tokenizer)
        self.image_size = self.model.config.vision.image_size
        self.total_steps = config_lib.total_steps(config, len(self.source))
        self.tx, self.schedule = optim.build(
            config.optim,
            config_lib.steps(config, config.optim.warmup_examples)
            if config.optim.warmup_examples
            else 0,
            self.total_steps,
        )
        self.tasks = self._lead_first(
            lambda: tasks.prepare(config, self.image_size, self.source.fingerprint)
        )
        self._build_steps()
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
        self._restore_or_create()

    def _lead_first(self, make: Any) -> Any:
        """What the lead prepares on disk, the others find there."""
        made = make() if distributed.is_lead() else None
        distributed.barrier("prepared")
        return made if distributed.is_lead() else make()

    def _build_steps(self) -> None:
        c = self.config
        self.abstract, shardings = state.abstract(
            self.model, self.tx, c.optim.ema_decay > 0, self.mesh
        )
        pure = step.train_step(
            self.model,
            self.tx,
            self.schedule,
            losses.build(c.loss.implementation, self.mesh, c.loss.soft_targets),
            seed=c.seed,
            ema_decay=c.optim.ema_decay,
            mask_groups=c.loss.mask_groups,
            soft_targets=c.loss.soft_targets > 0,
        )
        self.train_step = step.compile_train_step(pure, shardings, self.mesh)
        self.embed_images, self.embed_texts = step.embed_steps(self.model, self.mesh)

    def _facts(self) -> dict[str, str]:
        c = self.model.config
        return {
            "preprocessing": f"{self.image_size} px, {transforms.EVALUATION}, "
            f"mean {tuple(c.image_mean)}, deviation {tuple(c.image_std)}",
            "data fingerprint": self.source.fingerprint,
            "tokenizer fingerprint": self.tokenizer.fingerprint,
        }

    def _restore_or_create(self) -> None:
        restored = self.checkpoints.restore(self.abstract)
        seconds = 0.0
        self.bad = 0
        if restored is None:
            self.state = state.create(
                self.model, self.tx, self.config.optim.ema_decay > 0, self.mesh, self.config.seed
            )
            self.step = 0
        else:
            self.state, facts = restored
            workdir.check_facts(self.workdir, facts, self._facts())
            self.step, self.bad, seconds = facts["step"], facts["bad"], facts["seconds"]
        self.clock = metrics.Clock(seconds)

    def describe(self) -> None:
        """Prints what is about to happen: config, model, data, where the run stands."""
        c = self.config
        say("config:", config_lib.to_json(c), "parameters:")
        say(state.parameter_table(self.abstract.params))
        say(
            f"data: {c.data.source}, {len(self.source):,} pairs; tokenizer {c.tokenizer.name}, "
            f"{self.tokenizer.vocab_size:,} entries, {self.tokenizer.context_length} tokens",
            f"training: {self.total_steps:,} steps of {c.train.batch_size:,} pairs",
        )
        if self.step:
            say(
                f"resuming the run in {self.workdir} at step {self.step} of {self.total_steps}"
                f" ({metrics.duration(self.clock.seconds_before)} of training done)"
            )

    def train(self) -> None:
        """Takes the run from where it stands to its last step.

        Raises:
          Preempted: a stop was asked for; the state is saved.
          TrainingError: too many non-finite steps.
          DataError: too many unreadable records.
        """
        if self.step >= self.total_steps:
            say(f"the run in {self.workdir} is complete: evaluating it again")
            return
        reader = loader.RowReader(
            self.source, self.tokenizer, self.config.data, self.image_size, self.config.seed
        )
        batches = loader.Prefetcher(
            loader.host_batches(
                reader,
                batch=self.config.train.batch_size,
                rows=self.rows,
                first_step=self.step,
                steps=self.total_steps,
                threads=self.config.data.threads,
                workers=self.config.data.workers,
                prefetch=self.config.data.prefetch,
            ),
            self._to_device,
            self.config.data.prefetch,
        )
        watchdog = distributed.Watchdog(self.config.watchdog_seconds)
        writer = None
        if distributed.is_lead():
            writer = metrics.Writer(self.workdir, self.step, self.config.log.tensorboard)
        try:
            self._loop(batches, writer, watchdog)
        finally:
            watchdog.close()
            batches.close()
            if writer is not None:
                writer.close()

    def _to_device(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        rows = {k: batch[k] for k in ("images", "tokens", "groups", "bad")}
        rows["stop"] = np.full_like(batch["bad"], distributed.stop_requested())
        return mesh.put_batch(self.mesh, rows, self.config.train.batch_size)

    def _loop(self, batches: Any, writer: Any, watchdog: Any) -> None:
        c = self.config
        # Scalars are read two steps late, so that the host never waits for the device: by then
        # they are there. All processes read the same ones at the same step.
        pending: collections.deque = collections.deque()
        with jax.set_mesh(self.mesh):
            for batch in self._until_told_to_stop(batches):
                self.state, scalars = self.train_step(self.state, batch)
                self.step += 1
                pending.append(scalars)
                stop = self._check(pending.popleft()) if len(pending) > 2 else False
                watchdog.beat()
                self.checkpoints.poll()
                last = self.step == self.total_steps
                if last or self.step % c.log.every_steps == 0:
                    self._log(scalars, batches, writer)
                if stop and not last:
                    self.save()
                    raise Preempted
                if not last and self._due(c.eval.every_examples):
                    self._record(writer, self.evaluate())
                    watchdog.beat()
                    self.clock.skip()
                if last or self._due(c.checkpoint.every_examples):
                    self.save()
            while pending:
                self._check(pending.popleft())

    def _until_told_to_stop(self, batches: Any) -> Any:
        """The batches; an input that breaks when the run is to stop ends it as a stop does."""
        try:
            yield from batches
        except Exception:
            # One process of several cannot save by itself: the others would wait for it.
            if not distributed.stop_requested() or jax.process_count() > 1:
                raise
            self.save()
            raise Preempted from None

    def _due(self, every_examples: int) -> bool:
        if not every_examples:
            return False
        return self.step % config_lib.steps(self.config, every_examples) == 0

    def _check(self, scalars: dict[str, jax.Array]) -> bool:
        """Looks at an earlier step's counters; True if a stop was asked for."""
        bad, skipped, stop = (int(scalars[k]) for k in ("bad", "skipped", "stop"))
        self.bad += bad
        seen = self.step * self.config.train.batch_size
        if self.bad > self.config.data.max_bad_fraction * max(seen, 1000):
            raise sources.DataError(
                f"{self.bad} of {seen} records could not be read, more than "
                f"data.max_bad_fraction={self.config.data.max_bad_fraction}; the warnings above "
                "name the first of them. The last checkpoint is intact"
            )
        if skipped >= self.config.train.max_skipped:
            raise TrainingError(
                f"loss or gradient was not finite in {skipped} steps in a row "
                "(train.max_skipped); lower optim.learning_rate or set optim.clip_norm, and start "
                "again from the last checkpoint"
            )
        return bool(stop)

    def _log(self, scalars: dict[str, jax.Array], batches: Any, writer: Any) -> None:
        values = {k: float(v) for k, v in jax.device_get(scalars).items()}
        seconds, wait = self.clock.lap(batches.waited)
        steps = self.step % self.config.log.every_steps or self.config.log.every_steps
        record = {
            "step": self.step,
            "examples": self.step * self.config.train.batch_size,
            "seconds": self.clock.seconds(),
            "seconds_per_step": seconds / steps,
            "images_per_second": steps * self.config.train.batch_size / seconds,
            "data_wait": wait,
            "bad_records": self.bad,
            **{k: values[k] for k in ("loss", "accuracy", "logit_scale", "learning_rate",
                                      "grad_norm", "skipped")},
        }  # fmt: skip
        if writer is not None:
            writer.write(record)
            say(metrics.progress_line(record, self.total_steps))

    def _record(self, writer: Any, values: dict[str, dict[str, float]]) -> None:
        flat = {f"eval/{t}/{m}": v for t, found in values.items() for m, v in found.items()}
        if writer is not None:
            writer.write({"step": self.step, "seconds": self.clock.seconds(), **flat})

    def save(self) -> None:
        """Starts a checkpoint of the present step."""
        self.checkpoints.save(
            self.step,
            self.state,
            self._facts()
            | {
                "bad": self.bad,
                "seconds": self.clock.seconds(),
                "config": self.config.to_dict(),
                "versions": {p: importlib.metadata.version(p) for p in ("jax", "flax", "optax")},
            },
        )

    def embedder(self) -> embedder.Embedder:
        """The present model as evaluations see it."""
        params = self.state.eval_params
        return embedder.sharded(
            functools.partial(self.embed_images, params),
            functools.partial(self.embed_texts, params),
            mesh=self.mesh,
            batch_size=self.config.eval.batch_size,
            image_size=self.image_size,
            embed_dim=self.model.config.embed_dim,
        )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Task name -> metric -> value, for every task; prints them."""
        values = {}
        with jax.set_mesh(self.mesh):
            model = self.embedder()
            for task in self.tasks:
                values[task.name] = task.run(model, self.tokenizer)
                say(f"  {task.name}: {metrics.evaluation_line(values[task.name])}")
        return values

    def finish(self) -> dict[str, Any]:
        """Final evaluation, result.json, report.html and report.png. Returns the result."""
        say("final evaluation:" if self.tasks else "no evaluation (eval.tasks is empty)")
        started = time.perf_counter()
        values = self.evaluate()
        prints = fingerprint(self.state)
        curves = metrics.read(self.workdir / "metrics.jsonl")
        result = {
            "step": self.step,
            "examples": self.step * self.config.train.batch_size,
            "seconds": self.clock.seconds(),
            "metrics": values,
            "state_fingerprint": combined(prints),
            "data_fingerprint": self.source.fingerprint,
            "bad_records": self.bad,
        }
        last = {"step": self.step, "seconds": self.clock.seconds()} | {
            f"eval/{t}/{m}": v for t, found in values.items() for m, v in found.items()
        }
        page = None
        if self.config.log.report:
            with jax.set_mesh(self.mesh):
                page = gallery.build(
                    f"clip_jax: {self.workdir.name}", self._summary(), [*curves, last],
                    self.tasks, values, self.embedder(), self.tokenizer,
                    float(np.exp(jax.device_get(self.state.eval_params["logit_scale"]))),
                )  # fmt: skip
        if distributed.is_lead():
            workdir.write_json(self.workdir / "result.json", result)
            if page is not None:
                paths = report.write_report(self.workdir, page)
                say(*(f"wrote {p}" for p in paths))
        say(f"evaluation and report took {metrics.duration(time.perf_counter() - started)}")
        return result

    def _summary(self) -> list[tuple[str, Any]]:
        c, m = self.config, self.model.config
        count = sum(x.size for x in jax.tree.leaves(self.abstract.params))
        return [
            ("model", f"{c.model.variant}, {count:,} parameters"),
            ("image tower", f"{m.vision.image_size} px, {_sizes(m.vision)}"),
            ("text tower", f"{m.text.context_length} tokens, {_sizes(m.text)}"),
            ("data", f"{c.data.source}, {len(self.source):,} pairs"),
            ("tokenizer", f"{c.tokenizer.name}, {self.tokenizer.vocab_size:,} entries"),
            ("training", f"{self.total_steps:,} steps of {c.train.batch_size:,} pairs"),
            ("learning rate", c.optim.learning_rate),
            ("devices", f"{jax.device_count()} {jax.default_backend()}"),
            ("seed", c.seed),
        ]


def _sizes(tower: Any) -> str:
    d = dataclasses.asdict(tower)
    return f"width {d['width']}, {d['layers']} layers, {d['heads']} heads"
