"""CLIP ViT-B/16 as in the paper (section 2.5, Tables 18 to 20). See vit_b32.py.

python -m clip_jax.train --config=configs/vit_b16.py --workdir=/shared/runs/vit_b16 \
    --config.data.path='/data/shards/*.tar'
"""

from configs import vit_b32


def get_config():
    c = vit_b32.get_config()
    c.model.variant = "ViT-B/16"
    return c
