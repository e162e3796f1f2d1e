"""CLIP RN50x64 as in the paper (section 2.5, Tables 18 to 20). See vit_b32.py.

python -m clip_jax.train --config=configs/rn50x64.py --workdir=/shared/runs/rn50x64 \
    --config.data.path='/data/shards/*.tar'
"""

import runpy
from pathlib import Path


def get_config():
    c = runpy.run_path(str(Path(__file__).with_name("vit_b32.py")))["get_config"]()
    c.model.variant = "RN50x64"
    # A ResNet's Adam (Table 18).
    c.optim.beta2 = 0.999
    c.optim.eps = 1e-8
    c.optim.learning_rate = 3.6e-4
    return c
