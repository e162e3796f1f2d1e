"""Result records: a number with all that it means, as one JSON file each.

A figure without its split, prompts, preprocessing and protocol cannot be compared with another;
so none is written without them.
"""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_jax.runtime.atomic import write_atomically


@dataclasses.dataclass(frozen=True)
class Record:
    """What one task says of one dataset.

    Attributes:
      task: a name in ``tasks.registry.TASKS``.
      dataset, split: what was scored.
      protocol: "paper", "clip_benchmark" or "datacomp".
      n: images scored (retrieval: captions; caption selection: instances).
      main_metric: key of ``metrics`` that stands for the whole.
      metrics: name -> value, shares from 0 to 1.
      intervals: name -> 95% interval, for every share of ``metrics``.
      model, model_fingerprint: its name, and sha256 over weights, preprocessing and tokenizer.
      data_fingerprint: of the dataset.
      preprocess: the way from an image to the model's input.
      class_names, templates: of a zero-shot classifier, as used; a class may have several names.
      seed: of what was drawn at random.
      details: more that a report shows, by task: "per_class" and "worst", "visited" lambdas,
        "curve" of few-shot means.
      seconds: that it took, embedding included unless it was read.
      skipped: why there are no figures; "" if there are.
      settings: what else was chosen: "templates", "class_file", "template_file".
    """

    task: str
    dataset: str
    split: str
    protocol: str
    n: int = 0
    main_metric: str = ""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    model: str = ""
    model_fingerprint: str = ""
    data_fingerprint: str = ""
    preprocess: dict[str, Any] = dataclasses.field(default_factory=dict)
    class_names: Sequence[Any] = ()
    templates: Sequence[str] = ()
    seed: int = 0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    skipped: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def value(self) -> float:
        """The main metric's value; NaN if the task was skipped."""
        return self.metrics.get(self.main_metric, math.nan)

    @property
    def file_name(self) -> str:
        """A name that no other record of the same model and protocol has: datasets may be called
        alike, and their names have characters that files cannot have.
        """
        parts = (self.dataset, self.split, self.task, self.protocol, self.data_fingerprint[:8])
        names = (re.sub(r"[^\w.-]+", "-", p).strip("-.") for p in parts if p)
        return "_".join(names) + ".json"


def write(folder: Path, record: Record, key: str) -> Path:
    """Writes a record under ``folder``; ``key`` says of what it is the result (see ``read``)."""
    folder.mkdir(parents=True, exist_ok=True)
    found = dataclasses.asdict(record) | {"key": key}
    path = folder / record.file_name
    text = json.dumps(_finite(found), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode(errors="replace"))
    return path


def read(path: Path, key: str = "") -> Record | None:
    """A record, or None where there is none that is whole and the result of ``key``."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        written = found.pop("key")
        if key and written != key:
            return None
        found["metrics"] = {k: math.nan if v is None else v for k, v in found["metrics"].items()}
        found["intervals"] = {
            k: tuple(math.nan if x is None else x for x in v) for k, v in found["intervals"].items()
        }
        return Record(**found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def of_folder(folder: Path) -> list[Record]:
    """All records of a folder, the oldest first. Copies under other names are none."""
    files = sorted(folder.glob("[!.]*.json"), key=lambda path: (path.stat().st_mtime_ns, path))
    found = [(path.name, read(path)) for path in files]
    return [record for name, record in found if record and record.file_name == name]


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
