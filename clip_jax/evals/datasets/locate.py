"""Finds the catalog's datasets on this machine, or says how to get them.

``python -m clip_jax.evals.datasets.locate > docs/data_sets.md`` writes the documentation's table.
"""

import dataclasses
import difflib
import os
from pathlib import Path

import jinja2

from clip_jax.data import tfds_split
from clip_jax.data.errors import MissingData
from clip_jax.data.test_sets.registry import open_dataset
from clip_jax.data.test_sets.types import ClassificationDataset, Options, RetrievalDataset
from clip_jax.evals.datasets.catalog import CATALOG, Entry

# Keys of results -> names for people.
METRICS = {
    "top1": "accuracy",
    "mean_per_class_recall": "mean per class",
    "mean_average_precision": "11-point mAP",
    "roc_auc": "ROC AUC",
    "mean_top1_top5": "mean of top-1 and top-5",
    "image_to_text_r@1": "R@1, 5, 10 both ways",
}


def find(name: str) -> str:
    """The catalog's name of a dataset by any of its names, CLIP_benchmark's, DataComp's, TFDS's.

    Case does not matter, nor does a "wds/" or "vtab/" in front.

    Raises:
      ValueError: there is none, with the nearest name.
    """
    known: dict[str, str] = {}
    for key, entry in CATALOG.items():
        for alias in (key, entry.title, entry.tfds, entry.webdataset, entry.datacomp):
            known.setdefault(_bare(alias), key)
    known.pop("", None)
    if (key := known.get(_bare(name))) is None:
        near = difflib.get_close_matches(_bare(name), known, 1)
        hint = f"; did you mean {known[near[0]]!r}?" if near else f" {sorted(CATALOG)}"
        raise ValueError(f"{name!r} is no dataset of the catalog{hint}")
    return key


def aliases(name: str) -> tuple[str, ...]:
    """The names of a dataset here, in CLIP_benchmark and in DataComp."""
    entry = CATALOG[name]
    others = [alias for alias in (entry.webdataset, entry.datacomp) if alias]
    bare = [alias.rpartition("/")[2] for alias in others]
    return tuple(dict.fromkeys([name, *others, *bare]))


def _bare(name: str) -> str:
    return name.lower().removeprefix("wds/").removeprefix("vtab/")


def commands(entry: Entry, root: str | os.PathLike = "data") -> list[str]:
    """Commands that bring a dataset under ``root``, the simplest first; else its home page."""
    hub = [
        f"hf download {r} --repo-type=dataset --local-dir={Path(root) / r.partition('/')[2]}"
        for r in _repositories(entry)
    ]
    tfds = [tfds_split.preparation(entry.tfds)] if entry.tfds else []
    return hub + tfds or [entry.home]


def _repositories(entry: Entry) -> list[str]:
    """Repositories of the hub: CLIP_benchmark's, which have training splits, before DataComp's."""
    repositories = []
    if entry.webdataset:
        repositories.append(f"clip-benchmark/wds_{entry.webdataset.replace('/', '-')}")
    # DataComp's VOC is another task.
    if entry.datacomp and entry.kind == "classification":
        repositories.append(f"djghosh/wds_{entry.datacomp.replace('/', '-')}_test")
    return repositories


def specs(name: str, root: str | os.PathLike = "") -> list[str]:
    """The specs that ``locate`` tries, in this order."""
    entry, folders = CATALOG[name], []
    if root:
        home = Path(root).expanduser()
        folders = [f"wds:{home / r.partition('/')[2]}" for r in _repositories(entry)]
        folders.append(f"folder:{home / name}")
    return folders + ([f"tfds:{entry.tfds}"] if entry.tfds else [])


def locate(name: str, root: str | os.PathLike = "", options: Options | None = None) -> str:
    """The spec of a catalog's test split on this machine, for ``open_dataset``.

    It may be a webdataset folder as the hub has it, a folder ``<root>/<name>`` with a folder for
    each class, or a prepared TFDS dataset.

    Args:
      name: as ``find`` returns it.
      root: the folder with the datasets; empty: TFDS only.
      options: ``data_dir`` is where TFDS looks.

    Raises:
      MissingData: it is nowhere; with what was tried and the command or page that gets it.
      DataError: it is here and not in order.
    """
    entry, tried = CATALOG[name], []
    for spec in specs(name, root):
        try:
            open_at(spec, name, "test", options)
        except MissingData as error:
            tried.append(f"{spec}: {error}")
        else:
            return spec
    ways = " or ".join(f"`{c}`" for c in commands(entry, root or "data"))
    looked = f" Looked for {'; '.join(tried)}" if tried else ""
    raise MissingData(f"{name} ({entry.title}) is not here: get it by {ways}.{looked}")


def open_at(
    spec: str, name: str, split: str = "test", options: Options | None = None
) -> ClassificationDataset | RetrievalDataset:
    """Opens a dataset of the catalog at a given location.

    Args:
      spec: as ``open_dataset`` takes it.
      name: as ``find`` returns it.
      split: "train", "val" or "test", in the catalog's sense: ImageNet's "test" is what its
        authors call the validation split, and then it has no "val".
      options: how it is read; of TFDS, features are the catalog's.

    Raises:
      MissingData: the dataset or the split is not here.
      DataError: it is here and not in order.
    """
    entry, options = CATALOG[name], options or Options()
    kind = spec.partition(":")[0]
    if split == "val" and not entry.val and kind in ("tfds", "folder"):
        # What is called so there is what is scored.
        raise MissingData(f"{name} has no validation split besides the one that is scored")
    local_split, path = split, spec.partition(":")[2]
    if kind == "tfds" and entry.tfds and entry.tfds.split("/")[0] in path.split("/"):
        # TFDS's own dataset, by name or by the folder of a prepared version: splits and features
        # are the catalog's, not the user's.
        local_split = entry.tfds_splits.get(split, split)
        label = {"label_key": entry.tfds_label}
        if entry.kind == "retrieval":
            label = {"label_key": "", "caption_key": entry.tfds_label}
        options = dataclasses.replace(options, image_key="image", **label)
    elif kind == "folder" and name == "ImageNet" and split == "test":
        # The usual folder; ImageNet's own test split has no labels.
        local_split = "val" if (Path(path).expanduser() / "val").is_dir() else split
    dataset = open_dataset(spec, local_split, options)
    return dataclasses.replace(dataset, name=name, split=split)


def markdown() -> str:
    """The text of docs/data_sets.md."""
    template = jinja2.Template(
        Path(__file__).with_name("data_sets.md.j2").read_text(encoding="utf-8"),
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return template.render(
        catalog=CATALOG, metrics=METRICS, repositories=_repositories,
        preparation=tfds_split.preparation("NAME"),
    )  # fmt: skip


if __name__ == "__main__":
    print(markdown(), end="")
