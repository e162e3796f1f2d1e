"""Configs: every legal key (``keys``), config files and overrides, and configs of stored runs.

A config file is Python with a function ``get_config()`` that starts from ``defaults()`` and sets
what differs. ``load`` reads one, applies ``--config.key=value`` overrides, and validates. A key
that is not in ``keys.KEYS`` is an error, which names the nearest legal one.
"""

import json

from ml_collections import ConfigDict

from clip_jax.config.files import load, overrides
from clip_jax.config.keys import defaults
from clip_jax.config.stages import Stage, Stages, stage_config
from clip_jax.config.stored import RENAMED, differences, with_defaults
from clip_jax.config.validate import validate
from clip_jax.runtime.errors import ConfigError

__all__ = [
    "RENAMED", "ConfigDict", "ConfigError", "Stage", "Stages", "defaults", "differences", "load",
    "overrides", "stage_config", "to_json", "validate", "with_defaults",
]  # fmt: skip


def to_json(config: ConfigDict) -> str:
    """The resolved config as indented JSON."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)
