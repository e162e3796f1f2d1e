"""Whether the values of a config are legal."""

from ml_collections import ConfigDict

from clip_jax.config import stages
from clip_jax.config.checks import registry
from clip_jax.config.keys import KEYS, flatten
from clip_jax.runtime.errors import ConfigError


def validate(config: ConfigDict) -> None:
    """Checks every value that can be checked without data or devices.

    Raises:
      ConfigError: names the key, its value and what is allowed.
    """
    flat = flatten(config)
    for name, key in KEYS.items():
        if required := key.problem(flat[name]):
            raise ConfigError(f"{name}={flat[name]!r}: must be {required}")
    stages.check(config)
    registry("clip_jax.data.pairs.registry:check")(config.data)
