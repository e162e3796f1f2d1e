"""Preprocess stored: its own form, Hugging Face's and open_clip's; round trips and refusals."""

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_jax.data import preprocess_formats as formats
from clip_jax.data.preprocess import OPENAI_MEAN, OPENAI_STD, RESIZES, Preprocess

HALF = (0.5, 0.5, 0.5)
CLIP_B32 = {  # openai/clip-vit-base-patch32, as first published
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}
SIGLIP_384 = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "SiglipProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 384, "width": 384},
}
NEWER = {
    "image_processor_type": "CLIPImageProcessorFast",
    "do_convert_rgb": True,
    "do_pad": False,
    "device": None,
    "data_format": "channels_first",
    "size": {"shortest_edge": 336, "longest_edge": None},
    "crop_size": {"height": 336, "width": 336},
}


def transforms(resizes, fills):
    return st.builds(
        Preprocess,
        image_size=st.integers(1, 1000),
        resize=st.sampled_from(resizes),
        interpolation=st.sampled_from(["bicubic", "bilinear"]),
        mean=st.tuples(*[st.floats(0.01, 1)] * 3),
        std=st.tuples(*[st.floats(0.01, 2)] * 3),
        fill=fills,
    )


@settings(deadline=None)
@given(transforms(RESIZES, st.integers(0, 255)))
def test_a_stored_preprocess_comes_back(transform):
    again = Preprocess.from_dict(json.loads(json.dumps(transform.to_dict())))
    assert again == transform == pickle.loads(pickle.dumps(transform))
    assert again.fingerprint == transform.fingerprint
    assert hash(again) == hash(transform)


def test_every_field_is_in_the_fingerprint():
    base = Preprocess(224)
    others = dict(image_size=225, resize="squash", interpolation="bilinear", mean=(0.5, 0.5, 0.5),
                  std=(0.5, 0.5, 0.5), fill=1, transparency="white")  # fmt: skip
    assert others.keys() == {field.name for field in dataclasses.fields(Preprocess)}
    changed = [dataclasses.replace(base, **{key: value}) for key, value in others.items()]
    assert len({transform.fingerprint for transform in [base, *changed]}) == len(others) + 1
    assert len(base.fingerprint) == 64


def test_dict_with_other_keys_is_refused():
    fields = Preprocess(224).to_dict()
    with pytest.raises(ValueError, match=r"unknown \['filter'\]; its keys are .*interpolation"):
        Preprocess.from_dict(fields | {"filter": "bicubic"})
    with pytest.raises(ValueError, match=r"has no \['mean', 'std'\]"):
        Preprocess.from_dict({k: v for k, v in fields.items() if k not in ("mean", "std")})


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", 0), ("image_size", 224.0), ("image_size", True), ("image_size", "224"),
     ("image_size", (224, 224)), ("image_size", 9000), ("resize", "shorter"), ("resize", None),
     ("interpolation", "nearest"), ("interpolation", ["bicubic"]), ("mean", (0.5, 0.5)),
     ("mean", 0.5), ("mean", (0.5, math.nan, 0.5)), ("mean", "abc"), ("std", (0.5, 0.5, 0)),
     ("std", (1, 1, math.inf)), ("fill", -1), ("fill", 256), ("fill", (0, 0, 0))],
)  # fmt: skip
def test_illegal_values_are_named(key, value):
    fields = Preprocess(224).to_dict() | {key: value}
    with pytest.raises(ValueError, match=rf"^{key}="):
        Preprocess.from_dict(fields)


def test_numpy_values_become_plain():
    transform = Preprocess(np.int64(8), mean=np.float64([0, 0, 0]), std=[1, 1, 1], fill=np.uint8(3))
    assert transform == Preprocess(8, mean=(0, 0, 0), std=(1, 1, 1), fill=3)
    json.dumps(transform.to_dict())


def test_reads_hugging_face_files():
    assert formats.from_hugging_face(CLIP_B32) == Preprocess(224)
    siglip = Preprocess(384, resize="squash", mean=HALF, std=HALF)
    assert formats.from_hugging_face(SIGLIP_384) == siglip
    assert formats.from_hugging_face(NEWER) == Preprocess(336)
    nested = {"processor_class": "CLIPProcessor", "image_processor": NEWER}
    assert formats.from_hugging_face(nested) == Preprocess(336)


def test_missing_hugging_face_keys_have_the_defaults_of_the_class():
    assert formats.from_hugging_face({"image_processor_type": "CLIPImageProcessor"}) == Preprocess(
        224, mean=OPENAI_MEAN, std=OPENAI_STD
    )
    siglip = Preprocess(224, resize="squash", mean=HALF, std=HALF)
    assert formats.from_hugging_face({"image_processor_type": "SiglipImageProcessor"}) == siglip


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"resample": 2}, Preprocess(224, interpolation="bilinear")),
        ({"size": [224, 224]}, Preprocess(224, resize="squash")),
        ({"size": {"height": 64, "width": 64}, "do_center_crop": False},
         Preprocess(64, resize="squash")),
        ({"crop_size": [224, 224]}, Preprocess(224)),
        ({"image_mean": 0.5, "image_std": 0.25}, Preprocess(224, mean=HALF, std=(0.25,) * 3)),
        ({"do_normalize": False}, Preprocess(224, mean=(0, 0, 0), std=(1, 1, 1))),
        ({"do_convert_rgb": False}, Preprocess(224)),
    ],
)  # fmt: skip
def test_hugging_face_variations(changes, want):
    assert formats.from_hugging_face(CLIP_B32 | changes) == want


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor"}, "ViTFeatureExtractor is not one of"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "Siglip2ImageProcessor is not one of"),
        ({"feature_extractor_type": None}, "image_processor_type=None is not one of"),
        ({"do_resize": False}, "do_resize=false is not supported"),
        ({"do_rescale": False}, "do_rescale=false is not supported"),
        ({"do_pad": True}, "do_pad=true is not supported"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor=0.0078"),
        ({"rescale_factor": "1/255"}, "rescale_factor='1/255'"),
        ({"resample": 1}, "resample=1 is not supported"),
        ({"size": 256}, "size=256 with crop_size=224"),
        ({"crop_size": 192}, "size=224 with crop_size=192"),
        ({"do_center_crop": False}, "do_center_crop=False is not supported"),
        ({"size": {"height": 224, "width": 336}}, "height and width of a square"),
        ({"size": {"shortest_edge": 224, "longest_edge": 448}}, "is not supported"),
        ({"size": {"longest_edge": 224}}, "is not supported"),
        ({"size": [224]}, "is not supported"),
        ({"size": "224"}, "size='224' with crop_size=224"),
        ({"image_mean": [0.5]}, "^mean="),
        ({"image_std": [1, 1, 0]}, "^std="),
    ],
)
def test_other_hugging_face_steps_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        formats.from_hugging_face(CLIP_B32 | changes)


def test_a_siglip_processor_must_make_squares():
    for size in (384, {"shortest_edge": 384}):
        with pytest.raises(ValueError, match="is not supported"):
            formats.from_hugging_face(SIGLIP_384 | {"size": size})


@settings(deadline=None)
@given(transforms(("shortest", "squash"), st.just(0)))
def test_hugging_face_round_trip(transform):
    written = json.loads(json.dumps(formats.to_hugging_face(transform)))
    assert formats.from_hugging_face(written) == transform


def test_writes_what_hugging_face_stores():
    written = formats.to_hugging_face(Preprocess(224))
    assert written["image_processor_type"] == "CLIPImageProcessor"
    assert written["size"] == {"shortest_edge": 224}
    assert written["crop_size"] == {"height": 224, "width": 224}
    for key in CLIP_B32.keys() - {"feature_extractor_type", "size", "crop_size"}:
        assert written[key] == CLIP_B32[key], key
    siglip = formats.to_hugging_face(Preprocess(384, resize="squash", mean=HALF, std=HALF))
    assert siglip["do_center_crop"] is False
    for key in SIGLIP_384.keys() - {"processor_class", "do_convert_rgb"}:
        assert siglip[key] == SIGLIP_384[key], key


def test_longest_is_not_written_for_hugging_face():
    with pytest.raises(ValueError, match="resize='longest' cannot be written for Hugging Face"):
        formats.to_hugging_face(Preprocess(224, resize="longest"))


def test_reads_open_clip_files():
    laion = {"mean": list(OPENAI_MEAN), "std": list(OPENAI_STD)}  # their vision_cfg has the size
    assert formats.from_open_clip(laion, image_size=224) == Preprocess(224)
    siglip = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
              "resize_mode": "squash"}  # fmt: skip
    want = Preprocess(256, resize="squash", mean=HALF, std=HALF)
    assert formats.from_open_clip(siglip, image_size=256) == want


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, Preprocess(224)),
        ({"size": [224, 224]}, Preprocess(224)),
        ({"size": [224]}, Preprocess(224)),
        ({"interpolation": "random"}, Preprocess(224)),
        ({"interpolation": "bilinear"}, Preprocess(224, interpolation="bilinear")),
        ({"resize_mode": "longest", "fill_color": 127},
         Preprocess(224, resize="longest", fill=127)),
        ({"mean": 0.5, "std": 0.5}, Preprocess(224, mean=HALF, std=HALF)),
        ({"mean": (0.0, 0.0, 0.0), "std": None}, Preprocess(224, mean=(0, 0, 0))),
        ({"hf_hub": "timm/", "quick_gelu": True}, Preprocess(224)),
    ],
)  # fmt: skip
def test_open_clip_variations(changes, want):
    assert formats.from_open_clip({"size": 224} | changes) == want


def test_the_models_size_goes_before_that_of_open_clips_preprocessing():
    assert formats.from_open_clip({"size": 224}, image_size=336) == Preprocess(336)
    assert formats.from_open_clip({"size": 224}, image_size=[336, 336]) == Preprocess(336)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": None}, "has no size: give image_size"),
        ({"size": [224, 336]}, r"size=\[224, 336\] is not a square"),
        ({"mode": "L"}, "mode='L' is not supported"),
        ({"resize_mode": "fit"}, "resize='fit' is not one of"),
        ({"interpolation": "lanczos"}, "interpolation='lanczos' is not one of"),
        ({"fill_color": 300}, "fill=300 is not an integer of 0 to 255"),
        ({"mean": [0.5, 0.5]}, "mean="),
    ],
)
def test_other_open_clip_values_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        formats.from_open_clip({"size": 224} | changes)


@settings(deadline=None)
@given(transforms(RESIZES, st.integers(0, 255)))
def test_open_clip_round_trip(transform):
    written = json.loads(json.dumps(formats.to_open_clip(transform)))
    assert formats.from_open_clip(written) == transform


def test_all_three_forms_give_the_same_pixels():
    image = np.random.default_rng(0).integers(0, 256, (70, 91, 3), np.uint8)
    transform = formats.from_hugging_face(CLIP_B32)
    others = [formats.from_open_clip(formats.to_open_clip(transform)),
              Preprocess.from_dict(transform.to_dict())]  # fmt: skip
    for other in others:
        np.testing.assert_array_equal(other(image), transform(image))
