"""What an installed package has to have besides its modules."""

import ast


def test_every_data_file_is_installed(root):
    setup = ast.parse((root / "setup.py").read_text(encoding="utf-8"))
    (patterns,) = (
        ast.literal_eval(keyword.value)
        for call in ast.walk(setup)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "package_data"
    )
    installed = {
        path
        for package, names in patterns.items()
        for name in names
        for path in (root / package.replace(".", "/")).glob(name)
    }
    files = {p for p in (root / "clip_jax").rglob("*") if p.is_file()}
    assert {p for p in files if p.suffix not in (".py", ".pyc")} - installed == set()
