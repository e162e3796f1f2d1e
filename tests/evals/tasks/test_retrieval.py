"""Retrieval as a task: the prefix and the metric of a protocol."""

from colours import run

from clip_jax.evals.types import EvalSettings


def test_retrieval_and_its_prefix(folders):
    data = [f"csv:{folders}/captions.csv"]
    (paper,) = run(folders, data=[f"Flickr30k={data[0]}"])
    assert paper.task == "retrieval" and paper.n == 12 and paper.dataset == "Flickr30k"
    assert paper.templates == ["a photo of {}"]
    assert paper.metrics["image_to_text_r@10"] == 1
    (own,) = run(folders, data=data)
    assert own.templates == ["{}"] and own.main_metric == paper.main_metric
    (other,) = run(folders, data=data, settings=EvalSettings(protocol="datacomp"))
    assert other.templates == ["{}"] and other.main_metric == "mean_r@1"
