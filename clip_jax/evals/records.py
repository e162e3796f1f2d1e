"""Records: metrics with the split, prompts, preprocessing and protocol they belong to, as JSON."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_jax.runtime.atomic import write_atomically


@dataclasses.dataclass(frozen=True)
class Record:
    """The result of one task on one dataset, as ``types.Result`` has it, and how it was measured.

    Attributes:
      task: a name in ``tasks.registry.TASKS``.
      dataset, split: what was scored.
      protocol: "paper", "clip_benchmark" or "datacomp".
      n, main_metric, metrics, intervals, class_names, templates, details: see ``types.Result``.
      model, model_fingerprint: its name, and sha256 over weights, preprocessing and tokenizer.
      data_fingerprint: of the dataset.
      preprocess: the preprocessing of images.
      seed: of random draws.
      seconds: duration, embedding included unless it was read.
      skipped: why there are no metrics; "" if there are.
      settings: the choice of prompts: "templates", "class_file", "template_file".
    """

    task: str
    dataset: str
    split: str
    protocol: str
    n: int = 0
    main_metric: str = ""
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    model: str = ""
    model_fingerprint: str = ""
    data_fingerprint: str = ""
    preprocess: Mapping[str, object] = dataclasses.field(default_factory=dict)
    class_names: Sequence[str | Sequence[str]] = ()
    templates: Sequence[str] = ()
    seed: int = 0
    details: Mapping[str, object] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    skipped: str = ""
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def value(self) -> float:
        """The main metric's value; NaN if the task was skipped."""
        return self.metrics.get(self.main_metric, math.nan)

    @property
    def file_name(self) -> str:
        """A name that no other record of the same model and protocol has, safe for files."""
        parts = (self.dataset, self.split, self.task, self.protocol, self.data_fingerprint[:8])
        names = (re.sub(r"[^\w.-]+", "-", p).strip("-.") for p in parts if p)
        return "_".join(names) + ".json"


def write(folder: Path, record: Record, key: str) -> Path:
    """Writes a record under ``folder``; ``key`` identifies what was measured (see ``read``)."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = dataclasses.asdict(record) | {"key": key}
    path = folder / record.file_name
    text = json.dumps(_finite(fields), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode(errors="replace"))
    return path


def read(path: Path, key: str = "") -> Record | None:
    """A record, or None where there is none that is whole and the result of ``key``."""

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        written = fields.pop("key")
        if key and written != key:
            return None
        fields["metrics"] = {k: number(v) for k, v in fields["metrics"].items()}
        fields["intervals"] = {k: tuple(map(number, v)) for k, v in fields["intervals"].items()}
        return Record(**fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def of_folder(folder: Path) -> list[Record]:
    """All records of a folder, the oldest first, without copies under other names."""
    files = sorted(folder.glob("[!.]*.json"), key=lambda path: (path.stat().st_mtime_ns, path))
    return [record for path in files if (record := read(path)) and record.file_name == path.name]


def _finite(value: object) -> object:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
