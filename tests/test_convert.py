"""The command that converts weights: what it prints, what it refuses."""

import shutil

from clip_jax import convert
from clip_jax.interop import weights


def run(capsys, *arguments):
    code = convert.main([str(a) for a in arguments])
    return code, *capsys.readouterr()


def test_goldens_through_all_layouts(goldens, tmp_path, capsys):
    folder = goldens / "A_model" / "import_vit"
    code, out, _ = run(capsys, folder / "openai_jit_fp16.pt", tmp_path / "hf", "--to=hugging_face")
    assert code == 0
    assert "quick_gelu" in out and "179,969" in out and f"wrote {tmp_path / 'hf'}" in out
    code, _, _ = run(capsys, tmp_path / "hf", tmp_path / "oc", "--to=open_clip")
    assert code == 0
    code, _, _ = run(capsys, tmp_path / "oc", tmp_path / "back.pt", "--to=openai",
                     "--dtype=float16")  # fmt: skip
    assert code == 0
    a = weights.read(folder / "openai_jit_fp16.pt")
    b = weights.read(tmp_path / "back.pt", layout="openai")
    assert a.config == b.config and a.description() == b.description()


def test_another_resolution(goldens, tmp_path, capsys):
    source = goldens / "A_model" / "import_vit" / "hf"
    code, _, _ = run(capsys, source, tmp_path / "big", "--to=clip_jax", "--image-size=64")
    assert code == 0
    assert weights.read(tmp_path / "big").config.vision.image_size == 64
    code, _, err = run(capsys, source, tmp_path / "odd", "--to=clip_jax", "--image-size=65")
    assert code == 78 and "image_size=65 is not a multiple of 8" in err
    assert not (tmp_path / "odd").exists()


def test_heads_of_a_lone_file(goldens, tmp_path, capsys):
    source = goldens / "A_model" / "import_vit" / "openclip_train_ckpt.pt"
    flags = ("--to=open_clip", "--activation=quick_gelu")
    code, _, err = run(capsys, source, tmp_path / "oc", *flags)
    assert code == 78 and "--heads IMAGE TEXT" in err and err.count("\n") == 1
    code, _, err = run(capsys, source, tmp_path / "oc", *flags, "--heads", 2, 1)
    assert (code, err) == (0, "")
    config = weights.read(tmp_path / "oc").config
    assert (config.vision.num_heads, config.text.num_heads) == (2, 1)


def test_odd_settings_have_the_code_of_a_mismatch(goldens, tmp_path, capsys):
    folder = tmp_path / "hf"
    shutil.copytree(goldens / "A_model" / "import_vit" / "hf", folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Other"}')
    code, _, err = run(capsys, folder, tmp_path / "x", "--to=clip_jax")
    assert code == 78 and "hf/preprocessor_config.json: image_processor_type=Other" in err


def test_what_cannot_be_done_is_one_line(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path / "none.pt", tmp_path / "x", "--to=clip_jax")
    assert code == 64 and err.count("\n") == 1 and "none.pt: no such file" in err
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 not a zip")
    code, _, err = run(capsys, tmp_path / "bad.pt", tmp_path / "x", "--to=clip_jax")
    assert code == 65 and "bad.pt" in err and err.count("\n") == 1
    code, _, err = run(capsys, "a", "b", "--to=onnx")
    assert code == 64 and err.count("\n") == 1 and "--to: invalid choice: 'onnx'" in err
