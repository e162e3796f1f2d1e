"""The comparison with scikit-learn, on a small problem."""

import importlib.util

import numpy as np
import pytest

from clip_jax.benchmarks import linear_probe
from clip_jax.evals.probes.linear_probe import LAMBDAS


def test_features_are_like_clips():
    features, labels = linear_probe.clip_like(2000, 256, 100, 0)
    assert features.dtype == np.float32 and labels.dtype == np.int32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    cosines = features @ features.T
    same = labels[:, None] == labels
    assert 0.5 < cosines[~same].mean() < cosines[same].mean() < 0.9
    assert set(labels) == set(range(100))
    again, right = linear_probe.clip_like(2000, 256, 100, 0, wrong=0)
    np.testing.assert_array_equal(features, again)
    assert 0.03 < (right != labels).mean() < 0.07
    features, labels = again, right
    # Another seed: other rows of the same classes.
    others, theirs = linear_probe.clip_like(2000, 256, 100, 1, wrong=0)
    assert not np.array_equal(features, others)
    for k in range(5):
        centres = [(x[y == k].mean(axis=0)) for x, y in ((features, labels), (others, theirs))]
        assert centres[0] @ centres[1] > 0.93 * np.linalg.norm(centres[0]) ** 2


@pytest.mark.reference
def test_compares_with_scikit_learn(capsys):
    pytest.importorskip("sklearn", reason="needs pip install '.[benchmark]'")
    first, again, tight, loose, same = linear_probe.compare(800, 16, 4, 1000)
    assert first.lam == again.lam and first.lam in LAMBDAS
    assert first.accuracy == again.accuracy == pytest.approx(same.accuracy, abs=0.002)
    assert same.lam == first.lam
    assert 0.4 < tight.accuracy <= 1 and abs(tight.accuracy - first.accuracy) < 0.03
    assert first.gradient_norm < 2e-4 and tight.gradient_norm < 1e-4
    assert len(set(first.converged.split(" of "))) == 1
    assert loose.seconds > 0
    printed = capsys.readouterr().out
    assert "800 x 16 features of 4 classes, 97 penalties" in printed
    assert "of scikit-learn's time" in printed and "top-1 differs by" in printed


def test_gradient_norm():
    """Against differences of the objective."""
    rng = np.random.default_rng(0)
    split = rng.normal(size=(20, 3)).astype("f4"), rng.integers(0, 2, 20)
    weights, intercept, lam = rng.normal(size=(2, 3)), rng.normal(size=2), 0.7

    def objective(table):
        logits = split[0].astype("f8") @ table[:, :3].T + table[:, 3]
        own = logits[np.arange(20), split[1]]
        summed = (np.log(np.exp(logits).sum(axis=1)) - own).sum()
        return (summed + lam / 2 * (table[:, :3] ** 2).sum()) / 20

    table = np.concatenate([weights, intercept[:, None]], axis=1)
    steps = 1e-6 * np.eye(8).reshape(8, 2, 4)
    slopes = [(objective(table + s) - objective(table - s)) / 2e-6 for s in steps]
    found = linear_probe.gradient_norm(split, weights, intercept, lam)
    assert found == pytest.approx(np.linalg.norm(slopes), rel=1e-6)


def test_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="needs scikit-learn: pip install"):
        linear_probe.compare()
