"""What each stage of a run trains with: tokenizer, model, preprocessing and compiled program."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from clip_jax.config import ConfigDict, Stage, Stages
from clip_jax.data import transforms
from clip_jax.data.pairs.base import Source
from clip_jax.data.preprocess import Preprocess
from clip_jax.evals import evaluators
from clip_jax.evals.embedder import BatchedEmbedder
from clip_jax.evals.evaluators import Evaluator
from clip_jax.evals.records import Record
from clip_jax.evals.types import EvalModel
from clip_jax.models import clip
from clip_jax.models.clip import ClipModel
from clip_jax.models.resnet import ResNetConfig
from clip_jax.models.vit import ViTConfig
from clip_jax.runtime import distributed
from clip_jax.runtime import mesh as mesh_lib
from clip_jax.runtime.distributed import say
from clip_jax.runtime.integrity import Mismatch
from clip_jax.runtime.mesh import PyTree
from clip_jax.tokenizers import Tokenizer
from clip_jax.training import metric_writer, optim, program, resize, step, text_length, workdir
from clip_jax.training.program import Program


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a stage trains with.

    Attributes:
      stage: which one.
      rows: int[b], the rows of its global batches that this process holds.
      tokenizer: the model's.
      caption_tokenizer: the same, cutting captions at ``train.context_length``.
      preprocess: of evaluations.
      program: the train step.
      embed_steps: see ``step.embed_steps``.
    """

    stage: Stage
    rows: np.ndarray
    tokenizer: Tokenizer
    caption_tokenizer: Tokenizer
    preprocess: Preprocess
    program: Program
    embed_steps: tuple[Callable, Callable, Callable]

    @property
    def config(self) -> ConfigDict:
        """That of the stage."""
        return self.stage.config

    @property
    def model(self) -> ClipModel:
        """What is trained, with the execution that was chosen."""
        return self.program.model

    def metadata(self, source: Source) -> dict[str, str]:
        """What a checkpoint says of the model's inputs, and a resumed run compares."""
        model = workdir.model_metadata(self.preprocess, self.tokenizer)
        return {"data fingerprint": source.fingerprint, **model}

    def describe(self) -> list[str]:
        """How the stage is computed, in lines."""
        return [
            f"execution: {self.program.execution}",
            f"captions: {text_length.describe(self.config, self.model.config.text)}",
            f"loss: {self.program.loss}",
        ]

    def evaluate(
        self, variables: Mapping[str, PyTree], due: Sequence[Evaluator], mesh: Mesh, name: str
    ) -> dict[str, Record]:
        """Runs evaluators on a model with these variables and prints their numbers.

        Data that has become unreadable costs that evaluator's numbers, not the run.

        Args:
          variables: of the model, ``TrainState.eval_variables``.
          due: the evaluators.
          mesh: where the variables are.
          name: of the model, in records.

        Returns:
          Name of the evaluator -> record.
        """
        scale = float(np.exp(jax.device_get(variables["params"]["logit_scale"])))
        embed = self._embedder(variables, mesh)
        model = EvalModel(name, "", embed, self.tokenizer, self.preprocess, mesh, scale)
        records = {}
        for each in due:
            record = records[each.name] = each.run(model)
            if record.skipped:
                say(f"{evaluators.KEY}, {each.name}: left out this time: {record.skipped}")
            else:
                line = metric_writer.evaluation_line(evaluators.scalars(record))
                say(f"  {each.name}: {line}")
        return records

    def _embedder(self, variables: Mapping[str, PyTree], mesh: Mesh) -> BatchedEmbedder:
        return BatchedEmbedder(
            *(functools.partial(f, variables) for f in self.embed_steps),
            mesh=mesh,
            batch_size=self.config.eval.batch_size,
            embed_dim=self.model.config.embed_dim,
            probe_dim=self.model.probe_dim,
            text=self.model.config.text,
            on_batch=functools.partial(distributed.heartbeat, "evaluating"),
        )

    def clear(self) -> None:
        """Drops the compiled programs: they take memory of the devices."""
        for function in (self.program.train_step, *self.embed_steps):
            function.clear_cache()

    def words(self) -> str:
        """What the stage trains on, in words."""
        steps, batch = self.stage.last_step - self.stage.first_step, self.stage.batch_size
        tokens = text_length.longest(self.config, self.model.config.text)
        dropped = f", {d:.0%} of the patches dropped" if (d := self.model.patch_dropout) else ""
        size = self.preprocess.image_size
        words = f"{steps:,} steps of {batch:,} pairs, {size} px, {tokens} tokens{dropped}"
        if self.stage.new_schedule:
            words += f", learning rate {self.config.optim.learning_rate}"
        return words

    def step_flops(self) -> int:
        """Of a step whose captions are as long as they may be; 0 where the tower is not known."""
        if not isinstance(self.model.config.vision, ViTConfig | ResNetConfig):
            return 0
        length = text_length.longest(self.config, self.model.config.text)
        return program.step_flops(self.model, self.stage.batch_size, length)


def seconds_left(setups: Sequence[Setup], present: Setup, step: int, seconds: float) -> float:
    """How long the rest of a run will take.

    Args:
      setups, present: of all stages, and of the one that is being trained.
      step: the steps done.
      seconds: a step of this stage; those of later ones are estimated by their FLOPs.
    """
    left = (present.stage.last_step - step) * seconds
    for later in setups[present.stage.number + 1 :]:
        ratio = later.step_flops() / present.step_flops() if present.step_flops() else 1.0
        left += (later.stage.last_step - later.stage.first_step) * seconds * ratio
    return left


def of_checkpoint(setups: Sequence[Setup], metadata: Mapping[str, object]) -> Setup:
    """The setup that a checkpoint was written with, by its metadata.

    Raises:
      Mismatch: the run has no such stage.
    """
    number = metadata.get("stage", 0)  # before there were stages
    if number >= len(setups):
        raise Mismatch(
            f"a checkpoint was written in stage {number + 1}, and train.stages has "
            f"{len(setups)}; give another --workdir for a new run"
        )
    return setups[number]


def summary(setups: Sequence[Setup]) -> list[tuple[str, str]]:
    """What a run trains on, as names and words: the whole, and each stage where there are more."""
    stage = setups[-1].stage
    if len(setups) == 1:
        return [
            ("training", f"{stage.last_step:,} steps of {stage.batch_size:,} pairs"),
            ("learning rate", f"{stage.config.optim.learning_rate}"),
        ]
    own = [(f"stage {s.stage.number + 1}", s.words()) for s in setups]
    return [("training", f"{stage.last_step:,} steps in {len(setups)} stages"), *own]


def build(stages: Stages, source: Source, mesh: Mesh, folder: Path) -> list[Setup]:
    """The setups of all stages of a run: what cannot work in the last one is known at the start.

    Args:
      stages: the stages.
      source: the training data, on which a tokenizer may be trained.
      mesh: where the run trains.
      folder: its workdir.

    Raises:
      ValueError: parts of a stage's config do not go together; names the keys.
    """
    schedule = optim.from_stages(stages)
    tokenizer = workdir.build_tokenizer(stages[0].config, folder, source)
    setups: list[Setup] = []
    for stage in stages:
        setups.append(_build(stage, tokenizer, schedule, mesh))
        if stage.number:
            try:
                resize.check(*(s.program.abstract for s in setups[-2:]))
            except ValueError as error:
                raise ValueError(f"train.stages[{stage.number}]: {error}") from None
    return setups


def _build(stage: Stage, tokenizer: Tokenizer, schedule: optim.Schedule, mesh: Mesh) -> Setup:
    config = stage.config
    rows = mesh_lib.local_rows(mesh, config.train.batch_size)
    model = clip.build(config.model, tokenizer)
    c = model.config
    preprocess = transforms.evaluation(
        c.vision.image_size, config.data.resize, c.image_mean, c.image_std
    )
    made = program.build(config, model, mesh, schedule)
    length = text_length.longest(config, c.text)
    whole = length == tokenizer.context_length
    captions = tokenizer if whole else tokenizer.with_context_length(length)
    embed = step.embed_steps(made.model, mesh)
    return Setup(stage, rows, tokenizer, captions, preprocess, made, embed)
