"""CLIP ViT-L/14@336px as in the paper (section 2.5, Table 20): one more epoch, at 336 px.

python -m clip_jax.train --config=configs/vit_l14_336.py --workdir=/shared/runs/vit_l14_336 \
    --config.model.init_from=/shared/runs/vit_l14 --config.data.path='/data/shards/*.tar'
"""

from configs import vit_l14


def get_config():
    c = vit_l14.get_config()
    c.model.variant = "ViT-L/14@336"
    c.model.init_from = "runs/vit_l14"
    c.train.epochs = 1.0
    c.optim.learning_rate = 2e-5
    return c
