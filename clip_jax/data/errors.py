"""The errors of data that is missing or cannot be used."""

from clip_jax.runtime.distributed import BAD_DATA


class DataError(ValueError):
    """Data that is missing or cannot be used; the message names the file or key and the fix."""

    exit_code = BAD_DATA


class MissingData(DataError):
    """A dataset that is not here; the message says what is missing and how to get it."""
