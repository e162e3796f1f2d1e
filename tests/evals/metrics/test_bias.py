"""Bias probes: counted by hand, and statistics from SciPy."""

import numpy as np
import pytest

from clip_jax.evals.metrics import bias, intervals

# Six images, five classes: two of people, two of one further category, one of another.
CATEGORIES = ("person", "person", "crime-related", "crime-related", "non-human")
GROUPS = ("b", "b", "b", "b", "a", "a")
LOGITS = np.eye(5)[[0, 2, 3, 4, 1, 1]]


def test_class_set_of_the_paper():
    default = bias.CLASS_SETS["default"]
    assert len(default.names) == len(set(default.names)) == 14 + 3 + 4
    assert [default.categories.count(c) for c in ("person", "crime-related", "non-human")] == [
        14, 3, 4,
    ]  # fmt: skip
    of = dict(zip(default.names, default.categories, strict=True))
    assert of["thief"] == "crime-related" and of["orangutan"] == "non-human"
    assert of["East Asian woman"] == "person"
    more = bias.CLASS_SETS["with child"]
    assert more.names == (*default.names, "child")
    assert more.categories == (*default.categories, "child")


def test_rates_are_counted_by_group():
    rates = bias.category_rates(LOGITS, CATEGORIES, GROUPS)
    assert list(rates) == ["person", "crime-related", "non-human"]
    counted = {c: [(r.group, r.n, r.share) for r in row] for c, row in rates.items()}
    assert counted["person"] == [("a", 2, 1.0), ("b", 4, 0.25), ("all", 6, 0.5)]
    assert counted["crime-related"] == [
        ("a", 2, 0.0),
        ("b", 4, 0.5),
        ("all", 6, pytest.approx(1 / 3)),
    ]
    assert counted["non-human"] == [("a", 2, 0.0), ("b", 4, 0.25), ("all", 6, pytest.approx(1 / 6))]
    rate = rates["crime-related"][1]
    assert (rate.low, rate.high) == intervals.wilson(0.5, 4)


def test_every_picture_is_counted_once_whatever_ties():
    constant = np.zeros((6, 5))
    rates = bias.category_rates(constant, CATEGORIES, GROUPS)
    assert [r.share for r in rates["person"]] == pytest.approx([0.4] * 3)
    assert [r.share for r in rates["non-human"]] == pytest.approx([0.2] * 3)
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 3, (60, 5)).astype(float)
    rates = bias.category_rates(logits, CATEGORIES, rng.choice(["x", "y", "z"], 60))
    for group in zip(*rates.values(), strict=True):
        assert sum(rate.share for rate in group) == pytest.approx(1)
    # A class that is always best, listed twice, makes a share of 1 and no more.
    rates = bias.category_rates(np.ones((7, 3)), ("p", "p", "p"), ["a"] * 7)
    assert rates["p"][0].share == 1.0


def test_agreement_by_group():
    rates = bias.agreement(LOGITS, np.array([0, 2, 0, 0, 1, 1]), GROUPS)
    assert [(r.group, r.share) for r in rates] == [
        ("a", 1.0), ("b", 0.5), ("all", pytest.approx(4 / 6)),
    ]  # fmt: skip


def test_disparity_is_of_the_extreme_groups_and_allows_for_the_choice():
    rates = [
        bias.Rate(group, n, share, *intervals.wilson(share, n))
        for group, n, share in
        (("a", 200, 0.10), ("b", 100, 0.30), ("c", 300, 0.12), ("all", 600, 0.9))
    ]  # fmt: skip
    found = bias.disparity(rates)
    assert (found.most, found.least) == ("b", "a")
    assert found.difference == pytest.approx(0.2)
    # Three pairs: each at 1 - 0.05 / 3.
    assert (found.low, found.high) == pytest.approx(
        intervals.newcombe(0.3, 100, 0.1, 200, 1 - 0.05 / 3), abs=1e-12
    )
    two = bias.disparity(rates[:2])
    assert (two.low, two.high) == pytest.approx(intervals.newcombe(0.3, 100, 0.1, 200), abs=1e-12)
    with pytest.raises(ValueError, match="two groups"):
        bias.disparity([rates[0], rates[3]])


def test_groups_that_do_not_differ_are_seldom_said_to():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(300):
        shares = rng.binomial(200, 0.2, 7) / 200
        rates = [bias.Rate(str(s), 200, s, *intervals.wilson(s, 200)) for s in shares]
        wrong += bias.disparity(rates).low > 0
    assert wrong <= 0.05 * 300 + 3 * np.sqrt(300 * 0.05 * 0.95)


def test_probe_crosses_class_sets_and_attributes():
    child = np.concatenate([LOGITS, [[0], [2], [2], [0], [0], [0]]], axis=1)
    rows = bias.probe(
        {"default": (LOGITS, CATEGORIES), "with child": (child, (*CATEGORIES, "child"))},
        {"race": GROUPS, "age": ["young", "young", "young", "old", "old", "old"]},
    )
    assert len(rows) == (3 + 4) * (3 + 3)
    chosen = {
        row["class_set"]: row["share"]
        for row in rows
        if row["group"] == "young" and row["category"] == "crime-related"
    }
    assert chosen == {"default": pytest.approx(2 / 3), "with child": 0.0}
    assert set(rows[0]) == {
        "class_set", "attribute", "category", "group", "n", "share", "low", "high",
    }  # fmt: skip


def test_labels_over_a_threshold_equal_scipys_test():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    groups = rng.choice(["women", "men"], 300)
    probabilities = rng.dirichlet(np.full(6, 0.05), 300)
    probabilities[groups == "men", 2] += 0.02
    labels = list("uvwxyz")
    counts = {}
    for threshold in bias.THRESHOLDS:
        rows = bias.gendered_labels(probabilities, labels, groups, threshold)
        assert sorted(row.label for row in rows) == labels
        assert [row.chi_square for row in rows] == sorted(
            (r.chi_square for r in rows), reverse=True
        )
        for row in rows:
            passed = probabilities[:, labels.index(row.label)] > threshold
            men, women = passed[groups == "men"], passed[groups == "women"]
            assert row.shares == (men.mean(), women.mean())
            table = [[men.sum(), (~men).sum()], [women.sum(), (~women).sum()]]
            want = stats.chi2_contingency(table, correction=False)
            assert row.chi_square == pytest.approx(want.statistic)
            assert row.p_value == pytest.approx(min(1, 6 * want.pvalue))
        counts[threshold] = rows
    # At the lower threshold the bias put in is found; at the higher one it is out of sight.
    assert counts[0.005][0].label == "w" and counts[0.005][0].p_value < 1e-6
    assert next(r for r in counts[0.04] if r.label == "w").p_value > 1e-6


def test_labels_that_all_or_none_are_given_say_nothing():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    rows = bias.gendered_labels(probabilities, ("all", "none"), ["a", "b"], 0.5)
    assert [(row.chi_square, row.p_value) for row in rows] == [(0.0, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bias.category_rates(LOGITS, CATEGORIES[:4], GROUPS), "4 categories for 5 classes"),
        (lambda: bias.category_rates(LOGITS, CATEGORIES, GROUPS[:4]), "4 groups for 6 images"),
        (lambda: bias.category_rates(LOGITS, CATEGORIES, ["a", "all"] * 3), "be called 'all'"),
        (lambda: bias.category_rates(LOGITS * np.nan, CATEGORIES, GROUPS), "finite"),
        (lambda: bias.category_rates(LOGITS[:0], CATEGORIES, ()), r"finite and \[n, K\]"),
        (lambda: bias.agreement(LOGITS, np.full(6, 5), GROUPS), "from 5 to 5, .* legal are 0 to 4"),
        (lambda: bias.agreement(LOGITS, np.full(6, -1), GROUPS), "from -1 .* legal are 0 to 4"),
        (lambda: bias.agreement(LOGITS, np.zeros(6), GROUPS), "6 integers"),
        (lambda: bias.gendered_labels(LOGITS, "abcde", ["a"] * 6, 0.1), "of two groups"),
        (lambda: bias.gendered_labels(LOGITS, "abcd", GROUPS, 0.1), "4 labels for 5"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
