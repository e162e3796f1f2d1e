"""Shared fixtures. Tests see 8 CPU devices, whatever the machine has."""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def goldens() -> pathlib.Path:
    """Outputs of independent implementations; they are not part of the project."""
    folder = ROOT.parent / "shared" / "goldens"
    if not folder.is_dir():
        pytest.skip(f"golden files are not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory) -> pathlib.Path:
    """A compilation cache that the subprocesses of one test session share."""
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="session")
def emoji_cache(tmp_path_factory) -> pathlib.Path:
    """A cache folder with the emoji data set prepared in it."""
    from clip_jax.data import emoji

    cache = tmp_path_factory.mktemp("cache")
    emoji.prepare(cache)
    return cache
