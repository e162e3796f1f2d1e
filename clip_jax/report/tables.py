"""Tables with many columns: on a narrow screen each row is a card with named values."""

from collections.abc import Sequence

from clip_jax.report.parts import escaped


def folding(head: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Returns a card with the table.

    Args:
      head, columns: text above the row names and above each of the values, escaped here.
      rows: HTML of a row's name, and of its values, one a column; "" where there is none.
    """
    heads = "".join(
        f'<th scope="col" role="columnheader">{escaped(name)}</th>' for name in (head, *columns)
    )
    # Roles, because a narrow screen lays rows out as grids, and that drops the implied ones.
    body = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{name}</th>'
        + "".join(
            f'<td role="cell" data-head="{escaped(column)}">{value}</td>'
            for column, value in zip(columns, values, strict=True)
        )
        + "</tr>"
        for name, values in rows
    )
    return (
        '<div class="card folding"><table role="table"><thead role="rowgroup"><tr role="row">'
        f'{heads}</tr></thead><tbody role="rowgroup">{body}</tbody></table></div>'
    )


def valued(value: str, small: str = "") -> str:
    """Returns a cell's value with, below it, what else belongs to it; both are text."""
    return f"{escaped(value)}" + (f'<div class="small">{escaped(small)}</div>' if small else "")


def points(difference: float) -> str:
    """Returns a difference of two shares in points, `+1.2`, or `0.0` without a sign."""
    shown = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if shown in ("+0.0", "−0.0") else shown
