"""The pictures of the report: what the model says about some of the evaluation pictures."""

from collections.abc import Sequence

import numpy as np

from clip_jax.evals.embedder import Embedder
from clip_jax.evals.metrics import zero_shot
from clip_jax.evals.tasks.in_training import RetrievalTask, Task, Tokenize, ZeroShotTask
from clip_jax.report import run_page


def _spread(n: int, count: int) -> list[int]:
    """``count`` of ``n`` numbers, spread evenly: a choice that nobody made by looking."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(count, n)).round()})


def predictions(
    task: ZeroShotTask, embedder: Embedder, tokenize: Tokenize, scale: float, count: int = 12
) -> list[run_page.Prediction]:
    """The five most probable classes of some of a task's pictures."""
    rows = _spread(len(task.images), count)
    weights = task.class_weights(embedder, tokenize)
    best, probs = zero_shot.predict(
        embedder.images(task.images[rows]), weights, k=5, logit_scale=scale
    )
    return [
        run_page.Prediction(
            task.images[row],
            task.class_names[task.labels[row]],
            [(task.class_names[c], float(p)) for c, p in zip(best[i], probs[i], strict=True)],
        )
        for i, row in enumerate(rows)
    ]


def similarity(
    task: RetrievalTask, embedder: Embedder, tokenize: Tokenize, count: int = 10
) -> run_page.Similarity:
    """Cosines between some of a task's pictures and their texts."""
    texts = _spread(len(task.texts), count)
    captions = [task.texts[j] for j in texts]
    images = task.images[task.image_of_text[texts]]
    matrix = embedder.texts(tokenize(captions)) @ embedder.images(images).T
    return run_page.Similarity(list(images), captions, matrix)


def queries(
    task: RetrievalTask, embedder: Embedder, tokenize: Tokenize, count: int = 4, answers: int = 5
) -> tuple[list[run_page.TextQuery], list[run_page.ImageQuery]]:
    """What some texts and some pictures of a task find, best first."""
    images = zero_shot.embed_images(embedder, task.images)
    texts = embedder.texts(tokenize(task.texts))
    of_text, of_image = [], []
    for j in _spread(len(task.texts), count):
        best = np.argsort(-(images @ texts[j]), kind="stable")[:answers]
        right = task.image_of_text[j]
        of_text.append(
            run_page.TextQuery(task.texts[j], [(task.images[i], bool(i == right)) for i in best])
        )
    for i in _spread(len(task.images), count + 1)[1:]:
        best = np.argsort(-(texts @ images[i]), kind="stable")[:answers]
        of_image.append(
            run_page.ImageQuery(
                task.images[i], [(task.texts[j], bool(task.image_of_text[j] == i)) for j in best]
            )
        )
    return of_text, of_image


# What a reader looks for first; the report's tiles show the first four results.
_FIRST = ("top1", "image_to_text_r@1", "text_to_image_r@1")


def results(tasks: Sequence[Task], values: dict[str, dict[str, float]]) -> list[run_page.Result]:
    """The final numbers as rows of the report, the ones a reader looks for first in front."""
    rows = []
    for task in tasks:
        found = values[task.name]
        for metric, value in found.items():
            if metric == "n" or metric.endswith("_ci95"):
                continue
            ci, baseline = found.get(f"{metric}_ci95"), task.baselines.get(metric)
            rows.append(run_page.Result(task.name, metric, value, int(found["n"]), ci, baseline))
    return sorted(rows, key=lambda r: r.metric not in _FIRST)


def build(
    title: str,
    summary: Sequence[tuple[str, object]],
    curves: Sequence[dict],
    tasks: Sequence[Task],
    values: dict[str, dict[str, float]],
    embedder: Embedder,
    tokenize: Tokenize,
    scale: float,
) -> run_page.ReportData:
    """Everything the report shows. Runs on every process; one of them writes it."""
    zero, pairs = (
        next((t for t in tasks if isinstance(t, kind)), None)
        for kind in (ZeroShotTask, RetrievalTask)
    )
    of_text, of_image = queries(pairs, embedder, tokenize) if pairs else ([], [])
    return run_page.ReportData(
        title=title,
        config_summary=summary,
        curves=curves,
        results=results(tasks, values),
        similarity=similarity(pairs, embedder, tokenize) if pairs else None,
        predictions=predictions(zero, embedder, tokenize, scale) if zero else (),
        text_to_image=of_text,
        image_to_text=of_image,
    )
