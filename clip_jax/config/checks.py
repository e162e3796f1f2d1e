"""What a config key is, and the checks that its value can have."""

import dataclasses
import difflib
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from clip_jax.runtime.errors import ConfigError


def is_int(value: object) -> bool:
    """Whether a value is a whole number, which True is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


@dataclasses.dataclass(frozen=True)
class Check:
    """What a value must satisfy; ``words`` complete "must be"."""

    holds: Callable[[Any], bool]
    words: str

    def problem(self, value: object) -> str | None:
        """What the value must be, if it is not; None for a legal one."""
        return None if self.holds(value) else self.words


def registry(reference: str) -> Any:
    """What "module:ATTRIBUTE" refers to."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def nearest(value: object, names: Iterable[str]) -> str:
    """A hint to the name that is nearest to what was given; empty where none is near."""
    near = difflib.get_close_matches(str(value), names, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def require_choice(key: str, value: object, choices: Iterable[str]) -> None:
    """Checks a name outside of a config, where nothing has validated it.

    Raises:
      ConfigError: it is none of the choices; names the key.
    """
    names = sorted(choices)
    if value not in names:
        raise ConfigError(f"{key}={value!r} is not one of {names}{nearest(value, names)}")


class OneOf:
    """A choice of names.

    Attributes:
      choices: names, and registries "module:ATTRIBUTE" whose keys are names. A registry is imported
        when a value is checked: so this package needs none of them, and a name that is added to one
        is legal at once.
    """

    def __init__(self, *choices: str):
        self.choices = choices

    def names(self) -> list[str]:
        """All legal names."""
        return [name for c in self.choices for name in (registry(c) if ":" in c else [c])]

    @property
    def words(self) -> str:
        """Completes "must be"."""
        return f"one of {', '.join(self.names())}"

    def problem(self, value: object) -> str | None:
        """As ``Check.problem``."""
        names = self.names()
        return None if value in names else self.words + nearest(value, names)


# Type of a default -> what its values must satisfy. (Flattened configs have lists for tuples.)
_KINDS: dict[type, Check] = {
    bool: Check(lambda v: isinstance(v, bool), "True or False"),
    int: Check(is_int, "a whole number"),
    float: Check(is_number, "a finite number"),
    str: Check(lambda v: isinstance(v, str), "text"),
    tuple: Check(lambda v: isinstance(v, list), "a list with commas between"),
}


@dataclasses.dataclass(frozen=True)
class Key:
    """A config key.

    Attributes:
      default: its value where none is set.
      meaning: one line, for ``docs/config.md``.
      check: what a value must satisfy besides its type; None: nothing.
      kind: type of the values where the default does not say it: None (as the model's variant)
        or one of several types.
      free_on_resume: whether it may differ between a run and its resumption: it does not change the
        parameters. (Data may move to another path: its fingerprint is in the checkpoint.)
    """

    default: Any
    meaning: str
    check: Check | OneOf | None = None
    kind: type | None = None
    free_on_resume: bool = False

    def problem(self, value: object) -> str | None:
        """What the value must be, if it is not; None for a legal one."""
        if value is None and self.default is None:
            return None
        kind = _KINDS.get(self.kind or type(self.default))
        wrong = kind and kind.problem(value)
        return wrong or (self.check and self.check.problem(value))


POSITIVE = Check(lambda v: v > 0, "positive")
NOT_NEGATIVE = Check(lambda v: v >= 0, "0 or more")
FRACTION = Check(lambda v: 0 <= v < 1, "in [0, 1)")
SEED = Check(lambda v: 0 <= v < 2**63, "in [0, 2**63)")
# Blocks of a ViT, or of each stage of a ResNet: the model checks the latter.
DEPTH = Check(lambda v: not is_int(v) or v > 0, "positive")
CHANNELS = Check(lambda v: all(is_int(x) and x > 0 for x in v), "positive whole numbers")
RGB = Check(lambda v: len(v) == 3 and all(map(is_number, v)), "three numbers")
POSITIVE_RGB = Check(lambda v: RGB.holds(v) and min(v) > 0, "three numbers above 0")
# ``evals.evaluators`` checks what is in it.
EVALUATORS = Check(
    lambda v: (
        isinstance(v, str | Mapping) or (isinstance(v, list) and all(isinstance(x, str) for x in v))
    ),
    "TASK@DATA or a mapping",
)
STEPS = Check(
    lambda v: not v or (len(v) == 2 and all(map(is_int, v)) and 0 < v[0] <= v[1]),
    "empty or two steps, the first and the last",
)
# ``config.stages`` checks what is in them.
STAGES = Check(lambda v: all(isinstance(stage, dict) for stage in v), "a list of dicts")
DTYPE = OneOf("float32", "bfloat16")
AUTO_OR_COUNT = Check(lambda v: v == "auto" or (is_int(v) and v >= 0), "auto, or 0 or more")
AUTO_OR_BOOL = Check(lambda v: v == "auto" or isinstance(v, bool), "auto, True or False")
