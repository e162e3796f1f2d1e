"""The error of a wrong flag, config key or value.

An error of this package that a user can do something about has a class attribute ``exit_code``: a
command prints it as one line and ends with that code (see ``clip_jax.cli``).
"""

from clip_jax.runtime.distributed import USAGE


class ConfigError(ValueError):
    """A flag or config that cannot be used; the message names the key and the fix."""

    exit_code = USAGE
