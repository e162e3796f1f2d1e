"""CLIP RN50x4 as in the paper (section 2.5, Tables 18 to 20). See rn50.py.

python -m clip_jax.train --config=configs/rn50x4.py --workdir=/shared/runs/rn50x4 \
    --config.data.path='/data/shards/*.tar'
"""

from configs import rn50


def get_config():
    c = rn50.get_config()
    c.model.variant = "RN50x4"
    return c
