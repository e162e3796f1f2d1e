"""A config's ``data`` with some keys changed."""

from clip_jax import config as config_lib


def data_config(**changes):
    data = config_lib.defaults().data
    data.update(changes)
    return data
