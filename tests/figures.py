"""Figures on the size and shape of the code: ``python tests/figures.py [CHECKOUT ...]``.

One column for each checkout, this one by default. With two, before and after stand side by side.
"""

import ast
import pathlib
import statistics
import sys

from test_architecture import circles, import_graph

MOST_LINES, MOST_PARAMETERS = 60, 8
# Where the reports' code was before it had a package of its own.
REPORTS = ("report*.py", "gallery.py", "titles.py", "suite_*report.py", "suite_people.py",
           "suite_gallery.py", "suite_plots.py", "suite_tables.py", "suite_shifts.py",
           "suite_search.py", "suite_words.py")  # fmt: skip


def lines(path):
    """The number of lines of a text file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(tree):
    """Every function and method of a module, nested ones too."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def arguments(function):
    """A function's parameters, without self and cls."""
    a = function.args
    found = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
    return [x for x in found if x.arg not in ("self", "cls")]


def names_any(function):
    """Whether ``Any`` stands in a function's signature."""
    annotations = [x.annotation for x in arguments(function)] + [function.returns]
    return any(
        isinstance(node, ast.Name) and node.id == "Any"
        for annotation in annotations
        if annotation is not None
        for node in ast.walk(annotation)
    )


def report_lines(package):
    """Lines of the code, templates and styles that make the reports."""
    folder = package / "report"
    if folder.is_dir():
        files = [p for p in folder.rglob("*") if p.suffix in (".py", ".html", ".css", ".js")]
    else:
        files = {p for pattern in REPORTS for p in package.rglob(pattern)}
    return sum(map(lines, files))


def figures(root):
    """Name -> figure, of the package in a checkout."""
    package = root / "clip_jax"
    sizes = {p.relative_to(package): lines(p) for p in package.rglob("*.py")}
    longest = max(sizes, key=sizes.get)
    found = [f for p in sizes for f in functions(ast.parse((package / p).read_text("utf-8")))]
    folders = [sum(1 for _ in d.glob("*.py")) for d in {p.parent for p in package.rglob("*.py")}]
    return {
        "modules": len(sizes),
        "most modules in one folder": max(folders),
        "modules at the top": sum(len(p.parts) == 1 for p in sizes),
        "median lines of a module": f"{statistics.median(sizes.values()):.0f}",
        "longest module": f"{sizes[longest]} ({longest})",
        f"functions over {MOST_LINES} lines": sum(
            f.end_lineno - f.lineno + 1 > MOST_LINES for f in found
        ),
        f"functions over {MOST_PARAMETERS} parameters": sum(
            len(arguments(f)) > MOST_PARAMETERS for f in found
        ),
        "functions with Any in the signature": sum(map(names_any, found)),
        "import circles": len(circles(import_graph(root))),
        "lines of the reports": report_lines(package),
        "lines in all": sum(sizes.values()),
    }


def main(roots):
    """Prints a table in Markdown."""
    columns = [figures(root) for root in roots]
    print("| | " + " | ".join(root.resolve().name for root in roots) + " |")
    print("| --- |" + " --- |" * len(roots))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(str(c[name]) for c in columns) + " |")


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parents[1]
    main([pathlib.Path(x) for x in sys.argv[1:]] or [here])
