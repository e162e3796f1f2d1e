"""What a run reports: console lines, metrics.jsonl, TensorBoard events."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from clip_jax.runtime.atomic import write_atomically

Scalars = Mapping[str, float]  # a record of metrics.jsonl


def duration(seconds: float) -> str:
    """Seconds as "45s", "12m05s", "3h20m" or "2d04h"."""
    if not math.isfinite(seconds):
        return "?"
    s = max(0, round(seconds))
    for unit, part, size in (("d", "h", 3600), ("h", "m", 60), ("m", "s", 1)):
        whole = size * (24 if unit == "d" else 60)
        if s >= whole:
            return f"{s // whole}{unit}{s % whole // size:02d}{part}"
    return f"{s}s"


def progress_line(r: Scalars, total_steps: int, left: float) -> str:
    """One line about the training record ``r`` (see ``trainer.py`` for its fields), and the
    seconds that are left.
    """
    mfu = f"  MFU {r['mfu']:.0%}" if "mfu" in r else ""
    return (
        f"step {r['step']:>{len(str(total_steps))}}/{total_steps}"
        f"  examples {r['examples']:>9,}"
        f"  loss {r['loss']:.4f}"
        f"  accuracy {r['accuracy']:6.1%}"
        f"  scale {r['logit_scale']:6.2f}"
        f"  lr {r['learning_rate']:.2e}"
        f"  {r['images_per_second']:,.0f} images/s{mfu}"
        f"  data wait {r['data_wait']:.0%}"
        f"  goodput {r['goodput']:.0%}"
        f"  left {duration(left)}"
    )


def evaluation_line(values: Scalars) -> str:
    """One line about an evaluation's numbers: shares in percent, counts whole."""
    parts = []
    for key, value in values.items():
        if key == "n":
            parts.append(f"n {int(value):,}")
        elif not key.endswith("_ci95"):
            margin = values.get(f"{key}_ci95")
            parts.append(f"{key} {value:.1%}" + (f" ± {margin:.1%}" if margin else ""))
    return "  ".join(parts)


class Writer:
    """Appends records to metrics.jsonl and to TensorBoard event files in the workdir.

    Opened at a step, it first drops the records beyond that step: those of steps that a killed
    launch did after its last checkpoint, and that are about to be done again. Where that would be
    all of them, the file is kept under another name instead: a run that starts over in a used
    folder has no checkpoint to show for what it replaces.
    """

    def __init__(self, workdir: Path, step: int, tensorboard: bool, final: bool = False):
        """``final``: only the evaluation of a complete run is to come, perhaps once more."""
        self.path = workdir / "metrics.jsonl"
        self._keep_up_to(step, final)
        self._file = open(self.path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            # purge_step makes TensorBoard drop the same records.
            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def _keep_up_to(self, step: int, final: bool) -> None:
        def stays(r):
            return r["step"] < step or (r["step"] == step and ("loss" in r or not final))

        records = read(self.path)
        kept = [r for r in records if stays(r)]
        if records and not kept:
            stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
            self.path.rename(self.path.with_name(f"{self.path.stem}-{stamp}.jsonl"))
        write_atomically(self.path, "".join(map(_line, kept)).encode())

    def write(self, record: Scalars) -> None:
        """Appends one record; it must have "step"."""
        self._file.write(_line(record))
        if self._events is not None:
            for key, value in record.items():
                if key != "step" and isinstance(value, int | float) and math.isfinite(value):
                    self._events.add_scalar(key, value, record["step"])

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _line(record: Scalars) -> str:
    """A line of JSON. It has no word for NaN and infinity: they become null."""
    wrong = {k: None for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)}
    return json.dumps({**record, **wrong}, allow_nan=False) + "\n"


def read(path: Path) -> list[dict[str, float]]:
    """The records of a metrics.jsonl, null as NaN; a line that a kill cut short is left out."""
    records = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            records.append({k: math.nan if v is None else v for k, v in record.items()})
    return records
