"""CLIP RN101 as in the paper (section 2.5, Tables 18 to 20). See rn50.py.

python -m clip_jax.train --config=configs/rn101.py --workdir=/shared/runs/rn101 \
    --config.data.path='/data/shards/*.tar'
"""

from configs import rn50


def get_config():
    c = rn50.get_config()
    c.model.variant = "RN101"
    return c
