"""Class names and prompt templates of the paper's datasets, and of other protocols.

A result depends on its prompts: CLIP_benchmark's of RESISC45 are four where OpenAI's are eighteen.
So every list has a protocol; where it is not certain what one uses, the files that come with its
data are taken. ``matching`` brings the names into the order of a dataset's labels.
"""

import difflib
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PROTOCOLS = ("paper", "clip_benchmark", "datacomp")
TEMPLATES = ("all", "subset7", "plain", "names")
PLAIN = ("a photo of a {}.",)  # the paper's default, section 3.1.4
NAMES_ALONE = ("{}",)  # "contextless class names" of the paper's figure 4
RETRIEVAL_PREFIX = "a photo of "  # in front of captions in the paper's retrieval, appendix E.1

# Datasets with the classes of ImageNet, or those of them that ``class_ids.json`` lists.
IMAGENETS = {
    "ImageNet": None,
    "ImageNetV2": None,
    "ImageNetSketch": None,
    "ImageNetA": "imagenet_a",
    "ImageNetR": "imagenet_r",
}


class Prompts(NamedTuple):
    """Class names (K classes, each one name or several; () for the data's own) and templates."""

    class_names: tuple[str | tuple[str, ...], ...]
    templates: tuple[str, ...]


@functools.cache
def load(name: str) -> dict:
    """One of the JSON files of this folder. Read once, when it is needed."""
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))


def names() -> list[str]:
    """The datasets that have prompts: the paper's 27, ImageNet's shifts, ObjectNet."""
    return sorted([*load("paper")["data_sets"], *IMAGENETS, "ObjectNet"])


def prompts(name: str, protocol: str = "paper", *, templates: str = "all") -> Prompts:
    """Class names and templates of a dataset under a protocol.

    ``paper`` has OpenAI's lists (data/prompts.md, the ImageNet notebook), in OpenAI's order.
    ``clip_benchmark`` has CLIP_benchmark's English ones, for ImageNet's shifts too; classes that
    it takes from the data are (). ``datacomp`` takes all from the files beside its data.

    Args:
      name: as in ``names()``.
      protocol: one of ``PROTOCOLS``.
      templates: "all" of the protocol; "subset7", the seven of ImageNet's 80 that OpenAI's notebook
        ended with; "plain", only "a photo of a {}."; "names", the name alone.

    Raises:
      ValueError: unknown name, protocol or templates; or a protocol that does not publish them.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is not one of {PROTOCOLS}")
    if templates not in TEMPLATES:
        raise ValueError(f"templates={templates!r} is not one of {TEMPLATES}")
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else f", only for {names()}"
        raise ValueError(f"there are no prompts for {name!r}{hint}")
    if protocol == "datacomp":
        raise ValueError(
            f"protocol='datacomp' takes the prompts of {name} from the files beside its data: give "
            "a webdataset folder with classnames.txt and zeroshot_classification_templates.txt"
        )
    whole = _of_paper(name) if protocol == "paper" else _of_clip_benchmark(name)
    if templates == "all":
        return whole
    if templates != "subset7":
        return whole._replace(templates=of_any(templates))
    if name not in IMAGENETS and name != "ObjectNet":
        raise ValueError(f"templates='subset7' is of ImageNet's templates, not of {name}'s")
    return whole._replace(templates=tuple(load("imagenet")["templates_subset7"]))


def of_any(templates: str) -> tuple[str, ...]:
    """The templates "plain" or "names", which fit any dataset; ValueError for others."""
    known = {"plain": PLAIN, "names": NAMES_ALONE}
    if templates not in known:
        raise ValueError(f"templates={templates!r} is of ImageNet's templates, not of this data's")
    return known[templates]


def _of_paper(name: str) -> Prompts:
    imagenet = load("imagenet")
    if name == "ObjectNet":  # whose names OpenAI has not published
        return Prompts((), tuple(imagenet["templates"]))
    if name in IMAGENETS:
        classes = imagenet["classes"]
        if subset := IMAGENETS[name]:
            classes = [classes[i] for i in load("class_ids")[subset]]
        return Prompts(tuple(classes), tuple(imagenet["templates"]))
    entry = load("paper")["data_sets"][name]
    return Prompts(_frozen(entry["classes"]), tuple(entry["templates"]))


def _of_clip_benchmark(name: str) -> Prompts:
    paper, own = _of_paper(name), load("clip_benchmark")
    if name in {*IMAGENETS, "ObjectNet"}:
        return paper
    if name not in own["templates"] and name not in own["templates_as_in_paper"]:
        raise ValueError(f"CLIP_benchmark has no {name}; take protocol='paper'")
    classes = own["classes"].get(name, ())
    if name in own["classes_as_in_paper"]:
        classes = paper.class_names
    return Prompts(_frozen(classes), tuple(own["templates"].get(name, paper.templates)))


def _frozen(classes: Sequence[str | Sequence[str]]) -> tuple[str | tuple[str, ...], ...]:
    return tuple(c if isinstance(c, str) else tuple(c) for c in classes)
