"""Zero-shot: bars, the plot against probes, and accuracy under natural shift."""

import dataclasses
import math
import re

import pytest
from evaluation_page import measured, render, section

from clip_jax.evals.metrics import robustness


def test_bars_are_sorted_and_as_long_as_their_values():
    shown = [measured("zero_shot", f"set {v}", 100, "top1", v) for v in (0.2, 1.0, 0.5)]
    page = section(render(shown), "zero-shot")
    widths = [float(w) for w in re.findall(r'class="box accent"[^>]*width="([0-9.]+)"', page)]
    assert widths == pytest.approx([182, 91, 36.4], abs=0.1)
    assert "box muted" not in page and "alone" not in page
    with_plain = dataclasses.replace(shown[0], details={"plain": {"top1": 0.1, "top5": 0.9}})
    page = section(render([with_plain]), "zero-shot")
    assert re.findall(r'class="box muted"[^>]*width="([0-9.]+)"', page) == ["18.2"]
    assert "10.0%" in page and "90.0%" not in page
    plain = {"plain": {"top1": 0.1, "mean_per_class_recall": 0.3}}
    by_class = measured("zero_shot", "a", 9, "mean_per_class_recall", 0.4, plain)
    page = section(render([by_class]), "zero-shot")
    assert ">30.0%<" in page and ">10.0%<" not in page


def test_scatter_has_only_pairs_of_the_same_images():
    zero = measured("zero_shot", "a", 100, "mean_per_class_recall", 0.6)
    probe = measured("linear_probe", "a", 100, "top1", 0.9)
    both = dataclasses.replace(probe, metrics={"top1": 0.9, "mean_per_class_recall": 0.8})
    shown = section(render([zero, both]), "linear-probe")
    assert "a: zero-shot 60.0%, probe 80.0%, mean per class" in shown
    for other in (
        probe,
        dataclasses.replace(both, split="val"),
        dataclasses.replace(both, model="another"),
        dataclasses.replace(both, skipped="no train split"),
        dataclasses.replace(both, metrics={"mean_per_class_recall": math.nan}),
    ):
        assert "against linear probe" not in render([zero, other])


SHIFTS = {"ImageNet": 0.632, "ImageNetV2": 0.559, "ImageNetR": 0.69, "ImageNetSketch": 0.42}


def test_robustness_is_that_of_the_module():
    shown = [measured("zero_shot", k, 1000, "top1", v) for k, v in SHIFTS.items()]
    page = section(render(shown), "zero-shot")
    [row, *_] = robustness.shift_table(
        {"us": SHIFTS} | robustness.PAPER_TABLE_16, baselines=robustness.PAPER_BASELINES
    )
    assert f"effective robustness of {100 * row.effective.effective:+.1f} points" in page
    assert f"{100 * row.average:.1f}% on the mean" in page
    assert "ImageNet-V2, ImageNet-R, ImageNet-Sketch" in page
    assert "NS EfficientNet-L2" in page


@pytest.mark.parametrize("left_out", [("ImageNet",), ("ImageNetV2", "ImageNetR", "ImageNetSketch")])
def test_robustness_needs_imagenet_and_a_shift(left_out):
    shown = [measured("zero_shot", k, 100, "top1", v) for k, v in SHIFTS.items()
             if k not in left_out]  # fmt: skip
    assert "natural shift" not in render(shown)


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_robustness_survives_the_ends(accuracy):
    shown = [measured("zero_shot", k, 100, "top1", accuracy) for k in SHIFTS]
    page = render(shown)
    assert "effective robustness" in page and "nan" not in section(page, "zero-shot").lower()


def test_models_without_a_common_shift_have_no_line():
    one = [measured("zero_shot", k, 100, "top1", 0.5) for k in ("ImageNet", "ImageNetV2")]
    two = [measured("zero_shot", k, 100, "top1", 0.5, model="b") for k in ("ImageNet", "ImageNetR")]
    assert "natural shift" in render(one)
    assert "natural shift" not in render(one + two)
