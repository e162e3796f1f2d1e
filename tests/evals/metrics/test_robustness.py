"""Effective and relative robustness: lines that are known, and the fit done another way."""

import numpy as np
import pytest

from clip_jax.evals.metrics import robustness


def logistic(z):
    return 1 / (1 + np.exp(-z))


REFERENCE = np.array([0.55, 0.62, 0.7, 0.74, 0.79, 0.83, 0.88])
ON_A_LINE = logistic(1.3 * np.log(REFERENCE / (1 - REFERENCE)) - 0.9)


def noisy(seed=0, size=0.15):
    z = 1.3 * np.log(REFERENCE / (1 - REFERENCE)) - 0.9
    return logistic(z + size * np.random.default_rng(seed).normal(size=len(z)))


def test_logit():
    np.testing.assert_allclose(robustness.logit([0.5, 0.9]), [0, np.log(9)], rtol=1e-12)
    # Half an image of a hundred.
    np.testing.assert_allclose(
        robustness.logit([0.0, 1.0, 0.5], n=100), [np.log(0.5 / 99.5), np.log(99.5 / 0.5), 0]
    )
    assert robustness.logit(0.005, n=100) == robustness.logit(0.0, n=100)
    assert robustness.logit(0.01, n=100) == robustness.logit(0.01)


def test_models_on_the_line_have_none_and_those_above_have_what_they_are_above():
    line = robustness.fit(REFERENCE, ON_A_LINE)
    assert line == pytest.approx((1.3, -0.9), abs=1e-12)
    np.testing.assert_allclose(line.predict(REFERENCE), ON_A_LINE, atol=1e-12)
    for i, above in ((0, 0.0), (3, 0.11), (6, -0.2)):
        found = robustness.effective_robustness(
            REFERENCE[i], ON_A_LINE[i] + above, REFERENCE, ON_A_LINE, samples=50
        )
        # The baselines agree exactly: whichever are drawn, the line is the same.
        want = (above, above, above, ON_A_LINE[i])
        assert found == pytest.approx(want, abs=1e-12)


def test_fit_equals_numpys_on_logits():
    shifted = noisy()
    x, y = (np.log(a / (1 - a)) for a in (REFERENCE, shifted))
    assert robustness.fit(REFERENCE, shifted) == pytest.approx(np.polyfit(x, y, 1), abs=1e-10)


def test_interval_equals_a_bootstrap_done_plainly():
    shifted = noisy(1)
    x, y = (np.log(a / (1 - a)) for a in (REFERENCE, shifted))
    at, measured = 0.76, 0.6
    rng, others = np.random.default_rng(99), []
    while len(others) < 3000:
        rows = rng.integers(0, len(x), len(x))
        if len(set(rows)) > 1:
            slope, intercept = np.polyfit(x[rows], y[rows], 1)
            others.append(measured - logistic(slope * np.log(at / (1 - at)) + intercept))
    found = robustness.effective_robustness(at, measured, REFERENCE, shifted, samples=3000)
    assert (found.low, found.high) == pytest.approx(np.quantile(others, [0.025, 0.975]), abs=2e-3)
    assert found.low < found.effective < found.high
    assert found.effective == pytest.approx(measured - found.predicted)


def test_interval_is_a_function_of_the_seed():
    args = (0.7, 0.6, REFERENCE, noisy())
    one = robustness.effective_robustness(*args, samples=100, seed=1)
    assert robustness.effective_robustness(*args, samples=100, seed=1) == one
    assert robustness.effective_robustness(*args, samples=100, seed=2) != one


def test_resamples_without_a_line_are_drawn_again():
    # Three models: one resample in nine is the same model three times over.
    found = robustness.effective_robustness(0.7, 0.5, [0.6, 0.7, 0.8], [0.4, 0.55, 0.6])
    assert np.isfinite(found).all() and found.low < found.high
    # Two of one reference accuracy do not make a line either.
    found = robustness.effective_robustness(0.7, 0.5, [0.6, 0.6, 0.8], [0.4, 0.5, 0.6])
    assert np.isfinite(found).all()


def test_two_baselines_have_a_line_but_no_interval():
    found = robustness.effective_robustness(0.7, 0.6, [0.6, 0.8], [0.4, 0.7])
    assert np.isfinite(found.effective) and np.isnan(found.low) and np.isnan(found.high)


def test_perfect_accuracies_need_n():
    with pytest.raises(ValueError, match="give n, the number of images"):
        robustness.fit([0.5, 0.9], [0.3, 1.0])
    clipped = robustness.fit([0.5, 0.9], [0.3, 1.0], n=50)
    assert clipped == robustness.fit([0.5, 0.9], [0.3, 0.99], n=50)
    found = robustness.effective_robustness(1.0, 1.0, [0.5, 0.9], [0.3, 0.6], n=50)
    line = robustness.fit([0.5, 0.9], [0.3, 0.6])
    assert found.predicted == pytest.approx(float(line.predict(0.99)))


def test_shifts_average_the_two_settings_of_the_videos():
    found = robustness.by_shift(
        {"ImageNet": 0.7, "ImageNetVidPM0": 0.9, "ImageNetVidPM10": 0.7, "ImageNetA": 0.3,
         "YoutubeBBPM0": 0.5}
    )  # fmt: skip
    assert found == pytest.approx({"ImageNet-A": 0.3, "ImageNet-Vid": 0.8})
    with pytest.raises(ValueError, match="Youtube-BB needs the accuracy 'YoutubeBBPM10'"):
        robustness.by_shift({"YoutubeBBPM0": 0.5}, ["Youtube-BB"])


def test_table_of_the_paper():
    rows = robustness.shift_table(
        robustness.PAPER_TABLE_16,
        baselines=robustness.PAPER_BASELINES,
        reference_model="Zero-Shot CLIP",
    )
    assert [row.model for row in rows] == list(robustness.PAPER_TABLE_16)
    zero_shot, probe, *trained = rows
    assert set(zero_shot.shifts) == set(robustness.SHIFTS) and len(robustness.SHIFTS) == 7
    by_hand = (0.701 + 0.772 + 0.889 + 0.723 + 0.602 + 0.9225 + 0.9185) / 7
    assert zero_shot.average == pytest.approx(by_hand)
    # Section 3.3: adaptation adds 9.2 points on ImageNet, and takes 4.7 on ImageNet-R, 2.8 on
    # ImageNet-Sketch and 1.9 on ImageNet-A.
    assert probe.reference - zero_shot.reference == pytest.approx(0.092)
    for shift, change in {
        "ImageNet-R": -0.047,
        "ImageNet-Sketch": -0.028,
        "ImageNet-A": -0.019,
    }.items():
        assert probe.shifts[shift] - zero_shot.shifts[shift] == pytest.approx(change)
    assert probe.relative == pytest.approx(probe.average - zero_shot.average)
    assert zero_shot.relative == 0
    assert zero_shot.effective.effective > 0.1
    for row in trained:
        assert row.effective.effective == pytest.approx(0, abs=1e-12)


def test_table_compares_under_the_shifts_that_all_have():
    models = {
        "a": {"ImageNet": 0.6, "ImageNetV2": 0.5, "ObjectNet": 0.3},
        "b": {"ImageNet": 0.7, "ImageNetV2": 0.6},
    }
    rows = robustness.shift_table(models)
    assert [row.shifts for row in rows] == [{"ImageNet-V2": 0.5}, {"ImageNet-V2": 0.6}]
    assert rows[0].average == 0.5 and rows[0].effective is None and rows[0].relative is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: robustness.logit(1.5), "from 0 to 1"),
        (lambda: robustness.logit(float("nan")), "from 0 to 1"),
        (lambda: robustness.fit([0.5], [0.4]), "at least two baseline models"),
        (lambda: robustness.fit([0.5, 0.5], [0.4, 0.3]), "different reference accuracy"),
        (lambda: robustness.fit([0.5, 0.6], [0.4]), "at least two"),
        (lambda: robustness.shift_table({"a": {"ImageNetV2": 0.5}}), "'a' has no accuracy 'Imag"),
        (lambda: robustness.shift_table({"a": {"ImageNet": 0.5}}), "no shift was measured"),
        (
            lambda: robustness.shift_table(robustness.PAPER_TABLE_16, baselines=["me"]),
            "'me' is not among the models",
        ),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
