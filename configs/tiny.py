"""A model of toy size on generated images: seconds to train, for tests and for trying things out.

python -m clip_jax.train --config=configs/tiny.py
"""

from clip_jax.config import defaults


def get_config():
    c = defaults()
    c.model.variant = "ViT-Test/8"
    c.model.dtype = "float32"
    c.tokenizer.name = "sentencepiece"
    c.tokenizer.context_length = 12
    c.tokenizer.vocab_size = 32
    c.data.source = "synthetic"
    c.train.batch_size = 32
    c.train.examples = 32 * 40
    c.optim.learning_rate = 3e-3
    c.optim.warmup_examples = 32 * 4
    c.eval.evaluators = {"retrieval": {"task": "retrieval", "data": "validation"}}
    c.eval.limit = 56
    c.eval.every_examples = 32 * 20
    c.eval.batch_size = 64
    c.checkpoint.every_examples = 32 * 10
    return c
