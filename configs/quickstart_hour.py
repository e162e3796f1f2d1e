"""The quickstart with an hour's patience: larger images, a deeper image tower, more pairs.

python -m clip_jax.train --config=configs/quickstart_hour.py
"""

from configs import quickstart


def get_config():
    c = quickstart.get_config()
    c.model.vision.image_size = 64  # 16 patches in place of 9
    c.model.vision.num_layers = 2
    c.train.examples = 1_050_000
    c.optim.warmup_examples = 60_000
    c.optim.ema_decay = 0.999
    c.eval.every_examples = 150_000
    c.checkpoint.every_examples = 150_000
    return c
