"""A CLIP from scratch on 16,916 real pairs, in minutes on two CPU cores.

python -m clip_jax.train --config=configs/quickstart.py
"""

from clip_jax.config import defaults


def get_config():
    c = defaults()
    # Shallow and wide: in this little time, pairs seen count for more than depth. Convolutions
    # first, then one layer in which the class token looks at the image with 16 narrow heads.
    c.model.variant = "ViT-Mini/16"
    c.model.dtype = "float32"  # CPUs gain nothing from bfloat16
    c.model.vision.position_init = "sincos"
    c.model.image_mean = (1.0, 1.0, 1.0)  # the background is white: 0 says "nothing here"
    c.model.image_std = (0.35, 0.35, 0.35)

    # A vocabulary for these captions: CLIP's 49,408 embeddings would be most of the parameters.
    # Of whole words: a concept that training has not seen is understood by the words it shares
    # with others, and a rare word cut into pieces would share pieces with words of other meaning.
    c.tokenizer.name = "sentencepiece"
    c.tokenizer.model_type = "word"
    c.tokenizer.vocab_size = 4000
    c.tokenizer.context_length = 24

    c.data.source = "emoji"
    c.data.emoji.captions = "rich"
    c.data.augmentation = "drawing"
    # Six vendors draw each concept. A batch has one drawing of each of its concepts, so that no
    # two of its pairs are false negatives of each other; the mask covers the rare batch that
    # straddles two passes. Related concepts are not equally wrong: see losses.py.
    c.data.sampling = "grouped"
    c.loss.mask_groups = True
    c.loss.soft_targets = 0.3
    c.data.cache_decoded = True
    c.data.threads = 1

    c.train.batch_size = 256
    c.train.examples = 300_000

    c.optim.name = "muon"
    c.optim.muon_ns_steps = 3  # of the usual 5: a step takes a seventh less time
    c.optim.learning_rate = 2e-3
    c.optim.text_lr_multiplier = 0.4
    c.optim.warmup_examples = 30_000
    c.optim.weight_decay = 0.3
    c.optim.grad_clip_norm = 1.0

    c.eval.evaluators = {
        "unseen_vendor": {"task": "zero_shot", "data": "emoji:unseen_vendor"},
        "held_out": {"task": "zero_shot", "data": "emoji:held_out"},
        "held_out_retrieval": {"task": "retrieval", "data": "emoji:held_out_retrieval"},
    }
    c.eval.every_examples = 75_000
    c.checkpoint.every_examples = 75_000
    c.log.every_steps = 25
    return c
