"""Config files, overrides and the errors a typo gets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clip_jax import config as config_lib
from clip_jax.config import ConfigError, defaults, load
from clip_jax.config.__main__ import table
from clip_jax.config.keys import KEYS
from clip_jax.models import variants


@pytest.fixture
def write(tmp_path):
    def make(body, name="c.py"):
        path = tmp_path / name
        path.write_text(
            "from clip_jax.config import defaults\n"
            f"def get_config():\n  c = defaults()\n  c.train.epochs = 1.0\n  {body}\n  return c\n"
        )
        return str(path)

    return make


FILES = [p.name for p in (Path(__file__).parents[1] / "configs").glob("[!_]*.py")]


@pytest.mark.parametrize("path", sorted(FILES))
def test_every_config_file_resolves(root, path):
    config = load(str(root / "configs" / path))
    assert config.is_locked
    assert json.loads(config_lib.to_json(config))["train"]["batch_size"] > 0


def test_the_defaults_are_the_papers_recipe(root):
    c = load(str(root / "configs" / "vit_b32.py"))
    o = c.optim
    assert (o.beta1, o.beta2, o.eps, o.weight_decay) == (0.9, 0.98, 1e-6, 0.2)
    assert (o.learning_rate, o.warmup_examples) == (5e-4, 2000 * 32768)
    assert (c.train.batch_size, c.train.epochs) == (32768, 32)
    assert c.data.augmentation == "square_crop"
    assert c.model.dtype == "bfloat16"


# Paper Tables 18 to 20: file, variant, resolution, learning rate, beta2, epsilon, epochs.
RECIPES = [
    ("rn50", "RN50", 224, 5e-4, 0.999, 1e-8, 32),
    ("rn101", "RN101", 224, 5e-4, 0.999, 1e-8, 32),
    ("rn50x4", "RN50x4", 288, 5e-4, 0.999, 1e-8, 32),
    ("rn50x16", "RN50x16", 384, 4e-4, 0.999, 1e-8, 32),
    ("rn50x64", "RN50x64", 448, 3.6e-4, 0.999, 1e-8, 32),
    ("vit_b32", "ViT-B/32", 224, 5e-4, 0.98, 1e-6, 32),
    ("vit_b16", "ViT-B/16", 224, 5e-4, 0.98, 1e-6, 32),
    ("vit_l14", "ViT-L/14", 224, 4e-4, 0.98, 1e-6, 32),
    ("vit_l14_336", "ViT-L/14@336", 336, 2e-5, 0.98, 1e-6, 1),
]


@pytest.mark.parametrize(("file", "variant", "size", "rate", "beta2", "eps", "epochs"), RECIPES)
def test_all_nine_recipes_are_the_papers(root, file, variant, size, rate, beta2, eps, epochs):
    c = load(str(root / "configs" / f"{file}.py"))
    assert c.model.variant == variant
    assert variants.resolve(c.model.to_dict()).vision.image_size == size
    o = c.optim
    assert (o.learning_rate, o.beta1, o.beta2, o.eps) == (rate, 0.9, beta2, eps)
    assert (o.weight_decay, o.warmup_examples) == (0.2, 2000 * 32768)
    assert (c.train.batch_size, c.train.epochs) == (32768, epochs)
    assert c.tokenizer.context_length == 77


def test_the_last_epoch_in_one_run_is_that_of_a_run_of_its_own(root):
    staged, last, first = (
        load(str(root / "configs" / f"{file}.py"))
        for file in ("vit_l14_staged", "vit_l14_336", "vit_l14")
    )
    stages = config_lib.Stages(staged, 400_000_000)
    sizes = [variants.resolve(s.config.model.to_dict()) for s in stages]
    assert sizes == [variants.resolve(c.model.to_dict()) for c in (first, last)]
    assert [s.config.optim for s in stages] == [first.optim, last.optim]
    assert [s.last_step - s.first_step for s in stages] == [
        config_lib.Stages(c, 400_000_000).total_steps for c in (first, last)
    ]
    assert stages[1].new_schedule


def test_a_file_outside_the_checkout_imports_a_recipe(root, tmp_path):
    """Also where nothing but ``clip_jax`` itself can be imported."""
    file = tmp_path / "configs" / "mine.py"
    file.parent.mkdir()
    file.write_text(
        "from configs import vit_l14\n"
        "def get_config():\n  c = vit_l14.get_config()\n  c.train.epochs = 2.0\n  return c\n"
    )
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "clip_jax").symlink_to(root / "clip_jax")
    code = (
        "from clip_jax.config import load; c = load('configs/mine.py'); "
        "print(c.model.variant, c.train.epochs, c.train.batch_size)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "only")},
    )  # fmt: skip
    assert run.stdout.split() == ["ViT-L/14", "2.0", "32768"]


def test_overrides_are_typed(write):
    path = write("pass")
    c = load(path, [
        ("optim.learning_rate", "1e-3"), ("train.batch_size", "64"), ("optim.eps", "1"),
        ("eval.evaluators", "('a', 'b')"), ("model.vision.width", "96"), ("data.path", "/x/*.tar"),
        ("model.scan_layers", "False"), ("data.cache_dir", "123"),
    ])  # fmt: skip
    assert c.optim.learning_rate == 1e-3
    assert c.train.batch_size == 64
    assert isinstance(c.optim.eps, float)
    assert list(c.eval.evaluators) == ["a", "b"]
    assert c.model.vision.width == 96
    assert c.model.scan_layers is False
    assert c.data.cache_dir == "123"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim.leraning_rate", "1", "did you mean 'optim.learning_rate'"),
        ("train.batch_size", "many", "train.batch_size=many: expected int"),
        ("train.batch_size", "0", "train.batch_size=0: must be positive"),
        ("model.remat_policy", "ful", "did you mean 'full'"),
        ("model.scan_layers", "yes", "model.scan_layers='yes': must be auto, True or False"),
        ("model.scan_layers", "1", "model.scan_layers=1: must be auto, True or False"),
        ("model.attention", "flash", "model.attention='flash': must be one of auto, xla, cudnn"),
        ("optim.beta2", "1.5", r"optim.beta2=1.5: must be in \[0, 1\)"),
        ("train.examples", "5", "set exactly one"),
        ("data.source", "tar", "data.path is empty"),
        ("optim.weight_decay", "-1", "0 or more"),
        ("optim.learning_rate", "None", "optim.learning_rate=None: must be a finite number"),
        ("optim.learning_rate", "1e999", "optim.learning_rate=inf: must be a finite number"),
        ("optim.muon_ns_steps", "True", "optim.muon_ns_steps=True: must be a whole number"),
        ("eval.evaluators", "(1, 2)", "must be TASK@DATA or a mapping"),
        ("eval.evaluators", "3", "must be TASK@DATA or a mapping"),
        ("seed", "-1", "seed=-1: must be in"),
        ("model.vision.num_heads", "0", "model.vision.num_heads=0: must be positive"),
        ("model.vision.num_layers", "0", "model.vision.num_layers=0: must be positive"),
        ("model.text.num_layers", "-1", "model.text.num_layers=-1: must be positive"),
        ("model.embed_dim", "0", "model.embed_dim=0: must be positive"),
        ("model.image_mean", "(0.5, 0.5)", r"model.image_mean=\[0.5, 0.5\]: must be three numbers"),
        ("model.image_mean", "(0.5, 0.5, 'x')", "model.image_mean=.*: must be three numbers"),
        ("model.image_std", "(0.5, 0.5, 0.0)", "model.image_std=.*: must be three numbers above 0"),
        ("model.vision.stem", "(8, 0)", r"model.vision.stem=\[8, 0\]: must be positive"),
    ],
)
def test_bad_overrides_name_key_and_fix(write, key, value, message):
    with pytest.raises(ConfigError, match=message):
        load(write("pass"), [(key, value)])


def test_unknown_key_in_a_file_names_the_nearest(write):
    with pytest.raises(
        ConfigError, match=r"optim.lerning_rate.*did you mean 'optim.learning_rate'"
    ):
        load(write("c.optim.lerning_rate = 1.0"))


def test_missing_file_names_the_nearest(write):
    path = write("pass", "vit_b32.py")
    with pytest.raises(ConfigError, match=r"no such file; did you mean .*vit_b32\.py"):
        load(path.replace("vit_b32", "vit_b23"))


def test_file_without_get_config(tmp_path):
    path = tmp_path / "c.py"
    path.write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"no function get_config\(\)"):
        load(str(path))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("c.optim.learning_rate = 'fast'", r"c.py:5: TypeError: .*learning_rate"),
        ("c.optim.learning_rate = None", "optim.learning_rate=None: must be a finite number"),
        ("c.optim.learning_rate =", r"c.py:5: SyntaxError: invalid syntax"),
        ("import no_such_package", r"c.py:5: ModuleNotFoundError: .*no_such_package"),
        ("c.nothing.here = 1", r"c.py:5: .*nothing"),
        ("c = None", r"c.py: get_config\(\) returns NoneType"),
        ("del c.optim.eps", r"c.py: no optim.eps; get_config\(\) must start from defaults"),
    ],
)
def test_errors_in_a_file_name_it_and_the_line(write, body, message):
    with pytest.raises(ConfigError, match=message):
        load(write(body))


def test_whole_numbers_do_for_numbers(write):
    config = load(write("c.optim.learning_rate = 1"), [("optim.learning_rate", "0.5")])
    assert config.optim.learning_rate == 0.5


def test_steps_follow_examples(write):
    c = load(write("pass"), [("train.batch_size", "100")])
    assert config_lib.Stages(c, 1000).total_steps == 10
    assert config_lib.Stages(c, 1001).total_steps == 11
    assert config_lib.Stages(c, 1000).steps(50) == 1


def test_differences_list_what_changes_a_run_and_nothing_else(write):
    path = write("pass")
    old = json.loads(config_lib.to_json(load(path)))
    free = load(path, [("mesh.fsdp", "8"), ("data.threads", "9"), ("log.every_steps", "1"),
                       ("checkpoint.keep", "9"), ("eval.every_examples", "7"),
                       ("data.path", "/moved/*.tar"), ("data.validation_path", "/v"),
                       ("train.max_consecutive_nonfinite", "3")])  # fmt: skip
    assert config_lib.differences(old, free) == []
    other = load(path, [("seed", "1"), ("optim.eps", "0.5")])
    assert config_lib.differences(old, other) == [
        "optim.eps: 1e-06 (this run) -> 0.5 (given)",
        "seed: 0 (this run) -> 1 (given)",
    ]


def test_a_key_newer_than_the_run_had_the_effect_of_its_default(write):
    path = write("pass")
    old = json.loads(config_lib.to_json(load(path)))
    del old["optim"]["text_lr_multiplier"], old["loss"]
    assert config_lib.differences(old, load(path)) == []
    assert config_lib.differences(old, load(path, [("optim.text_lr_multiplier", "0.5")])) == [
        "optim.text_lr_multiplier: 1.0 (this run) -> 0.5 (given)"
    ]
    old["optim"]["gone"] = 1
    assert config_lib.differences(old, load(path)) == ["optim.gone: 1 (this run) -> absent (given)"]


def test_what_changes_no_number_may_change_on_resume(write):
    path = write("pass")
    old = json.loads(config_lib.to_json(load(path)))
    changes = [
        ("train.num_microbatches", "4"),
        ("loss.implementation", "ring"),
        ("loss.chunk_size", "64"),
    ]
    assert config_lib.differences(old, load(path, changes)) == []


def test_every_default_has_a_type_that_json_keeps():
    c = defaults()
    assert config_lib.differences(json.loads(config_lib.to_json(c)), c) == []


@pytest.mark.parametrize(("old", "new"), config_lib.RENAMED.items())
def test_an_old_key_names_the_new_one(write, old, new):
    with pytest.raises(ConfigError, match=f"config key '{old}' is called '{new}' now"):
        load(write("pass"), [(old, "1")])
    assert new in KEYS and old not in KEYS


def test_choices_come_from_registries(write, monkeypatch):
    from clip_jax.data.pairs import registry

    with pytest.raises(ConfigError, match="data.source='mine': must be one of emoji, table, tar"):
        load(write("pass"), [("data.source", "mine")])
    monkeypatch.setitem(registry.SOURCES, "mine", registry.SOURCES["synthetic"])
    assert load(write("pass"), [("data.source", "mine")]).data.source == "mine"


def test_every_registry_is_there_and_has_the_default():
    for name, key in KEYS.items():
        assert key.problem(key.default if not isinstance(key.default, tuple) else []) is None, name


def test_the_table_of_keys_is_current(root):
    assert (root / "docs/config.md").read_text(encoding="utf-8") == table(KEYS), (
        "run: python -m clip_jax.config > docs/config.md"
    )
