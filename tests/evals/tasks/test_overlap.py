"""The suite's overlap task: planted copies are found, and the numbers are plain arithmetic's."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from clip_jax import evaluation
from clip_jax.config import ConfigError
from clip_jax.data.preprocess import Preprocess
from clip_jax.data.test_sets.types import from_arrays
from clip_jax.evals import embedder, records, runner
from clip_jax.evals.datasets import resolve
from clip_jax.evals.metrics import overlap
from clip_jax.evals.tasks import registry as task_registry
from clip_jax.evals.types import EvalModel, EvalSettings, NotApplicable
from clip_jax.runtime.mesh import create_mesh

NAMES = ("blue", "green", "red")
SIZE, PER_CLASS, TRAINING = 16, 12, 30
# test image -> training image; the last two are only nearly the same.
PLANTED = {1: 4, 5: 29, 14: 0, 20: 11, 30: 17}


def picture(rng):
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    return small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with test images, and one with captioned training images, some the same."""
    root = tmp_path_factory.mktemp("overlap")
    rng = np.random.default_rng(0)
    training = [picture(rng) for _ in range(TRAINING)]
    (root / "training").mkdir()
    rows = []
    for i, made in enumerate(training):
        made.save(root / "training" / f"{i:02d}.png")
        rows.append({"image": f"{i:02d}.png", "caption": f"caption {i}"})
    lines = "\n".join(map(json.dumps, rows))
    (root / "training" / "pairs.jsonl").write_text(lines, encoding="utf-8")
    for k, name in enumerate(NAMES):
        (root / "pictures" / "test" / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            number = k * PER_CLASS + i
            made = training[PLANTED[number]] if number in PLANTED else picture(rng)
            if number in (20, 30):
                noise = rng.normal(0, 6, (SIZE, SIZE, 3))
                made = Image.fromarray((np.asarray(made) + noise).clip(0, 255).astype(np.uint8))
            made.save(root / "pictures" / "test" / name / f"{i:02d}.png")
    return root


WEIGHTS = np.random.default_rng(7).normal(size=(3, SIZE * SIZE * 3)).astype(np.float32)


def model(calls=None):
    mesh = create_mesh({"data": -1}, jax.devices()[:2])

    def images(x):
        if calls is not None:
            jax.debug.callback(lambda: calls.append(1))
        x = x.reshape(len(x), -1).astype(jnp.float32) - 128
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    made = embedder.BatchedEmbedder(
        images, lambda t: t.astype(jnp.float32) @ WEIGHTS, images,
        mesh=mesh, batch_size=16, embed_dim=SIZE * SIZE * 3,
        probe_dim=SIZE * SIZE * 3,
    )  # fmt: skip
    tokens = lambda texts: np.array([[n in t for n in NAMES] for t in texts], np.int32)  # noqa: E731
    return EvalModel("pixels", "0123", made, tokens, Preprocess(SIZE), mesh)


def settings(root, **changes):
    return EvalSettings(**{"overlap_with": f"csv:{root}/training/pairs.jsonl"} | changes)


def run(root, changes=(), tasks=("overlap",), of=None, **options):
    how = settings(root, **dict(changes))
    return runner.run(of or model(), [f"folder:{root}/pictures"], tasks, how, **options)


def expected(root):
    """Embeddings, nearest neighbours and right answers, by plain NumPy."""

    def rows(paths):
        found = np.stack([np.asarray(Image.open(p)).reshape(-1) for p in paths]) - 128.0
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    test = rows(sorted((root / "pictures" / "test").rglob("*.png")))
    training = rows(sorted((root / "training").glob("*.png")))
    classes = WEIGHTS / np.linalg.norm(WEIGHTS, axis=1, keepdims=True)
    cosines = test @ training.T
    correct = (test @ classes.T).argmax(axis=1) == np.repeat(np.arange(3), PER_CLASS)
    return cosines.argmax(axis=1), cosines.max(axis=1), correct


def wilson(hits, n, z=1.959963984540054):
    p, d = hits / n, 1 + z * z / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return pytest.approx(((p + z * z / (2 * n)) / d - half, (p + z * z / (2 * n)) / d + half))


def test_numbers_are_those_of_plain_arithmetic(root):
    (record,) = run(root)
    index, cosine, correct = expected(root)
    found = cosine >= 0.95
    assert {int(i): int(index[i]) for i in np.flatnonzero(found)} == PLANTED
    n, clean = len(correct), correct[~found]
    assert record.task == "overlap" and record.n == n == 36 and record.value == 5 / 36
    assert 0 < correct.mean() < 1
    assert record.metrics == pytest.approx({
        "contamination": 5 / 36, "all": correct.mean(), "clean": clean.mean(),
        "overlap": correct[found].mean(), "difference": correct.mean() - clean.mean(),
    })  # fmt: skip
    assert record.intervals == {
        "contamination": wilson(5, 36), "all": wilson(correct.sum(), 36),
        "clean": wilson(clean.sum(), 31), "overlap": wilson(correct[found].sum(), 5),
    }  # fmt: skip
    row = overlap.OverlapRow(**record.details["row"])
    assert (row.n, row.n_overlap, row.name) == (36, 5, "pictures")
    stats = pytest.importorskip("scipy.stats")
    test = stats.binomtest(int(correct[found].sum()), 5, clean.mean(), "greater")
    assert row.p_value == pytest.approx(test.pvalue)
    exact = stats.binomtest(int(correct[found].sum()), 5).proportion_ci(0.995, "exact")
    assert (row.low, row.high) == pytest.approx((exact.low, exact.high))


def test_accuracy_is_that_of_zero_shot(root):
    zero, found = run(root, tasks=("zero_shot", "overlap"))
    assert found.metrics["all"] == zero.metrics["top1"]
    assert found.class_names == zero.class_names and found.templates == zero.templates


def test_pairs_are_the_most_similar_ones_and_those_around_the_threshold(root):
    index, cosine, correct = expected(root)
    order = np.argsort(-cosine, kind="stable")
    threshold = float(cosine[order[14:16]].mean())
    (record,) = run(root, {"overlap_threshold": threshold})
    pairs = record.details["pairs"]
    assert [p["cosine"] for p in pairs] == pytest.approx(cosine[order][:24], abs=1e-6)
    assert {p["test_index"] for p in pairs[:5]} == set(PLANTED)
    for p in pairs:
        assert p["training_index"] == index[p["test_index"]]
        assert p["correct"] == correct[p["test_index"]] and p["found"] == (p["cosine"] > threshold)
        assert p["test"].endswith(f"{p['test_index'] % PER_CLASS:02d}.png")
        assert p["training"].endswith(f"{p['training_index']:02d}.png")
    near = record.details["around"]
    assert [p["test_index"] for p in near] == order[9:21].tolist()
    assert [p["found"] for p in near] == [True] * 6 + [False] * 6


@pytest.mark.parametrize(("threshold", "wanted"), [(None, 6), (0, 0), (40, 40)])
def test_hashes_count_bits(root, threshold, wanted):
    (record,) = run(root, {"overlap_by": "hash", "overlap_threshold": threshold})
    paths = [sorted((root / "pictures" / "test").rglob("*.png")),
             sorted((root / "training").glob("*.png"))]  # fmt: skip
    test, training = ([overlap.image_hash(p) for p in files] for files in paths)
    bits = np.array([min((a ^ b).bit_count() for b in training) for a in test])
    assert record.value == (bits <= wanted).mean() and record.details["threshold"] == wanted
    assert [p["bits"] for p in record.details["pairs"]] == sorted(bits)[:24]
    assert {1, 5, 14} <= set(np.flatnonzero(bits == 0).tolist())


def test_what_there_is_nothing_of_is_left_out(root, tmp_path):
    itself = f"folder:{root}/pictures/test"  # without splits: all of it
    (only,) = run(root, {"overlap_threshold": 0.999, "overlap_with": itself})
    assert set(only.metrics) == {"contamination", "all", "overlap"} == set(only.intervals)
    assert only.value == 1 and not any(map(math.isnan, only.metrics.values()))
    (clean,) = run(root, {"overlap_by": "hash", "overlap_threshold": 0,
                          "overlap_with": f"folder:{_others(tmp_path)}"})  # fmt: skip
    assert clean.metrics["contamination"] == 0 and clean.metrics["difference"] == 0
    assert "overlap" not in clean.metrics and "overlap" not in clean.intervals
    assert clean.metrics["clean"] == clean.metrics["all"]


def _others(folder):
    (folder / "train" / "any").mkdir(parents=True)
    picture(np.random.default_rng(99)).save(folder / "train" / "any" / "0.png")
    return folder


def test_runs_unasked_only_with_training_pictures(root):
    data = [f"folder:{root}/pictures"]
    assert "overlap" in [r.task for r in runner.run(model(), data, (), settings(root))]
    assert "overlap" not in [r.task for r in runner.run(model(), data, ())]
    with pytest.raises(ConfigError, match="tasks: 'overlap' needs overlap_with"):
        runner.run(model(), data, ["overlap"])


def test_training_pictures_that_are_not_there_are_a_reason(root):
    (record,) = run(root, {"overlap_with": "folder:/no/such/folder"})
    assert "/no/such/folder" in record.skipped


def test_only_its_own_settings_make_a_record_anew(root, tmp_path):
    def lines(tasks, **changes):
        said = []
        run(root, changes, tasks, folder=tmp_path, say=said.append)
        return ["(read)" in line for line in said if "overlap:" in line or "zero_shot:" in line]

    both = ("zero_shot", "overlap")
    assert lines(both) == [False, False]
    assert lines(both) == [True, True]
    assert lines(both, overlap_threshold=0.95) == [True, True]  # what None stands for
    assert lines(both, overlap_threshold=0.9) == [True, False]
    assert lines(both, overlap_by="hash") == [True, False]
    other = _others(tmp_path / "others")
    assert lines(both, overlap_with=f"folder:{other}") == [True, False]
    picture(np.random.default_rng(5)).save(other / "train" / "any" / "1.png")
    assert lines(both, overlap_with=f"folder:{other}") == [True, False]
    assert lines(both, overlap_with=f"folder:{other}", seed=1) == [False, False]


def test_keys_of_other_tasks_do_not_know_of_overlap(root):
    for name in task_registry.TASKS:
        keys = set()
        for how in (EvalSettings(), settings(root), settings(root, overlap_by="hash")):
            opener = resolve.resolve(f"folder:{root}/pictures", how)
            keys.add(runner.cache_key(model(), task_registry.TASKS[name], opener))
        assert len(keys) == (3 if name == "overlap" else 1), name


def test_training_pictures_are_embedded_once(root, tmp_path):
    calls = []
    run(root, of=model(calls), cache=tmp_path)
    made = len(calls)
    (again,) = run(root, {"overlap_threshold": 0.5}, of=model(calls), cache=tmp_path)
    assert made and len(calls) == made
    assert again.metrics["contamination"] == (expected(root)[1] >= 0.5).mean()


def test_a_record_is_the_same_when_it_was_read(root, tmp_path):
    (record,) = run(root, folder=tmp_path)
    read = records.read(tmp_path / record.file_name)
    assert read.metrics == record.metrics and read.details == record.details


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap_with": "/data"}, r"overlap_with='/data': '/data' is not one of .*folder:PATH"),
        ({"overlap_by": "eye"}, r"overlap_by='eye' is not one of \['embedding', 'hash'\]"),
        ({"overlap_threshold": 6}, "overlap_threshold=6 is not a cosine from -1 to 1"),
        ({"overlap_threshold": math.nan}, "overlap_threshold=nan is not a cosine"),
        ({"overlap_by": "hash", "overlap_threshold": 0.95},
         "overlap_threshold=0.95 is not a whole number of bits from 0 to 64"),
        ({"overlap_by": "hash", "overlap_threshold": 65}, "overlap_threshold=65 is not a whole"),
        ({"overlap_by": "hash", "overlap_threshold": math.nan}, "overlap_threshold=nan is not"),
    ],
)  # fmt: skip
def test_illegal_settings_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        EvalSettings(**changes)


def test_flags_of_the_command_line(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation.api, "load", lambda *args, **options: "a model")
    monkeypatch.setattr(
        evaluation, "evaluate", lambda clip, data, tasks, how, **o: seen.append(how)
    )
    for flags in ([], ["--overlap-with=digits", "--overlap-by=hash", "--overlap-threshold=5"]):
        evaluation.run(evaluation.parse(["--model=x", f"--cache-dir={tmp_path}", *flags]))
    found = [(s.overlap_with, s.overlap_by, s.overlap_threshold) for s in seen]
    assert found == [("", "embedding", None), ("digits", "hash", 5)]
    with pytest.raises(ConfigError, match="overlap-by"):
        evaluation.parse(["--model=x", "--overlap-by=eye"])


def test_several_classes_a_picture_are_not_compared(root):
    data = from_arrays("x", "test", [np.zeros((4, 4, 3), np.uint8)], np.ones((1, 2), bool))
    assert not task_registry.TASKS["overlap"].default_on(data, settings(root))
    for how, message in ((settings(root), "one class"), (EvalSettings(), "overlap_with")):
        splits = resolve.resolve(f"folder:{root}/pictures", how)
        for call in (
            lambda s: task_registry.TASKS["overlap"].prepare(data, s),
            lambda s: task_registry.TASKS["overlap"].run(model(), data, s, None),
        ):
            with pytest.raises(NotApplicable, match=message):
                call(splits)
