"""Measures open_clip: the same train step or encoding on the same inputs, when it is asked."""

import contextlib
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import open_clip
import torch

from clip_jax.benchmarks import inputs, paired


def _train(
    model: torch.nn.Module, compiled: torch.nn.Module, images: torch.Tensor, tokens: torch.Tensor,
    autocast: Callable[[], contextlib.AbstractContextManager],
) -> Callable[[], object]:  # fmt: skip
    loss_of = open_clip.ClipLoss(local_loss=False, gather_with_grad=False, cache_labels=True)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    # As open_clip's own trainer chooses.
    spared = [p for n, p in named if p.ndim < 2 or any(k in n for k in ("bn", "ln", "bias"))]
    ids = {id(p) for p in spared}
    decayed = [p for _, p in named if id(p) not in ids]
    groups = [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)

    def call() -> object:
        optimizer.zero_grad()
        with autocast():
            out = compiled(images, tokens)
            features = out if isinstance(out, dict) else dict(
                zip(("image_features", "text_features", "logit_scale"), out[:3], strict=True)
            )  # fmt: skip
            loss = loss_of(*(features[k] for k in
                             ("image_features", "text_features", "logit_scale")))  # fmt: skip
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(100)))
        return loss

    return call


def main(task: paired.JsonDict) -> None:
    """Serves one task: model_cfg, what, batch, captions, dtype, compile."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    model = open_clip.CLIP(**_arguments(task["model_cfg"])).to(device)
    compiled = torch.compile(model) if task["compile"] else model
    size, length = task["model_cfg"]["vision_cfg"]["image_size"], task["context_length"]
    pixels = torch.from_numpy(inputs.images(task["batch"], size)).permute(0, 3, 1, 2)
    images = pixels.contiguous().to(device).float().div_(127).sub_(1)
    tokens = torch.from_numpy(inputs.tokens(task["batch"], length, task["captions"])).long()
    tokens = tokens.to(device)

    def autocast() -> contextlib.AbstractContextManager:
        if task["dtype"] == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=torch.bfloat16)

    if task["what"] == "step":
        call = _train(model, compiled, images, tokens, autocast)
    else:
        model.eval()
        encode = model.encode_image if task["what"] == "images" else model.encode_text
        encode = torch.compile(encode) if task["compile"] else encode
        given = images if task["what"] == "images" else tokens

        def call() -> object:
            with torch.no_grad(), autocast():
                return encode(given, normalize=True)

    def calls(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    paired.serve({"compile_seconds": calls(1)}, calls, lambda: _memory(device))


def _arguments(model_cfg: paired.JsonDict) -> paired.JsonDict:
    known = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")
    return {k: model_cfg[k] for k in known}


def _memory(device: str) -> paired.JsonDict:
    if device == "cuda":
        return {"peak_bytes": torch.cuda.max_memory_allocated()}
    import resource

    return {"peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
