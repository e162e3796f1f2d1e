"""What a scan of a shard finds: pairs, and why the other samples are none."""

import gzip
import io
import tarfile

import pytest

from clip_jax.data import tar_scan


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
    arrays = tar_scan.scan(path, image_key, caption_key)
    reasons = dict(zip(arrays["incomplete"].tolist(), arrays["reasons"].tolist(), strict=True))
    return arrays["keys"].tolist(), reasons


@pytest.mark.parametrize(
    ("members", "name", "reason"),
    [
        (["2.png", "2.txt"], "2", "no .jpg, but .png, .txt"),
        (["2.jpg"], "2", "no .txt, but .jpg"),
        (["2.jpg", "2.json"], "2", "no .txt, but .jpg, .json"),
        (["2.v1.jpg", "2.v1.txt"], "2", "a dot within their names, which end at the first dot"),
        (["2.json", "2.webp"], "2", "no .jpg and no .txt, but .json, .webp"),
        (["2.jpg -> 1.jpg", "2.txt"], "2", "no .jpg, but .jpg (a link), .txt"),
        (["2.jpg", "2.txt", "3.jpg", "3.txt", "2.jpg"], "2", "two images or two captions of one"),
        (["2.jpg", "2.txt", "2.txt"], "2", "two images or two captions of one name"),
        (["a/1.jpg"], "a/1", "no .txt, but .jpg"),
    ],
)
def test_every_sample_that_is_no_pair_has_a_reason(tmp_path, members, name, reason):
    keys, reasons = found(write(tmp_path / "a.tar", "1.jpg", "1.txt", *members))
    assert "1" in keys and name not in keys
    assert list(reasons) == [name] and reasons[name].startswith(reason)


def test_endings_are_what_people_write(tmp_path):
    shard = write(tmp_path / "a.tar", "1.JPG", "1.txt", "2.png", "2.TXT")
    for images, captions in (("jpg; png", "txt"), (".jpg;.PNG", ".TXT"), ("JPG;PNG", "Txt")):
        assert found(shard, images, captions) == (["1", "2"], {})


def test_a_shard_without_samples_has_none(tmp_path):
    arrays = tar_scan.scan(write(tmp_path / "a.tar"), "jpg", "txt")
    assert [len(a) for a in arrays.values()] == [0, 0, 0, 0]
    assert arrays["spans"].shape == (0, 4)


def test_a_compressed_shard_is_named_as_one(tmp_path):
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "a.tar", "1.jpg", "1.txt").read_bytes()))
    with pytest.raises(tar_scan.ShardError, match=r"a.tar.gz: compressed by gzip; random access"):
        tar_scan.scan(packed, "jpg", "txt")
