"""The cache of compiled programs."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from clip_jax.runtime import compile_cache

PROGRAM = """
import pathlib, sys
from clip_jax.runtime import compile_cache
compile_cache.enable(pathlib.Path(sys.argv[1]))
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(
    lambda name, **_: hits.append(name) if name.endswith("/cache_hits") else None
)
jax.jit(lambda x: x * 2 + 1)(3.0)
print(len(hits))
"""


def run(folder, **environment):
    known = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    root = pathlib.Path(__file__).resolve().parents[2]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, timeout=120,
        env=known | {"PYTHONPATH": str(root)} | environment,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return int(process.stdout), process.stderr


def test_a_second_process_finds_what_the_first_has_compiled(tmp_path):
    assert run(tmp_path)[0] == 0
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("xla-") and any(kept.iterdir())
    assert run(tmp_path)[0] > 0


def test_jaxs_own_variable_wins(tmp_path):
    run(tmp_path / "a", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "b"))
    assert not (tmp_path / "a").exists() and any((tmp_path / "b").iterdir())


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(jax.config, "update", lambda *_: pytest.fail("must not be set"))
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
    compile_cache.enable(tmp_path / "file")
    assert "compiled programs are not kept" in caplog.text
