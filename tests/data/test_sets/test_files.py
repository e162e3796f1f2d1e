"""What datasets in plain files share."""

import pytest
from small_images import write

from clip_jax.data.test_sets.registry import open_dataset


@pytest.mark.parametrize("kind", ["folder", "csv"])
def test_uncompressed_images_are_told_apart_by_their_pixels(tmp_path, kind):
    (tmp_path / "t.csv").write_text("image,label\na/0.bmp,x\nb/0.bmp,y\n")
    spec = {"folder": f"folder:{tmp_path}", "csv": f"csv:{tmp_path}/t.csv"}[kind]
    found = []
    for color in (10, 20, 10):
        for name in "ab":
            write(tmp_path / name / "0.bmp", color)
        found.append(open_dataset(spec).fingerprint)
    assert found[0] == found[2] != found[1]
