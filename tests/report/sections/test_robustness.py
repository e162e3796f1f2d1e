"""The table of natural shifts: differences, means and robustness are those of the definition."""

import re

import numpy as np
import pytest
from evaluation_page import render

from clip_jax.evals.metrics import robustness
from clip_jax.evals.records import Record
from clip_jax.report.sections.view import Compared

SHIFTS = ("ImageNetV2", "ImageNetR", "ImageNetSketch")


def model(name, reference, *shifted):
    accuracies = {"ImageNet": reference} | dict(zip(SHIFTS, shifted, strict=False))
    return [
        Record("zero_shot", k, "test", "paper", 1000, "top1", {"top1": v}, model=name)
        for k, v in accuracies.items()
    ]


US = model("us", 0.632, 0.559, 0.69, 0.42)


def table(html):
    """Heads, and model -> the cells' text."""
    part = html.partition("Natural distribution shifts</h3>")[2].partition("</section>")[0]
    heads = re.findall(r'role="columnheader">([^<]*)<', part)
    found = {}
    for row in part.partition("<tbody")[2].partition("</tbody>")[0].split("<tr ")[1:]:
        name, *cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
        words = [" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in cells]
        found[re.search(r'dir="auto">([^<]*)', name)[1]] = words
    return heads, found, re.sub("<[^>]*>", "", part[part.rfind('<p class="small">') :])


def points(difference):
    return f"{100 * difference:+.1f}".replace("-", "−")


def logit(p):
    return np.log(p / (1 - p))


def predicted(reference, x, y):
    slope, intercept = np.polyfit(logit(np.array(x)), logit(np.array(y)), 1)
    return 1 / (1 + np.exp(-(slope * logit(reference) + intercept)))


def test_a_row_a_model_and_the_papers():
    heads, rows, note = table(render(US))
    assert heads == ["Model", "ImageNet", "ImageNet-V2", "ImageNet-R", "ImageNet-Sketch",
                     "Mean of shifts", "Effective robustness"]  # fmt: skip
    assert list(rows) == ["us", *robustness.PAPER_TABLE_16]
    mean = np.mean([0.559, 0.69, 0.42])
    paper = {m: (a["ImageNet"], np.mean([a[k] for k in SHIFTS]))
             for m, a in robustness.PAPER_TABLE_16.items()}  # fmt: skip
    line = list(zip(*(paper[b] for b in robustness.PAPER_BASELINES), strict=True))
    assert rows["us"] == [
        "63.2%", "55.9% −7.3", "69.0% +5.8", "42.0% −21.2", f"{mean:.1%} {points(mean - 0.632)}",
        points(mean - predicted(0.632, *line)),
    ]  # fmt: skip
    clip = rows["Zero-Shot CLIP"]
    assert clip[:4] == ["76.2%", "70.1% −6.1", "88.9% +12.7", "60.2% −16.0"]
    reference, average = paper["Zero-Shot CLIP"]
    assert clip[5] == points(average - predicted(reference, *line))
    assert "two points have no interval" in note


def test_measured_baselines_give_an_interval_and_a_reference_the_relative_one():
    others = {"a": (0.5, 0.4, 0.3, 0.2), "b": (0.6, 0.45, 0.4, 0.3), "c": (0.75, 0.6, 0.5, 0.35)}
    records = [*US, *(r for name, values in others.items() for r in model(name, *values))]
    compared = Compared(("a", "b", "c"), "a")
    html = render(records, compared=compared)
    heads, rows, note = table(html)
    assert heads[-1] == "Relative robustness" and "the mean less that of a." in note
    x = [v[0] for v in others.values()]
    y = [np.mean(v[1:]) for v in others.values()]
    mean = np.mean([0.559, 0.69, 0.42])
    effective = mean - predicted(0.632, x, y)
    shown = re.fullmatch(r"(\S+) (\S+) to (\S+)", rows["us"][-2])
    assert shown[1] == points(effective)
    low, high = (float(shown[i].replace("−", "-")) for i in (2, 3))
    assert low <= 100 * effective + 0.05 and 100 * effective - 0.05 <= high and low < high
    exact = robustness.effective_robustness(0.632, mean, x, y, n=50_000)
    assert (shown[2], shown[3]) == (points(exact.low), points(exact.high))
    assert rows["us"][-1] == points(mean - y[0]) and rows["a"][-1] == "0.0"
    assert "goes through 3 measured baselines" in html and "95% over the choice" in note
    mean_only = robustness.effective_robustness(0.632, mean, x, y)
    assert f"effective robustness of {100 * mean_only.effective:+.1f} points" in html


def test_only_shifts_that_all_models_have_and_no_table_without():
    two = [*US, *model("two", 0.5, 0.4)]
    heads, rows, _ = table(render(two))
    assert heads[2:4] == ["ImageNet-V2", "Mean of shifts"] and rows["two"][1] == "40.0% −10.0"
    assert table(render(model("us", 0.5)))[1] == {}
    assert table(render([*US, *model("x", 0.5)]))[0]  # a model without is left out


@pytest.mark.parametrize(
    ("compared", "message"),
    [
        (Compared(("us", "them")), "'them' is not among the models under shift"),
        (Compared((), "them"), "'them' is not among the models under shift"),
        (Compared(("us",)), "two baselines or more"),
    ],
)
def test_what_is_compared_with_must_be_there(compared, message):
    with pytest.raises(ValueError, match=message):
        render(US, compared=compared)
