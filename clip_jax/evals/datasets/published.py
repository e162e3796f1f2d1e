"""Published results of OpenAI's nine models, to lay beside a result of the same protocol.

``published.csv`` has the paper's zero-shot results (Table 11), linear probes (Table 10, five of the
models) and retrieval (Table 13), all by protocol ``paper``, and what open_clip measured with the
same weights by DataComp's protocol (its docs/openclip_results.csv, openclip_retrieval_results.csv).
The paper's are transcriptions. Of the zero-shot top-1 and the probes there are two, which agree in
every value that is here (probes of STL-10 on which they do not are left out); of retrieval and of
ImageNet's top-5 there is one.
"""

import csv
import functools
from pathlib import Path
from typing import NamedTuple

TASKS = ("zero_shot", "linear_probe", "retrieval")


class Published(NamedTuple):
    """One number: ``value`` of ``metric``, 0 to 1; the dataset as in the catalog."""

    model: str
    data_set: str
    task: str
    protocol: str
    metric: str
    value: float
    source: str


@functools.cache
def everything() -> tuple[Published, ...]:
    """All published numbers, in the order of the file."""
    with open(Path(__file__).with_name("published.csv"), encoding="utf-8", newline="") as file:
        rows = [row | {"value": float(row["value"])} for row in csv.DictReader(file)]
    return tuple(Published(**row) for row in rows)


def published(
    data_set: str = "", task: str = "", protocol: str = "", model: str = "", metric: str = ""
) -> list[Published]:
    """The numbers whose fields are those given; "" is any."""
    wanted = dict(data_set=data_set, task=task, protocol=protocol, model=model, metric=metric)
    given = {key: value for key, value in wanted.items() if value}
    return [row for row in everything() if all(getattr(row, k) == v for k, v in given.items())]
