"""CLIP RN50 as in the paper (section 2.5, Tables 18 to 20). See vit_b32.py.

python -m clip_jax.train --config=configs/rn50.py --workdir=/shared/runs/rn50 \
    --config.data.path='/data/shards/*.tar'
"""

from configs import vit_b32


def get_config():
    c = vit_b32.get_config()
    c.model.variant = "RN50"
    # A ResNet's Adam (Table 18).
    c.optim.beta2 = 0.999
    c.optim.eps = 1e-8
    return c
