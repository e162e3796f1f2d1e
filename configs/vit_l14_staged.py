"""CLIP ViT-L/14@336px in one run: the paper's 32 epochs at 224 px, then one at 336 px.

python -m clip_jax.train --config=configs/vit_l14_staged.py --workdir=/shared/runs/vit_l14 \
    --config.data.path='/data/shards/*.tar'
"""

from configs import vit_l14


def get_config():
    c = vit_l14.get_config()
    c.train.epochs = 0.0
    # The learning rate of the last epoch is not in the paper.
    c.train.stages = (
        {"epochs": 32.0},
        {"epochs": 1.0, "image_size": 336, "learning_rate": 2e-5},
    )
    return c
