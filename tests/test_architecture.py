"""The house rules that a machine can check: who may import whom, and what must never be there."""

import ast
import subprocess
import sys

import pytest

FLOORS = {
    0: ["atomic", "config", "config_values", "mesh", "cluster", "distributed", "integrity",
        "tokenizers", "data.sources", "data.table", "data.tar", "data.image_file",
        "data.preprocess", "data.preprocess_formats", "data.transforms", "data.drawing",
        "data.emoji",
        "data.emoji_pairs", "data.prompt_files", "data.labelled", "data.labelled_files",
        "data.labelled_shards", "data.labelled_tfds", "data.labelled_packages", "data.tfds_split",
        "data.groups", "data.selection", "metrics", "chips", "compiled"],
    1: ["models", "losses", "half", "optim", "data.loader"],
    2: ["state", "interop"],
    3: ["step", "gradients", "program", "checkpoint", "workdir", "pretrained"],
    4: ["evals"],
    5: ["api", "trainer", "results", "train", "evaluate", "aot", "convert", "pods", "probes",
        "benchmark"],
}  # fmt: skip
# Rooms without arrays on devices. (The loader is not among them: Grain imports jax itself.)
WITHOUT_JAX = ["config", "cluster", "distributed", "tokenizers", "data.sources", "data.table",
               "data.tar", "data.transforms", "data.emoji", "data.emoji_pairs",
               "data.preprocess_formats", "data.prompt_files", "data.labelled",
               "data.labelled_files", "data.labelled_shards", "data.labelled_tfds",
               "data.labelled_packages", "data.tfds_split", "data.groups", "data.selection",
               "metrics", "evals.data_sets",
               "evals.prompts.matching"]  # fmt: skip
FORBIDDEN = {"torch", "torchvision", "transformers", "tensorflow", "sklearn", "open_clip", "clip"}
COMPARES = {("probes", "sklearn")}  # benchmarks beside others


def modules(root):
    for path in sorted((root / "clip_jax").rglob("*.py")):
        parts = list(path.relative_to(root / "clip_jax").with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        yield ".".join(parts), ast.parse(path.read_text())


def imports(tree):
    """Full names of what a module imports anywhere, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(module):
    rooms = [
        (len(room), number)
        for number, names in FLOORS.items()
        for room in names
        if module == room or module.startswith(room + ".")
    ]
    return max(rooms)[1] if rooms else None


def test_every_module_has_a_floor(root):
    homeless = [m for m, _ in modules(root) if m and m not in ("data",) and floor(m) is None]
    assert homeless == []


def test_imports_point_down(root):
    wrong = []
    for module, tree in modules(root):
        for name in imports(tree):
            target = name.removeprefix("clip_jax.")
            if name.startswith("clip_jax.") and floor(module) is not None:
                below = floor(target)
                if below is not None and below > floor(module):
                    wrong.append(f"{module} (floor {floor(module)}) -> {target} (floor {below})")
    assert wrong == []


def test_no_other_framework(root):
    wrong = [
        f"{module}: {name}"
        for module, tree in modules(root)
        for name in imports(tree)
        if name.split(".")[0] in FORBIDDEN and (module, name.split(".")[0]) not in COMPARES
    ]
    assert wrong == []


def test_collectives_live_in_losses(root):
    wrong = []
    for module, tree in modules(root):
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        found = names & {"shard_map", "all_gather", "ppermute", "psum", "psum_scatter", "pmean"}
        if not module.startswith("losses") and found:
            wrong.append((module, found))
    assert wrong == []


def test_orbax_stays_in_checkpoint(root):
    users = {m for m, tree in modules(root) if any(n.startswith("orbax") for n in imports(tree))}
    assert users == {"checkpoint"}


def test_evals_do_not_know_the_training_state(root):
    secret = (
        "clip_jax.training.state",
        "clip_jax.training.step",
        "clip_jax.training.checkpoint",
        "clip_jax.training.optim",
    )
    wrong = [
        (module, name)
        for module, tree in modules(root)
        if module.startswith("evals")
        for name in imports(tree)
        if name.startswith(secret)
    ]
    assert wrong == []


@pytest.mark.parametrize("module", WITHOUT_JAX)
def test_imports_no_jax(module):
    code = (
        f"import clip_jax.{module}, sys; "
        "bad = {'jax', 'tensorflow', 'torch'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_catch_all_modules(root):
    names = {m.split(".")[-1] for m, _ in modules(root)}
    assert not names & {"utils", "util", "common", "helpers", "misc"}
