"""CLIP ViT-B/32 as in the paper (section 2.5, Tables 18 to 20). Give it data and a pod.

python -m clip_jax.train --config=configs/vit_b32.py --workdir=/shared/runs/vit_b32 \
    --config.data.path='/data/shards/*.tar'
"""

from clip_jax.config import defaults


def get_config():
    c = defaults()
    c.model.variant = "ViT-B/32"
    c.model.dtype = "bfloat16"

    c.tokenizer.name = "clip"
    c.tokenizer.context_length = 77

    c.data.source = "tar"
    c.data.path = "data/*.tar"
    c.data.image_key = "jpg"
    c.data.caption_key = "txt"
    c.data.augmentation = "square_crop"
    c.data.threads = 16

    c.loss.dtype = "bfloat16"  # of the embeddings that travel; logits are float32

    c.train.batch_size = 32768
    c.train.epochs = 32.0

    c.optim.learning_rate = 5e-4
    c.optim.warmup_examples = 2000 * 32768
    c.optim.beta1 = 0.9
    c.optim.beta2 = 0.98
    c.optim.eps = 1e-6
    c.optim.weight_decay = 0.2
    c.optim.decay_rule = "paper"

    c.checkpoint.every_examples = 1000 * 32768
    c.log.every_steps = 10
    return c
