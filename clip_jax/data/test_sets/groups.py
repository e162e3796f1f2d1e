"""Groups of images: what each is annotated with besides its class, such as an age or a gender."""

from collections.abc import Mapping, Sequence

from clip_jax.data.errors import DataError
from clip_jax.runtime.digests import Json

Groups = Mapping[str, Sequence[str]]


def checked(groups: Groups, n: int, location: str) -> dict[str, tuple[str, ...]]:
    """Groups as they may be: attribute -> the group of each of n images.

    Raises:
      DataError: a number of groups other than n, a group that is no text, or one called "all",
        which is what all groups together are called.
    """
    checked_groups = {}
    for attribute, values in groups.items():
        values = tuple(values)
        if len(values) != n:
            raise DataError(
                f"{location}: groups[{attribute!r}] has {len(values)} entries, but there are {n} "
                "images"
            )
        for i, value in enumerate(values):
            if not isinstance(value, str) or not value or value == "all":
                raise DataError(
                    f"{location}: groups[{attribute!r}] is {value!r} for image {i}, not the name "
                    "of a group ('all' is what all groups together are called)"
                )
        checked_groups[str(attribute)] = tuple(map(str, values))
    return checked_groups


def taken(groups: Groups, rows: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """The groups of some of the images, in the order of ``rows``."""
    return {attribute: tuple(values[i] for i in rows) for attribute, values in groups.items()}


def of_rows(
    rows: Sequence[tuple[str, Mapping[str, Json]]], keys: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The groups in columns of a table.

    Args:
      rows: where each row lies, for messages, and the row.
      keys: columns, each an attribute; a cell is a text or a whole number.

    Raises:
      DataError: a column is missing, or a cell is empty or no name of a group.
    """
    columns = {}
    for key in keys:
        values = []
        for location, row in rows:
            if key not in row:
                raise DataError(
                    f"{location}: no column {key!r}; the row has {sorted(filter(None, row))}. Name "
                    "columns of the table in group_keys"
                )
            value = row[key]
            whole = isinstance(value, str | int) and not isinstance(value, bool)
            text = str(value).strip() if whole else ""
            if not text or text == "all":
                raise DataError(
                    f"{location}: {key!r} is {value!r}, not the name of a group; name one in every "
                    "row, or leave the row out ('all' is what all groups together are called)"
                )
            values.append(text)
        columns[key] = tuple(values)
    return columns
