"""What the documentation names exists: config keys, flags, modules and files."""

import ast
import contextlib
import importlib.util
import json
import re

import pytest

from clip_jax import config, evaluation
from clip_jax.analysis import chips
from clip_jax.config import keys
from clip_jax.models import flops, variants

KEY = re.compile(r"--config\.((?!key)[a-z_0-9]+(?:\.[a-z_0-9]+)*)")
GROUP_KEY = re.compile(r"`([a-z]+\.[a-z_0-9.]*[a-z_0-9])(?:=[^`]*)?`")
MODULE = re.compile(r"-m (clip_jax[\w.]*)|from (clip_jax[\w.]*) import|import (clip_jax[\w.]*)")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]+)")
FILES = (".py", ".md", ".html", ".json", ".jsonl", ".npz", ".css", ".pt", ".bin", ".npy", ".txt")


@pytest.fixture(scope="module")
def pages(root):
    """Path -> text of every page that people read."""
    paths = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md")),
             root / "launch" / "README.md"]  # fmt: skip
    return {path: path.read_text(encoding="utf-8") for path in paths}


def places(pages, pattern):
    """(page's name, what a pattern found there), once each."""
    return sorted({
        (path.name, next(filter(None, match.groups())))
        for path, text in pages.items()
        for match in pattern.finditer(text)
    })  # fmt: skip


def test_every_key_exists(pages):
    known = set(keys.flatten(keys.defaults()))
    groups = {key.rpartition(".")[0] for key in known}
    named = places(pages, KEY)
    named += [
        (page, name)
        for page, name in places(pages, GROUP_KEY)
        if name.split(".")[0] in groups and not name.endswith(FILES)
    ]
    assert [x for x in named if x[1] not in known | groups] == []
    assert len(named) > 40


def test_every_module_exists(pages):
    named = places(pages, MODULE)
    assert [x for x in named if importlib.util.find_spec(x[1]) is None] == []
    assert len(named) > 10


def test_every_python_example_imports_what_exists(pages):
    blocks = [b for text in pages.values() for b in re.findall(r"```python\n(.*?)```", text, re.S)]
    named = [
        (node.module, alias.name)
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("clip_jax")
        for alias in node.names
    ]
    for module, name in named:
        package = importlib.import_module(module)
        assert hasattr(package, name) or importlib.util.find_spec(f"{module}.{name}"), name
    assert len(blocks) > 4 and len(named) > 3


def test_every_flag_of_the_evaluation_exists(root):
    text = (root / "docs" / "evaluation.md").read_text(encoding="utf-8")
    others = {"--config", "--no-deps"}
    named = set(FLAG.findall(text)) - others
    assert named - set(evaluation.parser()._option_string_actions) == set()
    assert len(named) > 10


@pytest.mark.parametrize(
    ("module", "name"),
    [("train", ""), ("convert", ""), ("aot", ""), ("benchmark", "step"), ("benchmark", "input"),
     ("tokenizers.train", "")],
)  # fmt: skip
def test_every_flag_of_a_command_exists(pages, module, name, capsys):
    """In commands of one or several lines, here and in the launchers' documentation."""
    with contextlib.suppress(SystemExit):
        main = importlib.import_module(f"clip_jax.{module}").main
        main([name, "--help"] if name else ["--help"])
    known = set(FLAG.findall(capsys.readouterr().out))
    start = rf"-m clip_jax\.{re.escape(module)}\b" + (rf" {name}\b" if name else "")
    command = re.compile(rf"{start}((?:[^\n`]*\\\n)*[^\n`]*)")
    named = {
        (path.name, flag)
        for path, text in pages.items()
        for flags in command.findall(text)
        for flag in FLAG.findall(flags.partition("#")[0])
    }
    assert {x for x in named if x[1] not in known} == set()
    assert known and named


def test_figures_of_benchmarks_are_those_of_their_files(root):
    """Medians and quartiles are not typed; see ``benchmarks/results``."""
    text = (root / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    folder = root / "benchmarks" / "results"
    results = {p.stem: json.loads(p.read_bytes())["results"] for p in folder.glob("*.json")}
    for name in ("small", "small-emoji", "vit-b32", "vit-b32-emoji"):
        low, middle, high = results[f"step-{name}-2-cores"][0]["ratio"]
        assert f"| {middle:.2f} ({low:.2f} to {high:.2f})" in text, name
    start = [results["start-quickstart-2-cores"][k]["all"][1] for k in ("empty", "full")]
    assert "{:.1f} s, {:.1f} s after the launch".format(*start) in text
    small, large = (results[f"input-{size}-2-cores"] for size in ("500x375", "1500x1125"))
    share = {
        (size, name): f"{r[name]['of_bare_by_cpu'][1]:.2f}"
        for size, r in (("small", small), ("large", large))
        for name in r if name not in ("parts", "differences", "needed")
    }  # fmt: skip
    order, cold, full = "clip_jax, random order", "clip_jax, empty cache", "clip_jax, full cache"
    warm, small_records, cold_records, empty, again = (
        f"{results[f'{name}-2-cores'][method]['ratio_by_cpu'][1]:.2f}"
        for name, method in (
            ("read-50000", order), ("read-100", order), ("read-50000-cold", order),
            ("tokenize-emoji", cold), ("tokenize-emoji", full),
        )
    )  # fmt: skip
    draft, fast = "bare decoding, draft", "bare decoding, fast"
    for words in (
        f"{share['small', '1 thread(s)']} with one, {share['small', '2 thread(s)']} with two",
        f"| input by two workers, likewise | {share['small', '2 worker(s)']} |",
        f"{warm} and {small_records} times webdataset's stream in order",
        f"cold page cache, 50,000 bytes | {cold_records} |",
        f"{empty}, {again} times open_clip's speed by CPU time",
        f"{share['large', draft]} times Pillow",
        f"{share['large', fast]} and {share['small', fast]} times Pillow by CPU time",
    ):
        assert words in text


def test_the_table_of_recipes_is_what_the_compiler_said(root):
    text = (root / "docs" / "pods.md").read_text(encoding="utf-8")
    files = sorted((root / "benchmarks" / "results" / "aot").glob("*.json"))
    assert files
    for path in files:
        r = json.loads(path.read_bytes())
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{path.stem}` | v"))
        _, slice_, _, before, policy, gib, of, work, received, least, mfu = row.strip("| ").split(
            " | "
        )
        assert slice_ == r["topology"]
        policy = policy.strip("`")
        words = "nothing recomputed" if policy == "none" else f"remat_policy {policy}"
        assert f"layers unrolled, {words}, xla attention" in r["execution"]
        assert (gib, of) == tuple(f"{n / 2**30:.2f}" for n in (r["memory"]["total"], r["capacity"]))
        assert work == f"{r['flops'] / 1e12:.1f}"
        assert received == f"{r['received'] / 1e6:,.0f}"
        assert least == f"{1e3 * r['step_seconds']:,.0f} ms" and mfu == f"{r['best_mfu']:.0%}"
        # The plan of least memory computes each block once more in its backward pass.
        model = variants.resolve(config.load(root / "configs" / f"{path.stem}.py").model)
        work = flops.training(model, r["batch"]) + r["batch"] * flops.recomputed(model, "full")
        seconds = work / r["devices"] / chips.CHIPS[slice_.partition(":")[0]].flops
        assert before == f"{1e3 * seconds:,.0f} ms"


def test_every_link_leads_somewhere(pages):
    broken = [
        (path.name, link)
        for path, text in pages.items()
        for link in LINK.findall(text)
        if not (path.parent / link).exists()
    ]
    assert broken == []


def test_every_page_is_reachable(root):
    """From the start page, the README or another page."""
    texts = [p.read_text(encoding="utf-8") for p in (root / "docs").glob("*.md")]
    links = {link for text in texts for link in LINK.findall(text)}
    assert {p.name for p in (root / "docs").glob("*.md")} - links == {"README.md"}
