"""The sections of an evaluation's report by name, in the order of the page.

A task says by ``section`` which one shows the details of its results. A new section is a line here,
or a line elsewhere: ``SECTIONS["mine"] = Part("My headline", build)``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from clip_jax.evals.records import Record
from clip_jax.report.sections import bias, few_shot, overlap, results, zero_shot
from clip_jax.report.sections.view import View


class Part(NamedTuple):
    """A section.

    Attributes:
      build: makes the template's data from the measured records of the section's tasks, or nothing.
      template: a file of the templates' folder; by default that of ``render.Blocks``.
      scores: whether the main metrics of its tasks are results of the model.
    """

    headline: str
    build: Callable[[View, Sequence[Record]], object]
    template: str = "blocks.html"
    scores: bool = True


SECTIONS: dict[str, Part] = {
    zero_shot.SECTION: Part("Zero-shot", zero_shot.section),
    "linear-probe": Part("Linear probes", zero_shot.against_probes),
    "few-shot": Part("Few-shot probes", few_shot.section),
    "retrieval": Part("Retrieval", results.retrieval),
    # What is found of the training data is no result of the model's.
    "overlap": Part("Overlap with training data", overlap.section, "overlap.html", scores=False),
    "bias": Part("Bias probes", bias.section, "bias.html"),
}
