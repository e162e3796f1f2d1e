"""The table of datasets: complete, in step with the prompts and the documentation, and usable."""

import ast
import csv
import json

import numpy as np
import pytest
from PIL import Image

from clip_jax.data import tfds_split
from clip_jax.data.errors import MissingData
from clip_jax.data.test_sets.types import ClassificationDataset, Options, from_arrays
from clip_jax.evals.datasets import locate, published
from clip_jax.evals.datasets.catalog import CATALOG
from clip_jax.evals.datasets.prompts import names, prompts
from clip_jax.evals.datasets.prompts.matching import with_prompts


def test_it_has_the_papers_27_and_8_more():
    assert sum(entry.of_paper for entry in CATALOG.values()) == 27
    others = {name for name, entry in CATALOG.items() if not entry.of_paper}
    assert others == {
        "ImageNetV2", "ImageNetA", "ImageNetR", "ImageNetSketch", "ObjectNet", "Flickr30k", "COCO",
    }  # fmt: skip
    assert {name for name, e in CATALOG.items() if e.kind != "retrieval"} == set(names())


def test_metrics_are_the_papers(goldens):
    known = json.loads((goldens / "D_zeroshot" / "datasets.json").read_text())
    keys = {
        "accuracy": "top1", "mean per class": "mean_per_class_recall",
        "11-point mAP": "mean_average_precision", "ROC AUC": "roc_auc",
        "mean(top1, top5)": "mean_top1_top5",
    }  # fmt: skip
    for name, entry in known.items():
        assert CATALOG[name].metric == keys[entry["paper_metric"]], name


def test_entries_are_in_order():
    for name, entry in CATALOG.items():
        assert entry.kind in ("classification", "multilabel", "retrieval")
        assert entry.metric in locate.METRICS
        assert 0 <= entry.val < max(entry.train, 1)
        assert entry.test > 0
        assert set(entry.tfds_splits) <= {"train", "val", "test"}
        assert bool(entry.train) == (entry.of_paper or entry.kind == "retrieval"), name
        assert entry.webdataset or entry.tfds or entry.datacomp or entry.notes, name
        if entry.kind != "retrieval" and name != "ObjectNet":
            classes = len(prompts(name).class_names)
            assert classes == (7 if name.startswith("FacialEmotion") else entry.classes), name


def test_the_documentation_is_in_step(root):
    assert (root / "docs" / "data_sets.md").read_text() == locate.markdown(), (
        "run python -m clip_jax.evals.datasets.locate > docs/data_sets.md"
    )


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("Food101", "Food101"), ("food-101", "Food101"), ("wds/vtab/cifar10", "CIFAR10"),
        ("cifar100", "CIFAR100"), ("imagenet1k", "ImageNet"), ("imagenet2012", "ImageNet"),
        ("voc/2007", "PascalVOC2007"), ("voc2007_multilabel", "PascalVOC2007"),
        ("mscoco_captions", "COCO"), ("renderedsst2", "SST2"), ("wds/cars", "StanfordCars"),
    ],
)  # fmt: skip
def test_names_of_others_are_understood(name, want):
    assert locate.find(name) == want


def test_a_name_that_nobody_has():
    with pytest.raises(ValueError, match="'imagenet-q' is no dataset .*did you mean 'ImageNet"):
        locate.find("imagenet-q")
    for name in ("", "wds/", "zzzz"):
        with pytest.raises(ValueError, match="is no dataset of the catalog"):
            locate.find(name)


def test_no_name_means_two_data_sets():
    seen = {}
    for key, entry in CATALOG.items():
        for alias in {key, entry.title, entry.tfds, entry.webdataset, entry.datacomp} - {""}:
            assert seen.setdefault(locate._bare(alias), key) == key


def folder(root, split, *classes):
    for i, name in enumerate(classes):
        path = root / split / name / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)


def test_what_is_here_is_opened(tmp_path):
    folder(tmp_path / "OxfordPets", "test", "Abyssinian", "american_bulldog", "Bengal")
    options = Options(data_dir=tmp_path / "tfds", cache_dir=tmp_path / "cache")
    assert locate.find("oxford_iiit_pet") == "OxfordPets"
    spec = locate.locate("OxfordPets", tmp_path, options)
    data = locate.open_at(spec, "OxfordPets", "test", options)
    assert isinstance(data, ClassificationDataset)
    assert (data.name, data.split) == ("OxfordPets", "test")
    dressed = with_prompts(data, data.name)
    assert [dressed.class_names[k] for k in dressed.labels] == [
        "Abyssinian", "Bengal", "american bulldog",
    ]  # fmt: skip
    folder(tmp_path / "ImageNet", "val", "n01440764", "n01443537")
    spec = f"folder:{tmp_path}/ImageNet"
    imagenet = locate.open_at(spec, "ImageNet", "test", options)
    assert imagenet.split == "test"
    np.testing.assert_array_equal(with_prompts(imagenet, "ImageNet").labels, [0, 1])


def test_no_split_is_scored_twice(tmp_path):
    """ImageNet's validation split is what is scored: no penalty may be chosen on it."""
    for split in ("train", "val"):
        folder(tmp_path / "ImageNet", split, "n01440764", "n01443537")
    options = Options(data_dir=tmp_path / "tfds", cache_dir=tmp_path / "cache")
    spec = locate.locate("ImageNet", tmp_path, options)
    train, test = (locate.open_at(spec, "ImageNet", s, options) for s in ("train", "test"))
    assert "/train/" in train.describe(0) and "/val/" in test.describe(0)
    with pytest.raises(MissingData, match="ImageNet has no validation split besides the one"):
        locate.open_at(spec, "ImageNet", "val", options)


@pytest.mark.parametrize(
    ("name", "spec", "asked", "keys"),
    [
        ("ImageNet", "tfds:imagenet2012", "validation", ("image", "label")),
        ("Food101", "tfds:food101", "validation", ("image", "label")),
        ("PascalVOC2007", "tfds:/data/voc/2007/4.0.0", "test", ("image", "labels")),
        ("Food101", "tfds:my_food", "test", ("image", "kind")),
    ],
)
def test_tfds_is_asked_for_what_it_calls_things(monkeypatch, name, spec, asked, keys):
    calls = []

    def opened(where, split, options):
        calls.append((where, split, options.image_key, options.label_key))
        return ClassificationDataset("x", split, [], np.zeros(0, np.int32), fingerprint="f")

    monkeypatch.setattr(locate, "open_dataset", opened)
    locate.open_at(spec, name, "test", Options(label_key="kind"))
    assert calls == [(spec, asked, *keys)]


def test_what_is_not_here_says_how_to_get_it(tmp_path):
    options = Options(data_dir=tmp_path / "tfds", cache_dir=tmp_path / "cache")
    with pytest.raises(MissingData) as caught:
        locate.locate("DescribableTextures", tmp_path, options)
    text = str(caught.value)
    assert text.startswith("DescribableTextures (Describable Textures) is not here:")
    home = tmp_path / "wds_vtab-dtd"
    command = "hf download clip-benchmark/wds_vtab-dtd --repo-type=dataset --local-dir="
    assert f"`{command}{home}`" in text
    assert f"`{tfds_split.preparation('dtd')}`" in text
    assert f"wds:{home}: {home}: no such folder" in text
    with pytest.raises(MissingData, match=r"get it by `https://hatefulmemeschallenge.com/`"):
        locate.locate("HatefulMemes", tmp_path, options)


def test_downloads_land_where_they_are_looked_for(tmp_path):
    for name, entry in CATALOG.items():
        specs = locate.specs(name, tmp_path)
        for command in locate.commands(entry, tmp_path):
            if command.startswith("hf download"):
                assert f"wds:{command.partition('--local-dir=')[2]}" in specs
            elif "tfds.builder" in command:
                assert f"tfds:{ast.literal_eval(command.split('(')[1].split(',')[0])}" in specs
    assert locate.specs("Food101") == ["tfds:food101"]


def test_tfds_is_asked_for_its_own_splits_and_features(monkeypatch):
    asked = []

    def open_dataset(spec, split, options):
        asked.append((split, options.label_key, options.caption_key))
        return from_arrays("x", split, np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, int))

    monkeypatch.setattr(locate, "open_dataset", open_dataset)
    mine = Options(label_key="mine")
    for name, spec in (("Food101", "tfds:food101"), ("Food101", "wds:food101"),
                       ("PascalVOC2007", "tfds:voc/2007"),
                       ("COCO", f"tfds:{CATALOG['COCO'].tfds}"), ("COCO", "folder:x")):  # fmt: skip
        assert locate.open_at(spec, name, "test", mine).name == name
    assert asked == [
        ("validation", "label", "caption"), ("test", "mine", "caption"),
        ("test", "labels", "caption"), ("test", "", "captions/text"), ("test", "mine", "caption"),
    ]  # fmt: skip


def test_published_numbers():
    one = published.published("ImageNet", "zero_shot", "paper", "ViT-B/32")
    assert [(r.metric, r.value) for r in one] == [("top1", 0.632)]
    # Abstract and section 3: 76.2% top-1, 95% top-5; linear probe 85.4%.
    best = {r.metric: r.value for r in published.published("ImageNet", "zero_shot", "paper",
                                                           "ViT-L/14@336")}  # fmt: skip
    assert best == {"top1": 0.762, "top5": 0.95}
    assert published.published("ImageNet", "linear_probe", model="ViT-L/14@336")[0].value == 0.854
    measured = published.published("ImageNet", "zero_shot", "datacomp", "ViT-B/32")
    assert [(r.value, r.source) for r in measured] == [
        (0.6332, "open_clip, docs/openclip_results.csv")
    ]
    recall = published.published("Flickr30k", model="ViT-L/14@336", protocol="paper")
    assert [r.value for r in recall] == [0.88, 0.987, 0.994, 0.687, 0.906, 0.952]
    assert published.published("ImageNet", "zero_shot", "clip_benchmark") == []


def test_every_published_number_belongs_to_something():
    models = {f"RN{size}" for size in ("50", "101", "50x4", "50x16", "50x64")}
    models |= {"ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336"}
    rows = published.everything()
    keys = [(r.model, r.data_set, r.task, r.protocol, r.metric) for r in rows]
    assert len(set(keys)) == len(keys) == 738
    for row in rows:
        assert row.model in models
        assert row.task in published.TASKS
        assert 0 < row.value < 1
        assert (row.task == "retrieval") == (CATALOG[row.data_set].kind == "retrieval")
        if row.protocol == "paper" and row.task != "retrieval" and row.metric != "top5":
            assert row.metric == CATALOG[row.data_set].metric
    zero = [r for r in rows if r.task == "zero_shot" and r.protocol == "paper"]
    assert len(zero) == 9 * 27 + 1


def test_published_numbers_keep_their_digits(root):
    with open(root / "clip_jax" / "evals" / "datasets" / "published.csv", newline="") as file:
        for row in csv.DictReader(file):
            digits = 3 if row["source"].startswith("paper") else 4
            assert len(row["value"].partition(".")[2]) == digits
