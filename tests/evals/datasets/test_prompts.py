"""The prompts are OpenAI's to the letter, and labels mean the class that they are counted for."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.data.test_sets import registry
from clip_jax.data.test_sets.types import ClassificationDataset
from clip_jax.evals.datasets import prompts as prompts_lib
from clip_jax.evals.datasets.prompts import matching, prompts
from clip_jax.evals.datasets.prompts.matching import with_files, with_prompts

PAPER = [n for n in prompts_lib.names() if n not in prompts_lib.IMAGENETS and n != "ObjectNet"]


@pytest.fixture
def golden(goldens):
    folder = goldens / "D_zeroshot"
    return {n: json.loads((folder / f"{n}.json").read_text()) for n in ("datasets", "imagenet")}


def as_lists(class_names):
    return [[c] if isinstance(c, str) else list(c) for c in class_names]


def test_equal_openais_lists(golden):
    assert set(golden["datasets"]) == set(PAPER)
    for name, want in golden["datasets"].items():
        found = prompts(name)
        assert as_lists(found.class_names) == as_lists(want["classes"]), name
        assert list(found.templates) == want["templates"], name
    imagenet = golden["imagenet"]
    for name in ("ImageNet", "ImageNetV2", "ImageNetSketch"):
        assert list(prompts(name).class_names) == imagenet["classes"]
        assert list(prompts(name).templates) == imagenet["templates"]
    best = prompts("ImageNet", templates="subset7")
    assert list(best.templates) == imagenet["templates_subset7"]
    assert set(best.templates) < set(prompts("ImageNet").templates)


# From the table of clip_paper.md 1.10: classes / templates.
SIZES = """Birdsnap 500/1, CIFAR10 10/18, CIFAR100 100/18, CLEVRCounts 8/1, Caltech101 102/34,
Country211 211/5, DescribableTextures 47/8, EuroSAT 10/3, FGVCAircraft 100/2,
FacialEmotionRecognition2013 7/6, Flowers102 102/1, Food101 101/1, GTSRB 43/3, HatefulMemes 2/1,
KITTI 4/1, Kinetics700 700/28, MNIST 10/1, OxfordPets 37/1, PascalVOC2007 20/1, PatchCamelyon 2/1,
RESISC45 45/18, SST2 2/1, STL10 10/2, SUN397 397/2, StanfordCars 196/8, UCF101 101/48,
ImageNet 1000/80, ImageNetV2 1000/80, ImageNetSketch 1000/80, ImageNetA 200/80, ImageNetR 200/80,
ObjectNet 0/80"""


def test_sizes():
    sizes = {}
    for entry in SIZES.replace("\n", " ").split(", "):
        name, size = entry.split()
        found = prompts(name)
        sizes[name] = f"{len(found.class_names)}/{len(found.templates)}"
        assert sizes[name] == size, name
        assert all("{}" in t and "{c}" not in t for t in found.templates)
    assert sorted(sizes) == prompts_lib.names()


def test_subsets_of_imagenet():
    ids = prompts_lib.load("class_ids")
    wnids, names = ids["ids"]["ImageNet"], prompts("ImageNet").class_names
    assert wnids == sorted(wnids)
    assert (wnids[0], names[0], wnids[285], names[285]) == (
        "n01440764", "tench", "n02124075", "Egyptian Mau",
    )  # fmt: skip
    first = {"ImageNetA": ("n01498041", "stingray"), "ImageNetR": ("n01443537", "goldfish")}
    for name, subset in (("ImageNetA", "imagenet_a"), ("ImageNetR", "imagenet_r")):
        numbers = ids[subset]
        assert numbers == sorted(set(numbers))
        assert prompts(name).class_names == tuple(names[i] for i in numbers)
        assert (wnids[numbers[0]], names[numbers[0]]) == first[name]


def test_clip_benchmark_differs_where_it_does():
    differ = [
        n for n in PAPER
        if n not in ("Birdsnap", "HatefulMemes", "Kinetics700", "UCF101")
        and prompts(n, "clip_benchmark").templates != prompts(n).templates
    ]  # fmt: skip
    assert differ == ["CLEVRCounts", "PatchCamelyon", "RESISC45"]
    assert len(prompts("RESISC45", "clip_benchmark").templates) == 4
    assert prompts("RESISC45", "clip_benchmark").class_names == ()  # the data's own
    assert prompts("CLEVRCounts", "clip_benchmark") == (
        ("three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        ("a picture of {} objects",),
    )
    assert prompts("ImageNetR", "clip_benchmark") == prompts("ImageNetR")
    # The same names in another order.
    for name in ("EuroSAT", "Caltech101"):
        ours, theirs = (prompts(name, p).class_names for p in ("paper", "clip_benchmark"))
        assert ours != theirs
        assert sorted(ours) == sorted(theirs)


def test_ensembling_can_be_turned_off():
    assert prompts("Food101", templates="plain").templates == ("a photo of a {}.",)
    assert prompts("Food101", templates="names").templates == ("{}",)
    assert prompts("Food101", templates="names").class_names == prompts("Food101").class_names


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("food101", {}, "no prompts for 'food101'; did you mean 'Food101'"),
        ("x", {}, r"no prompts for 'x', only for \['Birdsnap'"),
        ("Food101", {"protocol": "mine"}, "protocol='mine' is not one of"),
        ("Food101", {"templates": "best"}, "templates='best' is not one of"),
        ("Food101", {"templates": "subset7"}, "'subset7' is of ImageNet's templates, not of Food"),
        ("Food101", {"protocol": "datacomp"}, "takes the prompts of Food101 from the files"),
        ("UCF101", {"protocol": "clip_benchmark"}, "CLIP_benchmark has no UCF101"),
    ],
)
def test_what_is_not_known_is_not_made_up(name, options, message):
    with pytest.raises(ValueError, match=message):
        prompts(name, **options)


def test_sources_and_licences_go_with_the_lists(root):
    folder = Path(prompts_lib.__file__).parent
    for name, holder in (
        ("paper", "openai"), ("imagenet", "openai"), ("clip_benchmark", "clip_benchmark"),
    ):  # fmt: skip
        text = (folder / f"{holder}.LICENSE").read_text()
        assert f"{name}.json" in text
        assert "Permission is hereby granted" in text
        owner = prompts_lib.load(name)["licence"].partition("(c) ")[2].partition(":")[0]
        assert owner.split(" ", 1)[1] in text
    setup = (root / "setup.py").read_text()
    assert '"clip_jax.evals.datasets.prompts": ["*.json", "*.LICENSE"]' in setup


def data_set(names, labels=None):
    labels = np.arange(len(names)) if labels is None else np.asarray(labels)
    return ClassificationDataset(
        "mine", "test", [b""] * len(labels), labels, names, fingerprint="f"
    )


@pytest.mark.parametrize(
    "name", ["OxfordPets", "PascalVOC2007", "Food101", "SUN397", "UCF101", "Kinetics700"]
)
def test_labels_follow_their_names(name):
    own = sorted((c.replace(" ", "_").upper() for c in prompts(name).class_names), reverse=True)
    found = with_prompts(data_set(own), name)
    assert found.class_names == prompts(name).class_names
    assert found.templates == prompts(name).templates
    want = [c.replace("_", " ").lower() for c in own]
    assert [found.class_names[k].replace("_", " ").lower() for k in found.labels] == want
    assert found.fingerprint == "f"


@pytest.mark.parametrize(
    ("name", "own", "want"),
    [
        ("EuroSAT", ["AnnualCrop", "SeaLake"], ["annual crop land", "lake or sea"]),
        ("Caltech101", ["Faces", "Faces_easy", "BACKGROUND_Google", "yin_yang", "Motorbikes"],
         ["off-center face", "centered face", "background", "yin and yang symbol", "motorbike"]),
        ("Flowers102", ["ball moss", "pink-yellow dahlia?", "globe-flower"],
         ["air plant", "pink and yellow dahlia", "globe flower"]),
        ("UCF101", ["HandstandPushups", "YoYo", "ApplyEyeMakeup"],
         ["Hand Stand Pushups", "Yo Yo", "Apply Eye Makeup"]),
        ("SUN397", ["/a/abbey", "/j/jail_indoor", "apse/indoor", "/j/jail_cell"],
         ["abbey", "jail indoor", "apse indoor", "jail cell"]),
        ("Country211", ["AD", "XK", "US"], ["Andorra", "Kosovo", "United States"]),
        ("CLEVRCounts", ["three", "10", "4"], ["3", "10", "4"]),
        ("ImageNet", ["n01440764", "n02124075", "stingray"], ["tench", "Egyptian Mau", "stingray"]),
        ("ImageNetR", ["n01443537", "n12267677"], ["goldfish", "acorn"]),
        ("FacialEmotionRecognition2013", ["surprise", "smiling", "fear"],
         [("surprised", "shocked", "spooked"), ("happy", "smiling"), "fearful"]),
    ],
)  # fmt: skip
def test_names_that_the_data_sets_use(name, own, want):
    found = with_prompts(data_set(own), name)
    assert [found.class_names[k] for k in found.labels] == want


def test_classes_that_no_picture_has_need_no_match():
    """TFDS's ImageNet-A has all 1,000 classes, and images of 200."""
    ids = prompts_lib.load("class_ids")
    wnids, subset = ids["ids"]["ImageNet"], ids["imagenet_a"]
    found = with_prompts(data_set(wnids, subset), "ImageNetA")
    assert found.labels.tolist() == list(range(200))
    assert found.class_names == prompts("ImageNetA").class_names
    with pytest.raises(ValueError, match="1 of its classes are none of the 200 .* 'n01440764'"):
        with_prompts(data_set(wnids, [0, *subset]), "ImageNetA")


def test_the_whole_list_in_its_own_order_matches_itself():
    """Two of ImageNet's names occur twice, and no name alone could tell them apart."""
    for name in ("ImageNet", "FacialEmotionRecognition2013", "GTSRB", "KITTI"):
        names = prompts(name).class_names
        found = with_prompts(data_set(names), name)
        assert found.labels.tolist() == list(range(len(names)))
    with pytest.raises(ValueError, match="or not clearly one: 'missile'"):
        with_prompts(data_set(["missile", "tench"]), "ImageNet")


@pytest.mark.parametrize("names", [(), ("0", "1", "2"), ("00000", "00001", "00002")])
def test_numbers_count_as_the_authors_do(names):
    data = data_set(names, [0, 2, 1])
    assert with_prompts(data, "GTSRB").labels.tolist() == [0, 2, 1]
    for name in ("PascalVOC2007", "CLEVRCounts", "OxfordPets", "ImageNetA"):
        with pytest.raises(
            ValueError, match=f"3 of its classes are none of .*{name}.*classnames.t"
        ):
            with_prompts(data, name)


def test_a_number_that_counts_is_not_a_name():
    """Class 3 of CLEVR's counts is six objects."""
    with pytest.raises(ValueError, match="2 of its classes are none of the 8 of CLEVRCounts"):
        with_prompts(data_set((), [3, 4]), "CLEVRCounts")


def test_too_many_numbers_and_twins_are_refused():
    with pytest.raises(ValueError, match="3 of its classes are none of the 2 of SST2"):
        with_prompts(data_set((), [0, 1, 2]), "SST2")
    with pytest.raises(ValueError, match="'Abbey' and 'abbey' are the same class of SUN397"):
        with_prompts(data_set(["Abbey", "abbey"]), "SUN397")


def test_several_labels_follow_their_names():
    labels = np.array([[True, False, True], [False, True, False]])
    data = ClassificationDataset(
        "v", "test", [b"", b""], labels, ["tvmonitor", "cow", "dog"], fingerprint=""
    )
    found = with_prompts(data, "PascalVOC2007")
    names = prompts("PascalVOC2007").class_names
    got = [{names[k] for k in np.flatnonzero(row)} for row in found.labels]
    assert got == [{"tvmonitor", "dog"}, {"cow"}]
    assert found.labels.shape == (2, 20)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(37)), st.sampled_from([str.upper, str.lower, str.title]))
def test_any_order_and_case_of_the_names_gives_the_same_classes(order, case):
    names = prompts("OxfordPets").class_names
    found = with_prompts(data_set([case(names[k]) for k in order]), "OxfordPets")
    assert found.labels.tolist() == list(order)


def test_other_protocols_take_the_datas_own_prompts():
    own = ClassificationDataset(
        "d", "test", [b""], np.zeros(1, int), ["X"], ["a {}"], fingerprint=""
    )
    for protocol in ("clip_benchmark", "datacomp"):
        assert with_prompts(own, "RESISC45", protocol) is own
    plain = data_set(["runway", "beach"])
    found = with_prompts(plain, "RESISC45", "clip_benchmark")
    assert found.class_names == ("runway", "beach")
    assert len(found.templates) == 4
    with pytest.raises(ValueError, match="protocol='datacomp' takes the prompts"):
        with_prompts(plain, "RESISC45", "datacomp")
    with pytest.raises(
        ValueError, match="mine: the data has no class names, and protocol='clip_be"
    ):
        with_prompts(data_set((), [0, 1]), "RESISC45", "clip_benchmark")
    with pytest.raises(ValueError, match="2 of its classes are none of the 10 of EuroSAT"):
        with_prompts(plain, "EuroSAT")


def test_files_of_the_users(tmp_path):
    data = with_prompts(data_set(["Bengal", "pug"]), "OxfordPets")
    names, templates = tmp_path / "names.json", tmp_path / "templates.txt"
    names.write_text(json.dumps({"pets": [f"Rasse {k}" for k in range(37)], "few": ["Rasse"]}))
    templates.write_text("Ein Foto von {c}.\n{}の写真\n", encoding="utf-8")
    found = with_files(data, names, templates, ("cats", "pets"))
    assert found.class_names[1] == "Rasse 1"
    assert found.templates == ("Ein Foto von {}.", "{}の写真")
    assert found.labels.tolist() == data.labels.tolist() == [1, 29]
    with pytest.raises(ValueError, match="names.json: 1 class names, but mine has 37"):
        with_files(data, names, data_set=("few",))
    assert with_files(data) is data

    cupl = tmp_path / "cupl.json"
    cupl.write_text(json.dumps({"Bengal": ["A spotted cat.", "a {}"], "pug": ["A small dog."]}))
    small = data_set(["pug", "Bengal"])
    found = with_files(small, templates=cupl)
    assert found.descriptions == (("A small dog.",), ("A spotted cat.", "a Bengal"))
    assert found.class_names == ["pug", "Bengal"]
    with pytest.raises(
        ValueError, match="cupl.json: no prompts for 35 of 37 classes: 'Abyssinian'"
    ):
        with_files(data, templates=cupl)


def test_names_in_another_order_do_not_exchange_classes(tmp_path):
    data = data_set(["ant", "zebra"])
    (tmp_path / "names.txt").write_text("Zebra\nant\n")
    assert with_files(data, tmp_path / "names.txt").class_names == ("ant", "Zebra")
    (tmp_path / "names.txt").write_text("zebra\nhorse\n")
    with pytest.raises(ValueError, match="class 0 is 'zebra', which is class 1 of mine"):
        with_files(data, tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("fourmi\nzebra\n")
    assert with_files(data, tmp_path / "names.txt").class_names == ("fourmi", "zebra")


def test_camel_case_is_words_where_it_begins_with_a_capital():
    keys = [matching._key(x) for x in ("ApplyEyeMakeup", "apply eye makeup", "iPod", "ipod")]
    assert keys[0] == keys[1] and keys[2] == keys[3] == "ipod"


def test_names_for_numbered_labels(tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    assert with_files(data_set((), [0, 1]), tmp_path / "names.txt").class_names == ("a", "b", "c")
    with pytest.raises(ValueError, match="3 class names, but mine has 4"):
        with_files(data_set((), [0, 3]), tmp_path / "names.txt")


def test_no_two_classes_have_one_key():
    """Else a name could stand for either; ImageNet's two twins are known."""
    for name in PAPER + ["ImageNet"]:
        keys = matching._keys(prompts(name), name)
        twins = {key for key, number in keys.items() if number is None}
        assert twins == ({"missile", "sunglasses"} if name == "ImageNet" else set()), name


def test_digits_have_openais_template_for_mnist():
    from clip_jax.data.test_sets.packages import DIGITS_TEMPLATES

    assert prompts("MNIST").templates == DIGITS_TEMPLATES
    assert registry.READERS.keys() >= {"digits"}
