"""CLIP RN50x16 as in the paper (section 2.5, Tables 18 to 20). See rn50.py.

python -m clip_jax.train --config=configs/rn50x16.py --workdir=/shared/runs/rn50x16 \
    --config.data.path='/data/shards/*.tar'
"""

from configs import rn50


def get_config():
    c = rn50.get_config()
    c.model.variant = "RN50x16"
    c.optim.learning_rate = 4e-4
    return c
