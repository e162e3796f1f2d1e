"""The cache folder."""

from clip_jax.data import paths


def test_cache_dir_order(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_JAX_CACHE", str(tmp_path / "env"))
    assert paths.cache_dir(str(tmp_path / "given")) == tmp_path / "given"
    assert paths.cache_dir("") == tmp_path / "env"
    monkeypatch.delenv("CLIP_JAX_CACHE")
    assert paths.cache_dir("").parts[-2:] == (".cache", "clip_jax")
