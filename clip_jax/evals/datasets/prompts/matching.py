"""Brings prompts and a dataset's labels together by the names of the classes.

OpenAI's lists are not in the order of the datasets' own label numbers (of Pascal VOC, Oxford Pets,
EuroSAT, Food-101, Caltech-101 and others). So classes are matched by name, and what cannot be
matched is an error: the wrong order gives a number that looks like a result.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

import numpy as np

from clip_jax.data.errors import DataError
from clip_jax.data.test_sets import prompt_files
from clip_jax.data.test_sets.prompt_files import ClassNames
from clip_jax.data.test_sets.types import ClassificationDataset
from clip_jax.evals.datasets.prompts import IMAGENETS, Prompts, load, prompts

_FIX = (
    "Give the class names of its labels, in their order (a classnames.txt beside the data, or "
    "a file with class names)"
)


def with_prompts(
    data: ClassificationDataset, name: str, protocol: str = "paper", *, templates: str = "all"
) -> ClassificationDataset:
    """A dataset with the class names and templates of a protocol, and labels in their order.

    Under ``clip_benchmark`` and ``datacomp`` the prompts that come with the data go first, as
    these do it. The fingerprint stays: the images are the same.

    Args:
      data: the images; its class names say what its labels mean.
      name: the dataset's name in ``prompts.names()``.
      protocol, templates: see ``prompts.prompts``.

    Raises:
      ValueError: as ``prompts.prompts``; or a class of the data is none of the protocol's.
    """
    if protocol != "paper" and templates == "all" and data.templates and data.class_names:
        return data
    wanted = prompts(name, protocol, templates=templates)
    if not wanted.class_names:
        if not data.class_names:
            raise ValueError(
                f"{data.name}: the data has no class names, and protocol={protocol!r} takes "
                f"{name}'s from it: add classnames.txt, or give a file with class names"
            )
        wanted = wanted._replace(class_names=tuple(data.class_names))
    number = match(data, wanted, name)
    if data.multilabel:
        labels = np.zeros((len(data), len(wanted.class_names)), bool)
        labels[:, list(number.values())] = data.labels[:, list(number)]
    else:
        labels = np.array([number.get(k, -1) for k in range(data.classes)], np.int32)[data.labels]
    return dataclasses.replace(data, labels=labels, **wanted._asdict(), descriptions=())


def with_files(
    data: ClassificationDataset,
    class_names: str | os.PathLike = "",
    templates: str | os.PathLike = "",
    data_set: Sequence[str] = (),
) -> ClassificationDataset:
    """A dataset with the class names or templates of a user's files, in any language.

    Class names are in the order of ``data.labels``; those that are the data's own in another order
    keep their classes. Templates that are whole prompts of each class (CuPL), by its name, become
    the descriptions.

    Args:
      data: the images.
      class_names, templates: see ``prompt_files``; empty: those of ``data``.
      data_set: which entry to take of a JSON object, the first of these names that it has.

    Raises:
      DataError: a file is not in order; the message names it and the line or key.
    """
    if class_names:
        names = prompt_files.read_class_names(class_names, data_set)
        if len(names) != data.classes and (data.class_names or len(names) < data.classes):
            raise DataError(
                f"{class_names}: {len(names)} class names, but {data.name} has {data.classes}"
            )
        names = _in_order(names, data, str(class_names))
        data = dataclasses.replace(data, class_names=names, descriptions=())
    if not templates:
        return data
    given = prompt_files.read_templates(templates, data_set)
    if isinstance(given, tuple):
        return dataclasses.replace(data, templates=given, descriptions=())
    whole = prompt_files.of_classes(given, data.class_names, str(templates))
    return dataclasses.replace(data, descriptions=whole)


def _in_order(names: ClassNames, data: ClassificationDataset, file: str) -> ClassNames:
    """Names of a file; if they are the data's names in another order, in the data's order.

    Raises DataError where only some of them are the data's names, of other classes.
    """
    own = [_key(_spellings(c)[0]) for c in data.class_names]
    new = [_key(_spellings(c)[0]) for c in names]
    if len(set(own)) == len(own) and sorted(own) == sorted(new):
        return tuple(names[new.index(key)] for key in own)
    for i, key in enumerate(new):
        if key in own and own.index(key) != i and not (i < len(own) and own[i] == key):
            raise DataError(
                f"{file}: class {i} is {_spellings(names[i])[0]!r}, which is class "
                f"{own.index(key)} of {data.name}; put the names into the order of its classes"
            )
    return tuple(names)


def match(data: ClassificationDataset, wanted: Prompts, name: str) -> dict[int, int]:
    """For every class of the data that has an image, its number among the wanted ones.

    Case and what is between the words of a name do not matter. Classes that are mere numbers are
    taken as the authors' numbers, if the wanted list is in that order.

    Raises:
      ValueError: a class that has images is none of the wanted, or two are the same.
    """
    counts = data.labels.sum(0) if data.multilabel else np.bincount(data.labels)
    used = np.flatnonzero(counts).tolist()
    own = [_spellings(c) for c in data.class_names] or [(str(k),) for k in range(data.classes)]
    if [{_key(s) for s in c} for c in own] == [
        {_key(s) for s in _spellings(c)} for c in wanted.class_names
    ]:
        return {k: k for k in used}
    numbers: dict[int, int] = {}
    keys = _keys(wanted, name)
    if all(len(c) == 1 and c[0].isdigit() and int(c[0]) == k for k, c in enumerate(own)):
        # Numbers that only count: "3" is then the fourth class, not three objects.
        if _numbered_as_the_data(name) and len(own) <= len(wanted.class_names):
            return {k: k for k in used}
        keys = {}
    for k in used:
        hits = {keys[_key(s)] for s in own[k] if _key(s) in keys}
        if len(hits) == 1 and hits != {None}:
            numbers[k] = hits.pop()
    missing = [own[k][0] for k in used if k not in numbers]
    if missing:
        raise ValueError(
            f"{data.name}: {len(missing)} of its classes are none of the "
            f"{len(wanted.class_names)} of {name}, or not clearly one: "
            f"{', '.join(map(repr, missing[:5]))}. {_FIX}"
        )
    owner: dict[int, int] = {}
    for k, number in numbers.items():
        if owner.setdefault(number, k) != k:
            raise ValueError(
                f"{data.name}: its classes {own[owner[number]][0]!r} and {own[k][0]!r} are the "
                f"same class of {name}. {_FIX}"
            )
    return numbers


def _numbered_as_the_data(name: str) -> bool:
    whole = name not in IMAGENETS or IMAGENETS[name] is None
    known = load("class_ids")["numbered_as_the_data"]
    return whole and ("ImageNet" if name in IMAGENETS else name) in known


def _spellings(entry: str | Sequence[str]) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _key(name: str) -> str:
    """A name without case, and with single spaces for all that is between words."""
    name = re.sub(r"^/\w/", "", name)  # SUN397 has /a/abbey
    if name[:1].isupper():  # UCF101 has ApplyEyeMakeup; an iPod is one word
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\s_/\-]+", name.lower())).strip()


def _keys(wanted: Prompts, name: str) -> Mapping[str, int | None]:
    """Class numbers by all names that a class may have; None for names that two classes have."""
    ids, subset = load("class_ids"), IMAGENETS.get(name)
    keys: dict[str, int | None] = {}

    def add(text: str, number: int) -> None:
        key = _key(text)
        keys[key] = number if keys.get(key, number) == number else None

    for number, entry in enumerate(wanted.class_names):
        for text in _spellings(entry):
            add(text, number)
    listed = ids["ids"].get("ImageNet" if name in IMAGENETS else name, [])
    listed = [listed[i] for i in ids[subset]] if subset else listed
    if len(listed) == len(wanted.class_names):
        for number, text in enumerate(listed):
            add(text, number)
    for text, meant in ids["aliases"].get(name, {}).items():
        if isinstance(number := keys.get(_key(meant)), int):
            keys.setdefault(_key(text), number)
    return keys
