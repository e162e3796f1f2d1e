"""The paper's 27 datasets (Table 9) and the others it reports on, from ``catalog.json``.

Sizes and metrics are the paper's; what CLIP_benchmark's and DataComp's copies have instead is in
the notes, since a number belongs to a protocol. ``locate`` opens the datasets and prints the table;
``prompts`` has their class names and templates.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Entry:
    """One dataset.

    Attributes:
      title: its usual name.
      kind: "classification", "multilabel" or "retrieval".
      classes: K as in the paper; 0 for retrieval.
      train: images the paper trains probes on, those for validation among them.
      val: official validation images among ``train``; 0: split some off.
      test: images that are scored.
      metric: the paper's, by its key in our results.
      home: where it comes from.
      tfds: its name in TFDS, if that has what the protocol needs.
      tfds_splits: our split -> TFDS's, where the names differ.
      tfds_label: TFDS's feature with the label or, with a slash, the captions.
      webdataset: its name in CLIP_benchmark's list; the hub has ``clip-benchmark/wds_NAME``, with
        "-" for "/".
      datacomp: its key in DataComp's task list; the hub has ``djghosh/wds_NAME_test``.
      notes: what to look out for.
      of_paper: one of the 27.
    """

    title: str
    kind: str
    classes: int
    train: int
    val: int
    test: int
    metric: str
    home: str
    tfds: str = ""
    tfds_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tfds_label: str = "label"
    webdataset: str = ""
    datacomp: str = ""
    notes: Sequence[str] = ()
    of_paper: bool = True


CATALOG: dict[str, Entry] = {
    name: Entry(**fields)
    for name, fields in json.loads(
        Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    ).items()
}
