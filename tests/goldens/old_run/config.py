"""The config of the stored run, in the names of today."""

from clip_jax.config import defaults


def get_config():
    c = defaults()
    c.seed = 7
    c.model.variant = "ViT-Test/8"
    c.model.dtype = "float32"
    c.model.scan_layers = False
    c.model.remat_policy = "dots"
    c.model.vision.num_heads = 2
    c.model.vision.num_layers = 1
    c.model.vision.pool = "cls"
    c.model.text.num_heads = 2
    c.model.text.num_layers = 1
    c.tokenizer.name = "sentencepiece"
    c.tokenizer.context_length = 12
    c.tokenizer.vocab_size = 32
    c.data.source = "synthetic"
    c.loss.implementation = "all_gather"
    c.loss.chunk_size = 16
    c.train.batch_size = 32
    c.train.examples = 32 * 6
    c.train.num_microbatches = 2
    c.optim.learning_rate = 3e-3
    c.optim.moment_dtype = "bfloat16"
    c.model.text.param_dtype = "bfloat16"
    c.optim.text_lr_multiplier = 0.5
    c.optim.grad_clip_norm = 1.0
    c.optim.ema_decay = 0.5
    c.optim.warmup_examples = 32 * 2
    c.eval.evaluators = ("retrieval",)
    c.eval.limit = 56
    c.eval.batch_size = 64
    c.checkpoint.every_examples = 32 * 3
    c.log.every_steps = 1
    c.log.tensorboard = False
    c.log.report = False
    c.data.workers = 0  # the default of its time
    return c
