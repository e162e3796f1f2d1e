"""What a scan of a shard finds: pairs, and why the other samples are none."""

import gzip
import io
import tarfile

import pytest

from clip_jax.data import tar_scan
from clip_jax.data.tar_index import TarIndex
from clip_jax.data.tar_scan import Lack


def write(path, *members):
    """A shard of files with their names as contents; "a -> b" is a hard link to b."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            name, _, target = member.partition(" -> ")
            info = tarfile.TarInfo(name)
            if target:
                info.type, info.linkname = tarfile.LNKTYPE, target
                archive.addfile(info)
            else:
                info.size = len(name)
                archive.addfile(info, io.BytesIO(name.encode()))
    return path


def found(path, image_key="jpg", caption_key="txt"):
    index = TarIndex(path, tar_scan.scan(path, image_key, caption_key))
    groups = index.left_out().items()
    reasons = {name: (lack, words) for (lack, words), names in groups for name in names}
    return index.keys.tolist(), reasons


@pytest.mark.parametrize(
    ("members", "name", "lack", "words"),
    [
        (["2.png", "2.txt"], "2", Lack.HALF, "no .jpg, but .png, .txt"),
        (["2.jpg"], "2", Lack.HALF, "no .txt, but .jpg"),
        (["2.jpg", "2.json"], "2", Lack.HALF, "no .txt, but .jpg, .json"),
        (["a/1.jpg"], "a/1", Lack.HALF, "no .txt, but .jpg"),
        (["2.jpg -> 1.jpg", "2.txt"], "2", Lack.HALF, "no .jpg, but .jpg (a link), .txt"),
        (["2.jpg", "2.txt", "3.jpg", "3.txt", "2.jpg"], "2", Lack.TWICE, "two images or two"),
        (["2.jpg", "2.txt", "2.txt"], "2", Lack.TWICE, "two images or two captions of one name"),
        (["2.v1.jpg", "2.v1.txt"], "2.v1", Lack.DOTS, "a dot within their names, which end at"),
        (["1.v1.jpg", "1.v1.txt"], "1.v1", Lack.DOTS, "a dot within their names"),
        (["2.json", "2.webp"], "2", Lack.NEITHER, "no .jpg and no .txt, but .json, .webp"),
        (["2"], "2", Lack.NEITHER, "no .jpg and no .txt, but a file without ending"),
        (["2.a", "2.b", "2.c", "2.d", "2.e", "2.f"], "2", Lack.NEITHER, "no .jpg and no .txt, but "
         ".a, .b, .c, .d, .e, ..."),
    ],
)  # fmt: skip
def test_every_name_that_is_no_pair_has_a_reason(tmp_path, members, name, lack, words):
    keys, reasons = found(write(tmp_path / "a.tar", "1.jpg", "1.txt", *members))
    assert "1" in keys and name not in keys
    assert list(reasons) == [name]
    assert reasons[name][0] is lack and reasons[name][1].startswith(words)


def test_what_stands_beside_a_pair_is_no_loss(tmp_path):
    """Masks, further text, and what macOS puts into an archive."""
    beside = ["1.mask.jpg", "1.json", "._1.jpg", "._1.txt", "1.2.txt"]
    assert found(write(tmp_path / "a.tar", "1.jpg", "1.txt", *beside)) == (["1"], {})


def test_dotted_names_are_counted_one_by_one(tmp_path):
    names = [f"cam.{i}.{ending}" for i in range(30) for ending in ("jpg", "txt")]
    keys, reasons = found(write(tmp_path / "a.tar", "1.jpg", "1.txt", *names))
    assert keys == ["1"] and len(reasons) == 30


def test_what_is_kept_of_a_reason_is_short(tmp_path):
    shard = write(tmp_path / "a.tar", *(f"feat.{i}.npy" for i in range(500)), "1.jpg", "1.txt")
    arrays = tar_scan.scan(shard, "jpg", "txt")
    assert arrays["reasons"].dtype.itemsize < 500 and arrays["incomplete"].tolist() == ["feat"]


def test_names_need_not_be_utf8(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("1.jpg", "1.txt", "caf\udce9.jpg", "x.\udce9\udce9"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    _, reasons = found(tmp_path / "a.tar")
    for name, (_, words) in reasons.items():
        assert tar_scan.printable(name).encode() and words.encode("utf-8")


def test_endings_are_what_people_write(tmp_path):
    shard = write(tmp_path / "a.tar", "1.JPG", "1.txt", "2.png", "2.TXT")
    for images, captions in (("jpg; png", "txt"), (".jpg;.PNG", ".TXT"), ("JPG;PNG", "Txt")):
        assert found(shard, images, captions) == (["1", "2"], {})


def test_a_shard_without_samples_has_none(tmp_path):
    arrays = tar_scan.scan(write(tmp_path / "a.tar"), "jpg", "txt")
    assert {len(a) for a in arrays.values()} == {0}
    assert arrays["spans"].shape == (0, 4)


def test_a_compressed_shard_is_named_as_one(tmp_path):
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "a.tar", "1.jpg", "1.txt").read_bytes()))
    with pytest.raises(tar_scan.ShardError, match=r"a.tar.gz: compressed by gzip; random access"):
        tar_scan.scan(packed, "jpg", "txt")
