"""Measurements against other implementations, and of what recipes need."""

import importlib.util


def require_scikit_learn() -> None:
    """Raises SystemExit if scikit-learn is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise SystemExit(
            "the comparison needs scikit-learn: pip install 'clip_jax_training[benchmark]' "
            "(or pip install scikit-learn)"
        )
