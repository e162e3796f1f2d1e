"""Configs of stored runs: keys of earlier versions, and what may differ when a run resumes."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from clip_jax.config.keys import KEYS, defaults, flatten
from clip_jax.config.stages import STAGE_KEYS

# Keys of earlier versions and what they are called now. They are read from stored runs only.
RENAMED: dict[str, str] = json.loads(
    Path(__file__).with_name("renamed_keys.json").read_text("utf-8")
)
_RENAMED_VALUES = {("model.vision.pool", "class"): "cls"}


def with_defaults(stored: Mapping[str, object]) -> dict[str, object]:
    """A stored config in today's words, with the keys that did not exist when its run began."""
    config: dict[str, object] = {}
    for key, value in (flatten(defaults()) | _upgraded(stored)).items():
        *groups, last = key.split(".")
        group = functools.reduce(lambda inner, name: inner.setdefault(name, {}), groups, config)
        group[last] = value
    return config


def _upgraded(stored: Mapping[str, object]) -> dict[str, object]:
    """A stored config, flat, with today's names for keys and values of earlier versions."""
    flat = {RENAMED.get(key, key): value for key, value in flatten(stored).items()}
    return {
        key: _RENAMED_VALUES.get((key, value), value) if isinstance(value, str) else value
        for key, value in flat.items()
    }


def _free_on_resume(name: str) -> bool:
    """As ``Key.free_on_resume``; a key that is gone is free where all of its group are."""
    group = name.rpartition(".")[0] + "."
    rows = [KEYS[name]] if name in KEYS else [k for n, k in KEYS.items() if n.startswith(group)]
    return bool(rows) and all(key.free_on_resume for key in rows)


def _without_free_keys(flat: Mapping[str, object]) -> dict[str, object]:
    """A flat config without what stages may change when a run resumes."""
    stages = [
        {k: v for k, v in stage.items() if not _free_on_resume(STAGE_KEYS.get(k, k))}
        for stage in flat["train.stages"]
    ]
    return {**flat, "train.stages": stages}


def differences(old: Mapping[str, object], new: ConfigDict) -> list[str]:
    """Keys in which a run's stored config and the present one differ and may not.

    A key that did not exist when the run began had the effect of what is now its default: new
    keys begin with the value that keeps what was done before.

    Returns lines such as "optim.learning_rate: 0.0005 (this run) -> 0.001 (given)".
    """
    before = _without_free_keys(flatten(defaults()) | _upgraded(old))
    after = _without_free_keys(flatten(new))
    missing = object()
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if _free_on_resume(key):
            continue
        a, b = before.get(key, missing), after.get(key, missing)
        if a != b:
            show = ["absent" if v is missing else repr(v) for v in (a, b)]
            lines.append(f"{key}: {show[0]} (this run) -> {show[1]} (given)")
    return lines
