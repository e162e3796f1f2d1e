"""Every config key: its default, meaning and check, and whether it may change on resume."""

import functools
from collections.abc import Mapping

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from clip_jax.config.checks import (
    AUTO_OR_BOOL,
    AUTO_OR_COUNT,
    CHANNELS,
    DEPTH,
    DTYPE,
    EVALUATORS,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_RGB,
    RGB,
    SEED,
    STAGES,
    STEPS,
    Key,
    OneOf,
)

_FreeKey = functools.partial(Key, free_on_resume=True)
_Size = functools.partial(Key, None, kind=int, check=POSITIVE)  # None: what the variant says

# fmt: off
KEYS: dict[str, Key] = {
    "seed": Key(0, "of initialisation, data order, augmentation, patch dropout and rounding", SEED),

    # Sizes that are None are what the variant says.
    "model.variant": Key("ViT-B/32", "named sizes", OneOf("clip_jax.models.variants:VARIANTS")),
    "model.init_from": _FreeKey("", "start from these weights: what `clip_jax.load` takes"),
    "model.vision.image_size": _Size("pixels of a side"),
    "model.vision.patch_size": _Size("ViT: pixels of a side of a patch"),
    "model.vision.width": _Size("width of the image tower"),
    "model.vision.num_heads": _Size("attention heads"),
    "model.vision.num_layers": Key(None, "blocks; ResNet: of each stage, such as (3, 4, 6, 3)", DEPTH, kind=object),
    "model.vision.mlp_ratio": Key(None, "ViT: hidden width of an MLP relative to the width", kind=float),
    "model.vision.pool": Key(None, "ViT: class token, or multi-head attention pooling (SigLIP)", OneOf("clip_jax.models.vit:POOLS"), kind=str),
    "model.vision.position_init": Key(None, "ViT: initial position embeddings", OneOf("clip_jax.models.vit:POSITIONS"), kind=str),
    "model.vision.stem": Key(None, "ViT: channels of stride-2 convolutions before the patches", CHANNELS, kind=tuple),
    "model.text.width": _Size("width of the text tower"),
    "model.text.num_layers": _Size("blocks"),
    "model.text.num_heads": _Size("attention heads"),
    "model.text.mlp_ratio": Key(None, "hidden width of an MLP relative to the width", kind=float),
    "model.text.causal": Key(None, "whether a token attends to earlier ones only", kind=bool),
    "model.text.pool": Key(None, "feature of the end-of-text token (eot) or of the last", OneOf("clip_jax.models.text:POOLS"), kind=str),
    "model.text.param_dtype": Key("float32", "of the text tower's matrices; bfloat16 is rounded stochastically", DTYPE),
    "model.embed_dim": _Size("dimensions of the shared embedding space"),
    "model.activation": Key(None, "of the MLPs", OneOf("clip_jax.models.layers:ACTIVATIONS"), kind=str),
    "model.norm_epsilon": Key(None, "of the layer norms", kind=float),
    "model.logit_bias": Key(None, "a learned number added to all logits; no softmax sees it", kind=bool),
    "model.image_mean": Key(None, "of pixels in 0 to 1", RGB, kind=tuple),
    "model.image_std": Key(None, "of pixels in 0 to 1", POSITIVE_RGB, kind=tuple),
    "model.dtype": Key("bfloat16", "of the computation; parameters and the loss are float32", DTYPE),
    # Auto: the fastest that fits, by ``training.plan``. None of them changes more than the rounding.
    "model.scan_layers": _FreeKey("auto", "compile one block and loop over it, or (False) unroll", AUTO_OR_BOOL, kind=object),
    "model.remat_policy": _FreeKey("auto", "what the backward pass recomputes", OneOf("auto", "none", "clip_jax.models.execution:REMAT_POLICIES")),
    "model.attention": _FreeKey("auto", "implementation of attention; cudnn needs an NVIDIA GPU", OneOf("auto", "clip_jax.models.attention:IMPLEMENTATIONS")),
    "model.patch_dropout": Key(0.0, "ViT: share of image patches dropped in training", FRACTION),
    "model.batch_norm_group": Key(0, "ResNet: examples that share statistics; 0: the global batch", NOT_NEGATIVE),

    "tokenizer.name": Key("clip", "kind of tokenizer", OneOf("clip_jax.tokenizers:KINDS")),
    "tokenizer.context_length": Key(77, "tokens of a text, start and end included", POSITIVE),
    "tokenizer.model": Key("", "model file; empty: sentencepiece is trained on the captions"),
    "tokenizer.vocab_size": Key(4096, "sentencepiece: size of the vocabulary to train", POSITIVE),
    "tokenizer.model_type": Key("unigram", "sentencepiece: kind of model to train", OneOf("clip_jax.tokenizers.sentence_piece:MODEL_TYPES")),

    "data.source": Key("emoji", "where the pairs come from", OneOf("clip_jax.data.pairs.registry:SOURCES")),
    "data.path": _FreeKey("", "table, tar: files (glob patterns allowed); tfds: name of the dataset"),
    "data.validation_path": _FreeKey("", "the same for the pairs of the evaluation data `validation`"),
    "data.split": Key("train", "tfds: split to train on"),
    "data.validation_split": _FreeKey("validation", "tfds: split for the evaluation data `validation`"),
    "data.image_key": Key("image", "table, tfds, tar: column, feature or file ending of the image"),
    "data.caption_key": Key("caption", "table, tfds, tar: likewise of the caption; tar: json:FIELD is a field of JSON files"),
    "data.cache_dir": _FreeKey("", "our prepared data; empty: `$CLIP_JAX_CACHE` or `~/.cache/clip_jax`"),
    "data.tfds_data_dir": _FreeKey("", "prepared TFDS datasets, to train and to evaluate; empty: TFDS's own default"),
    "data.emoji.preset": Key("all", "whose drawings; free: under free licences only", OneOf("clip_jax.data.emoji.drawings:PRESETS")),
    "data.emoji.captions": Key("plain", "names only, or (rich) mixed with keywords and sentences", OneOf("clip_jax.data.pairs.emoji:CAPTIONS")),
    "data.resize": Key("shortest", "without augmentation: the shorter side, then the centre; or (SigLIP) squash", OneOf("clip_jax.data.transforms:RESIZES")),
    "data.augmentation": Key("square_crop", "what training does to an image", OneOf("clip_jax.data.transforms:AUGMENTATIONS")),
    "data.sampling": Key("uniform", "an epoch has every record once (uniform) or every group once (grouped)", OneOf("clip_jax.data.stream.order:SAMPLINGS")),
    "data.decoder": Key("pillow", "exact; or draft: large JPEGs are decoded at a fraction of their size; or fast: the same by simplejpeg and kornia-rs", OneOf("clip_jax.data.decoders:DECODERS")),
    "data.threads": _FreeKey(2, "reading threads of a process that has no workers", POSITIVE),
    "data.workers": _FreeKey("auto", "reading processes of a process; 0: threads; auto: from 4 cores on, for an accelerator, up to 32", AUTO_OR_COUNT, kind=object),
    "data.cache_decoded": _FreeKey(False, "keep decoded images in memory: for datasets that fit"),
    "data.prefetch": _FreeKey(2, "batches ready on the device, and about as many more being made", POSITIVE),
    "data.max_bad_fraction": _FreeKey(0.01, "of records: so many may be unreadable or no pairs before the run stops", FRACTION),

    "train.batch_size": Key(32768, "global", POSITIVE),
    "train.epochs": Key(0.0, "passes over the data; or set train.examples", NOT_NEGATIVE),
    "train.examples": Key(0, "examples seen in all; or set train.epochs", NOT_NEGATIVE),
    "train.context_length": Key(0, "tokens of a caption in training; 0: tokenizer.context_length", NOT_NEGATIVE),
    "train.stages": Key((), "stages of the run (docs/stages.md): mappings with the keys of `config/stages.py`, each with its own examples or epochs", STAGES),
    # Each micro-batch sums all gradients over the devices, and with fsdp gathers parameters twice.
    "train.num_microbatches": _FreeKey(1, "of a step: the memory of one, the gradient of all", POSITIVE),
    "train.max_consecutive_nonfinite": _FreeKey(10, "steps with a non-finite gradient before the run stops", POSITIVE),

    "loss.name": Key("softmax", "sigmoid (SigLIP) needs model.logit_bias", OneOf("clip_jax.losses:LOSSES")),
    "loss.implementation": _FreeKey("auto", "all give the same numbers", OneOf("clip_jax.losses:IMPLEMENTATIONS")),
    "loss.chunk_size": _FreeKey(0, "all_gather, ring: columns of logits at a time; 0: chosen", NOT_NEGATIVE),
    "loss.dtype": Key("float32", "of the embeddings in the loss; bfloat16 halves what is sent", DTYPE),
    "loss.mask_groups": Key(False, "pairs of one group are not each other's negatives"),
    "loss.soft_targets": Key(0.0, "share of a target that goes to pairs with related captions", FRACTION),

    # The paper's for ViT (Table 18).
    "optim.name": Key("adamw", "muon: the blocks' matrices by Muon, the rest by AdamW", OneOf("clip_jax.training.optim:OPTIMIZERS")),
    "optim.learning_rate": Key(5e-4, "peak of the schedule", POSITIVE),
    "optim.text_lr_multiplier": Key(1.0, "learning rate of the text tower relative to learning_rate", POSITIVE),
    "optim.warmup_examples": Key(2000 * 32768, "examples over which the learning rate rises", NOT_NEGATIVE),
    "optim.beta1": Key(0.9, "Adam's decay of the first moment", FRACTION),
    "optim.beta2": Key(0.98, "Adam's decay of the second moment", FRACTION),
    "optim.eps": Key(1e-6, "Adam's epsilon", POSITIVE),
    "optim.moment_dtype": Key("float32", "of Adam's moments (not Muon's); bfloat16 is rounded stochastically", DTYPE),
    "optim.weight_decay": Key(0.2, "decoupled, times the learning rate", NOT_NEGATIVE),
    "optim.muon_momentum": Key(0.95, "Muon's momentum", FRACTION),
    "optim.muon_ns_steps": Key(5, "Newton-Schulz steps towards an orthogonal update", POSITIVE),
    "optim.decay_rule": Key("paper", "what is decayed; open_clip spares position embeddings too", OneOf("clip_jax.training.optim:NO_DECAY")),
    "optim.grad_clip_norm": Key(0.0, "largest global gradient norm; 0: not clipped", NOT_NEGATIVE),
    "optim.ema_decay": Key(0.0, "moving average of the parameters for evaluation; 0: none", FRACTION),

    # One of data, fsdp and tensor may be -1: the devices left over.
    "mesh.data": _FreeKey(-1, "devices along the data axis; -1: those left over"),
    "mesh.fsdp": _FreeKey(1, "devices over which parameters are sharded"),
    "mesh.tensor": _FreeKey(1, "devices over which single layers are sharded"),
    "mesh.slices": _FreeKey(1, "TPU slices that the data axis spans, over the data centre's network"),

    "eval.evaluators": _FreeKey(None, "TASK@DATA, with commas; or name -> {task, data, every_examples}", EVALUATORS, kind=object),
    "eval.every_examples": _FreeKey(0, "interval of evaluators without their own; 0: at the end only", NOT_NEGATIVE),
    "eval.batch_size": _FreeKey(256, "global", POSITIVE),
    "eval.limit": _FreeKey(0, "validation pairs used; 0: all", NOT_NEGATIVE),
    "eval.protocol": _FreeKey("paper", "whose prompts and metrics", OneOf("clip_jax.evals.datasets.prompts:PROTOCOLS")),
    "eval.data_root": _FreeKey("", "folder with datasets of docs/data_sets.md"),

    "checkpoint.every_examples": _FreeKey(0, "interval; 0: at the end only (and when stopped)", NOT_NEGATIVE),
    "checkpoint.keep": _FreeKey(3, "newest steps kept", POSITIVE),

    "log.every_steps": _FreeKey(10, "interval of a line of metrics", POSITIVE),
    "log.profile_steps": _FreeKey((), "first and last step of a trace for TensorBoard or Perfetto; empty: none", STEPS),
    "log.tensorboard": _FreeKey(True, "write TensorBoard events"),
    "log.report": _FreeKey(True, "write report.html and report.png at the end"),

    "runtime.watchdog_seconds": _FreeKey(1800.0, "exit after so long without progress (a step, a batch of an evaluation)", POSITIVE),
}
# fmt: on


def defaults() -> ConfigDict:
    """A config of all keys with their defaults."""
    config = ConfigDict()
    for name, key in KEYS.items():
        *groups, last = name.split(".")
        group = config
        for part in groups:
            if part not in group:
                group[part] = ConfigDict()
            group = group[part]
        group[last] = FieldReference(key.default, key.kind) if key.kind else key.default
    return config


def flatten(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested config to {"a.b": value}, with lists for tuples."""
    flat = {}
    for name, value in config.items():
        key = prefix + name
        if isinstance(value, Mapping | ConfigDict) and key not in KEYS:
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = list(value) if isinstance(value, tuple) else value
    return flat
