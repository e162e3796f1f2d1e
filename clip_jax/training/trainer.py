"""A training run: everything a config stands for, built in order, and the loop over its steps."""

import collections
import contextlib
import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from clip_jax import config as config_lib
from clip_jax.data.batch import Batch
from clip_jax.data.errors import DataError
from clip_jax.data.pairs import registry
from clip_jax.data.stream.input import Input
from clip_jax.data.stream.prefetcher import Prefetcher
from clip_jax.evals import evaluators
from clip_jax.evals.evaluators import Evaluator
from clip_jax.evals.records import Record
from clip_jax.interop import weights
from clip_jax.runtime import distributed, integrity, mesh
from clip_jax.runtime.clock import Clock
from clip_jax.runtime.distributed import say
from clip_jax.runtime.profiler import Profiler
from clip_jax.training import (
    initialize,
    metric_writer,
    program,
    resize,
    setup,
    state,
    step,
    text_length,
    workdir,
)
from clip_jax.training.checkpoint import Checkpoints
from clip_jax.training.setup import Setup


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""

    exit_code = 1


class Preempted(Exception):
    """A stop was requested; the state of the run is saved."""

    exit_code = distributed.PREEMPTED

    def __init__(self) -> None:
        super().__init__("stopped, with a checkpoint; the same command continues the run")


Made = TypeVar("Made")
Writer = metric_writer.Writer | None  # on the lead process alone


class Run:
    """One launch of a run: builds its parts, restores its state, trains, evaluates.

    Attributes:
      config: the resolved config.
      workdir: the run's folder.
      stages: of the run; without ``train.stages`` there is one.
      setups, setup: what each of them trains with, and what the present one does.
      step: steps done.
      state: the train state, ahead of its checkpoints by at most their interval.
    """

    def __init__(
        self, config: ConfigDict, folder: Path, load_weights: Callable[[str], weights.Weights]
    ):
        """Builds or restores all parts; ``load_weights`` reads weights by their name or path."""
        self.config, self.workdir, self.clock = config, folder, Clock()
        self.mesh = mesh.create_mesh(config.mesh)
        say(
            f"{jax.process_count()} process(es), {jax.device_count()} {jax.default_backend()} "
            f"device(s), mesh {dict(self.mesh.shape)}"
        )
        self.source = self._lead_first("data", lambda: registry.build(config.data))
        self.stages = config_lib.Stages(config, len(self.source))
        self.setups = setup.build(self.stages, self.source, self.mesh, folder)
        images = self.setups[0].preprocess
        self.evaluators = self._lead_first(
            "evaluators", lambda: evaluators.prepare(config, images, self.source.fingerprint)
        )
        self.profiler = Profiler(config.log.profile_steps, folder / "profile")
        self.checkpoints = Checkpoints(folder / "checkpoints", config.checkpoint.keep)
        self.setup, seconds = self._restore_or_create(load_weights)
        if self._between_stages():
            self._advance()
        self.input = self._input()
        self.clock.begin(self.step, seconds)

    def _lead_first(self, what: str, make: Callable[[], Made]) -> Made:
        """What the lead prepares on disk, the others read there."""
        distributed.heartbeat(f"preparing {what}")
        made = make() if distributed.is_lead() else None
        distributed.barrier(f"{what} prepared")
        return made if distributed.is_lead() else make()

    def _restore_or_create(
        self, load_weights: Callable[[str], weights.Weights]
    ) -> tuple[Setup, float]:
        """Sets the state and the step; returns their setup and the seconds trained until then."""
        of = functools.partial(setup.of_checkpoint, self.setups)
        with jax.set_mesh(self.mesh):
            restored = self.checkpoints.restore(lambda stored: of(stored).program.abstract)
        if restored is None:
            first = self.setups[0]
            self.state, self.step, self.unreadable = first.program.create(self.config.seed), 0, 0
            if name := self.config.model.init_from:
                say(f"beginning from {name}")
                pretrained = load_weights(name)
                ours = (first.model.config, first.tokenizer, first.preprocess)
                self.state = initialize.from_weights(self.state, pretrained, name, *ours)
            return first, 0.0
        self.state, stored = restored
        workdir.check_metadata(self.workdir, stored, of(stored).metadata(self.source))
        self.step, self.unreadable = stored["step"], stored["bad"]
        return of(stored), stored["seconds"]

    def _input(self) -> Input:
        s, size = self.setup, self.setup.preprocess.image_size
        return Input(s.config, self.source, s.caption_tokenizer, size, s.rows)

    def _between_stages(self) -> bool:
        """Whether the present stage is over, and another is to come."""
        return self.setup.stage.last_step == self.step < self.stages.total_steps

    def _advance(self) -> None:
        """Takes the state from a stage that is over to the next one."""
        self.setup.clear()
        self.setup = self.setups[self.setup.stage.number + 1]
        with jax.set_mesh(self.mesh):
            self.state = resize.for_image_size(self.state, self.setup.program.abstract)

    def describe(self) -> None:
        """Prints what is about to happen: config, model, data, where the run stands."""
        c = self.config
        tokenizer = self.setup.tokenizer
        say("config:", config_lib.to_json(c), "parameters:")
        say(state.parameter_table(self.setup.program.abstract.params))
        say(
            f"data: {c.data.source}, {len(self.source):,} pairs; tokenizer {c.tokenizer.name}, "
            f"{tokenizer.vocab_size:,} entries, {tokenizer.context_length} tokens"
        )
        if left_out := registry.describe_left_out(self.source):
            say(f"data: {left_out}")
        self._describe_stage()
        say(*(f"{name}: {words}" for name, words in setup.summary(self.setups)))
        if self.step:
            total = self.stages.total_steps
            say(
                f"resuming the run in {self.workdir} at step {self.step} of {total}"
                f" ({metric_writer.duration(self.clock.seconds_before)} of training done)"
            )

    def _describe_stage(self) -> None:
        if len(self.stages) > 1:
            say(f"stage {self.setup.stage.number + 1} of {len(self.stages)}")
        say(*self.setup.describe(), self.input.describe())

    def train(self) -> None:
        """Takes the run from where it stands to its last step.

        Raises:
          Preempted: a stop was asked for; the state is saved.
          TrainingError: too many non-finite steps.
          DataError: too many unreadable records.
        """
        if self.step >= self.stages.total_steps:
            say(f"the run in {self.workdir} is complete: evaluating it again")
            return
        writer = None
        if distributed.is_lead():
            writer = metric_writer.Writer(self.workdir, self.step, self.config.log.tensorboard)
        try:
            while self.step < self.stages.total_steps:
                if self._between_stages():
                    with self.clock.spent("start"):
                        self._advance()
                        self.input = self._input()
                    self.clock.next_input(self.step)
                    self._describe_stage()
                self._train_stage(writer)
        finally:
            self.profiler.close()
            if writer is not None:
                writer.close()

    def _train_stage(self, writer: Writer) -> None:
        """Takes the run to the end of the present stage."""
        stage = self.setup.stage
        steps = self.step - stage.first_step, stage.last_step - stage.first_step
        batches = self.input.start(*steps, self._to_device, stage.first_example)
        try:
            self._loop(batches, writer)
        finally:
            batches.close()

    def _to_device(self, batch: Batch) -> Batch:
        preempted = np.full_like(batch.preempted, distributed.stop_requested())
        batch = batch._replace(preempted=preempted)
        return mesh.put_batch(self.mesh, batch, self.setup.stage.batch_size)

    def _loop(self, batches: Prefetcher[Batch], writer: Writer) -> None:
        c, stage, compiled_step = self.config, self.setup.stage, self.setup.program.train_step
        # Scalars are read two steps late, so that the host never waits for the device: by then
        # they are there. All processes read the same ones at the same step. A record or a
        # checkpoint waits for the device anyway, and its counters include the present step.
        pending: collections.deque[step.Metrics] = collections.deque()
        lengths: list[int] = []  # of the captions since the last record
        compiled: set[int] = set()  # lengths whose step is there
        self.clock.skip(self.step, batches.waited)
        with jax.set_mesh(self.mesh):
            stream = text_length.with_lengths(batches, self.setup.model.config.text, self.mesh)
            for batch, length in self._until_stopped(stream):
                new = length not in compiled
                compiled.add(length)
                with (
                    self.profiler.step(self.step + 1),
                    self.clock.spent("compile") if new else contextlib.nullcontext(),
                    jax.transfer_guard("disallow"),  # nothing but batches goes to the devices
                ):
                    self.state, scalars = compiled_step(self.state, batch, length)
                lengths.append(length)
                self.step += 1
                if self.profiler.after(self.step, scalars):
                    say(f"wrote a trace: {self.profiler.folder}")
                pending.append(scalars)
                last, border = self.step == self.stages.total_steps, self.step == stage.last_step
                logged = border or self.step % c.log.every_steps == 0
                saved = border or self.stages.due(self.step, c.checkpoint.every_examples)
                stop = self._check(pending, lag=0 if logged or saved else 2)
                distributed.heartbeat(f"step {self.step}")
                self.checkpoints.poll()
                if logged:
                    self._log(scalars, batches, writer, lengths)
                    lengths.clear()
                if stop and not last:
                    self._check(pending, lag=0)
                    self.save()
                    raise Preempted
                due = [e for e in self.evaluators if self.stages.due(self.step, e.every_examples)]
                if due and not last:
                    with self.clock.spent("evaluation"):
                        self.record(writer, self.evaluate(due))
                    self.clock.skip(self.step, batches.waited)
                if saved:
                    self.save()

    def _until_stopped(self, batches: Iterator[Made]) -> Iterator[Made]:
        """The batches; an input that breaks when the run is to stop ends it as a stop does."""
        try:
            yield from batches
        except Exception:
            # One process of several cannot save by itself: the others would wait for it.
            if not distributed.stop_requested() or jax.process_count() > 1:
                raise
            self.save()
            raise Preempted from None

    def _check(self, pending: collections.deque[step.Metrics], lag: int) -> bool:
        """Counts what all steps but the last ``lag`` report; True if a stop was asked for."""
        stops = [self._count(pending.popleft()) for _ in range(len(pending) - lag)]
        return any(stops)

    def _count(self, scalars: step.Metrics) -> bool:
        self.unreadable += int(scalars["unreadable"])
        nonfinite = int(scalars["nonfinite_steps"])
        seen = self.stages.examples(self.step)
        if self.unreadable > self.config.data.max_bad_fraction * max(seen, 1000):
            raise DataError(
                f"{self.unreadable} of {seen} records could not be read, more than "
                f"data.max_bad_fraction={self.config.data.max_bad_fraction}; the warnings above "
                f"name the first of them{self.checkpoints.kept()}"
            )
        if nonfinite >= self.config.train.max_consecutive_nonfinite:
            raise TrainingError(
                f"loss or gradient was not finite in {nonfinite} steps in a row "
                "(train.max_consecutive_nonfinite); lower optim.learning_rate or set "
                f"optim.grad_clip_norm, and start again{self.checkpoints.kept()}"
            )
        return bool(scalars["preempted"])

    def _log(
        self, scalars: step.Metrics, batches: Prefetcher[Batch], writer: Writer, lengths: list[int]
    ) -> None:
        batch_size = self.setup.stage.batch_size
        values = {k: float(v) for k, v in jax.device_get(scalars).items()}
        seconds_per_step, wait = self.clock.lap(self.step, batches.waited)
        record = {
            "step": self.step,
            "examples": self.stages.examples(self.step),
            "seconds": self.clock.seconds(),
            "seconds_per_step": seconds_per_step,
            "images_per_second": batch_size / seconds_per_step,
            "data_wait": wait,
            "bad_records": self.unreadable,
            **self.clock.shares(),
            **{k: v for k, v in values.items() if k not in ("unreadable", "preempted")},
        }
        work = (self.setup.model, self.mesh, batch_size, lengths, seconds_per_step)
        if mfu := program.utilisation(*work):
            record["mfu"] = mfu
        if writer is not None:
            writer.write(record)
            left = setup.seconds_left(self.setups, self.setup, self.step, seconds_per_step)
            say(metric_writer.progress_line(record, self.stages.total_steps, left))

    def record(self, writer: Writer, records: dict[str, Record]) -> None:
        """Writes the values of an evaluation at the present step."""
        flat = {
            f"eval/{name}/{metric}": value
            for name, record in records.items()
            for metric, value in evaluators.scalars(record).items()
        }
        if writer is not None:
            writer.write({"step": self.step, "seconds": self.clock.seconds(), **flat})

    def save(self) -> None:
        """Starts a checkpoint of the present step."""
        metadata = {
            **self.setup.metadata(self.source),
            "stage": self.setup.stage.number,
            "bad": self.unreadable,
            "seconds": self.clock.seconds(),
            "config": self.config.to_dict(),
            **self.input.metadata(),
            "versions": {p: importlib.metadata.version(p) for p in ("jax", "flax", "optax")},
        }
        with self.clock.spent("checkpoint"):
            self.checkpoints.save(self.step, self.state, metadata)

    def state_fingerprint(self) -> str:
        """One hex string that identifies the train state."""
        with jax.set_mesh(self.mesh):  # as where checkpoints are saved: compiled once for both
            return integrity.combined(integrity.fingerprint(self.state))

    def evaluate(self, due: Sequence[Evaluator]) -> dict[str, Record]:
        """Runs evaluators on the present model and prints their numbers: name -> record."""
        with jax.set_mesh(self.mesh):
            variables = self.state.eval_variables
            return self.setup.evaluate(variables, due, self.mesh, self.workdir.name)
