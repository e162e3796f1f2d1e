"""Rules of the layout that a machine can check: who imports whom, and what must never be there."""

import ast
import collections
import subprocess
import sys

import pytest

# A module may import from its own layer and the ones before it. The longest matching name counts.
LAYERS = [
    ["runtime", "cli", "lazy", "config", "analysis", "tokenizers"],
    ["data", "models", "losses"],
    ["interop", "evals"],
    ["training", "report"],
    ["pretrained", "compiled"],
    ["api"],
    ["benchmarks", "train", "evaluate", "evaluation", "convert", "aot", "benchmark"],
]
# Packages that work without arrays on devices. (The loader is not among them: Grain imports jax.)
WITHOUT_JAX = [
    "config", "runtime.cluster", "runtime.distributed", "tokenizers", "data.pairs.registry",
    "data.emoji.drawings", "data.table_rows", "data.tar_index", "data.transforms",
    "data.emoji.builder", "data.preprocess_formats", "data.tfds_split", "data.test_sets.registry",
    "data.test_sets.webdataset", "data.test_sets.tfds", "data.test_sets.packages",
    "data.test_sets.prompt_files", "data.test_sets.selection", "training.metric_writer",
    "evals.datasets.locate", "evals.datasets.prompts.matching", "aot", "benchmark",
    "benchmarks.recipes",
]  # fmt: skip
FORBIDDEN = {"torch", "torchvision", "transformers", "tensorflow", "sklearn", "open_clip", "clip"}
BENCHMARKS = "benchmarks"  # the one package that may import what it is compared with
MOST_MODULES = 15  # in one folder


def modules(root):
    """Dotted name below clip_jax and syntax tree of every module; of packages their __init__."""
    for path in sorted((root / "clip_jax").rglob("*.py")):
        parts = list(path.relative_to(root / "clip_jax").with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        yield ".".join(parts), ast.parse(path.read_text(encoding="utf-8"))


def imports(tree):
    """Full names of what a module imports anywhere, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph(root):
    """Module -> modules of the package that it imports."""
    trees = dict(modules(root))
    graph = {}
    for module, tree in trees.items():
        names = {n.removeprefix("clip_jax.") for n in imports(tree) if n.startswith("clip_jax.")}
        names = {n for n in names if n in trees and n != module}
        # `from package import module` names the package only as a way to the module.
        graph[module] = {
            n for n in names if not any(o != n and o.startswith(n + ".") for o in names)
        }
    return graph


def circles(graph):
    """The strongly connected components of more than one node (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            part = set()
            while node not in part:
                part.add(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def layer(module):
    """The number of a module's layer, or None where it has none."""
    matches = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return max(matches)[1] if matches else None


def test_every_module_has_a_layer(root):
    assert [m for m, _ in modules(root) if m and layer(m) is None] == []


def test_imports_point_down(root):
    wrong = [
        f"{module} (layer {layer(module)}) -> {target} (layer {layer(target)})"
        for module, targets in import_graph(root).items()
        for target in sorted(targets)
        if module and target and layer(target) > layer(module)
    ]
    assert wrong == []


def test_no_import_circles(root):
    assert circles(import_graph(root)) == []


def test_no_circles_between_packages(root):
    """Sub-packages, too, import one another in one direction only."""
    graph = collections.defaultdict(set)
    for module, targets in import_graph(root).items():
        package = module.split(".")[0]
        graph[package] |= {t.split(".")[0] for t in targets} - {package}
    for targets in list(graph.values()):
        for target in targets:
            graph[target]
    graph.pop("", None)
    assert circles({k: v - {""} for k, v in graph.items()}) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_folders_are_small(root):
    folders = collections.Counter(p.parent for p in (root / "clip_jax").rglob("[!_]*.py"))
    crowded = {str(k.relative_to(root)): n for k, n in folders.items() if n > MOST_MODULES}
    assert crowded == {}


def test_no_other_framework(root):
    wrong = [
        f"{module}: {name}"
        for module, tree in modules(root)
        for name in imports(tree)
        if name.split(".")[0] in FORBIDDEN and module.split(".")[0] != BENCHMARKS
    ]
    assert wrong == []


def test_collectives_live_in_losses(root):
    wrong = []
    for module, tree in modules(root):
        names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        used = names & {"shard_map", "all_gather", "ppermute", "psum", "psum_scatter", "pmean"}
        if not module.startswith("losses") and used:
            wrong.append((module, used))
    assert wrong == []


def test_orbax_stays_in_checkpoint(root):
    users = {m for m, tree in modules(root) if any(n.startswith("orbax") for n in imports(tree))}
    assert users == {"training.checkpoint"}


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
