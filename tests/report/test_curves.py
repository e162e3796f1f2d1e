"""Records of a run, sorted into lines."""

import numpy as np

from clip_jax.report import curves


def test_a_resumed_run_is_one_line_in_order():
    rows = [{"step": s, "examples": 10 * s, "loss": float(s)} for s in (2, 4, 6)]
    rows += [{"step": s, "examples": 10 * s, "loss": -float(s)} for s in (3, 4, 5)]
    x, y = curves.series(rows, "examples", "loss")
    np.testing.assert_array_equal(x, [20, 30, 40, 50, 60])
    np.testing.assert_array_equal(y, [2, -3, -4, -5, 6])


def test_long_curves_are_averaged_down():
    values = np.arange(10_000.0)
    values[:25] = np.nan
    thinned = curves.thinned(values)
    assert len(thinned) == 400 and np.isnan(thinned[0])
    np.testing.assert_allclose(thinned[1:], values[25:].reshape(-1, 25).mean(axis=1))


def test_running_mean_keeps_gaps():
    values = np.tile([0.0, 1.0], 50)
    values[7] = np.nan
    strong = curves.smoothed(values)
    assert np.isnan(strong[7]) and np.isfinite(np.delete(strong, 7)).all()
    assert np.ptp(strong[20:80]) < 0.25
    np.testing.assert_array_equal(curves.smoothed(values[:30]), values[:30])


def test_headline_metrics_of_evaluations():
    row = {"step": 1, "seconds": 1.0, "eval/a_b/top1": 0.5, "eval/a_b/top5": 0.9, "eval/a_b/n": 7}
    row |= {"eval/r/text_to_image_r@1": 0.3, "eval/r/text_to_image_r@10": 0.8}
    row |= {"eval/r/mean_r@1": 0.4}  # of lines that are there
    [chart] = curves.charts([row])
    assert chart.lines == (("eval/a_b/top1", "a b"), ("eval/r/text_to_image_r@1", "r text→image"))
    key = "eval/zero_shot@folder:/data/mine/top1"
    [chart] = curves.charts([{"step": 1, "seconds": 1.0, key: 0.5}])
    assert chart.lines == ((key, "zero shot@folder:/data/mine"),)
    [chart] = curves.charts([{"step": 1, "seconds": 1.0, "eval/p/map": 0.4}])
    assert chart.lines == (("eval/p/map", "p"),)
