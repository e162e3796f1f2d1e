"""Prints the table of all config keys: python -m clip_jax.config > docs/config.md"""

from collections.abc import Mapping

from clip_jax.config.keys import KEYS, Key


def table(keys: Mapping[str, Key]) -> str:
    """``docs/config.md``: a Markdown table of keys."""
    rows = [
        "# Config keys",
        "",
        "Printed by `python -m clip_jax.config`. A config file sets what differs from the",
        "defaults, and `--config.key=value` overrides both. A default of None stands for what the",
        "model's variant says.",
        "",
        "| key | default | meaning | may change on resume |",
        "|---|---|---|---|",
    ]
    for name, key in keys.items():
        check = f"; {key.check.words}" if key.check else ""
        free = "yes" if key.free_on_resume else ""
        rows.append(f"| `{name}` | `{key.default!r}` | {key.meaning}{check} | {free} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(KEYS), end="")
