"""Every legal configuration key with its default, and the checks on their values.

A config file is Python with a function ``get_config()`` that starts from ``defaults()`` and sets
what differs. ``load`` reads one, applies ``--config.key=value`` overrides, and validates. A key
that is not here is an error, which names the nearest legal one.
"""

import ast
import difflib
import functools
import json
import math
import runpy
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from clip_jax.config_values import ConfigError, check_types, flatten, is_int, is_number


def defaults() -> ConfigDict:
    """All keys. The optimisation defaults are the paper's for ViT (Table 18)."""
    c = ConfigDict()
    c.seed = 0  # decides initialisation, data order, augmentation, patch dropout and rounding

    c.model = ConfigDict()
    c.model.variant = "ViT-B/32"  # a name in clip_jax.models.variants.VARIANTS
    c.model.init_from = ""  # begin from these: what clip_jax.load takes; empty: from scratch
    c.model.vision = ConfigDict()  # None: what the variant says
    for key in ("image_size", "patch_size", "width", "num_heads"):
        c.model.vision[key] = placeholder(int)
    c.model.vision.num_layers = placeholder(object)  # ResNet: blocks of each stage, (3, 4, 6, 3)
    c.model.vision.mlp_ratio = placeholder(float)
    c.model.vision.pool = placeholder(str)  # ViT: cls | map (SigLIP's attention)
    c.model.vision.position_init = placeholder(str)  # ViT: normal | sincos
    c.model.vision.stem = placeholder(tuple)  # ViT: channels of convolutions before the patches
    c.model.text = ConfigDict()  # vocabulary and context length come from the tokenizer
    for key in ("width", "num_layers", "num_heads"):
        c.model.text[key] = placeholder(int)
    c.model.text.mlp_ratio = placeholder(float)
    c.model.text.causal = placeholder(bool)
    c.model.text.pool = placeholder(str)  # eot | last
    c.model.text.param_dtype = "float32"  # of its kernels: bfloat16 is rounded stochastically
    c.model.embed_dim = placeholder(int)
    c.model.activation = placeholder(str)  # quick_gelu | gelu | gelu_tanh
    c.model.norm_epsilon = placeholder(float)  # of the layer norms
    c.model.logit_bias = placeholder(bool)  # learned, added to the logits: no softmax sees it
    c.model.image_mean = placeholder(tuple)  # of pixels in 0 to 1; None: what the variant says
    c.model.image_std = placeholder(tuple)
    c.model.dtype = "bfloat16"  # compute; parameters, moments and the loss are float32
    c.model.scan_layers = True  # compile one block and loop over it; False unrolls (faster on CPU)
    c.model.remat_policy = "none"  # none | dots | full: what the backward pass recomputes
    c.model.patch_dropout = 0.0  # ViT: share of image patches dropped in training
    c.model.batch_norm_group = 0  # ResNet: examples that share statistics; 0: the global batch

    c.tokenizer = ConfigDict()
    c.tokenizer.name = "clip"  # clip | sentencepiece | siglip
    c.tokenizer.context_length = 77
    c.tokenizer.model = ""  # model file; empty: sentencepiece is trained on the captions
    c.tokenizer.vocab_size = 4096  # sentencepiece: size of the vocabulary to train
    c.tokenizer.model_type = "unigram"  # of that vocabulary: unigram | bpe | word

    c.data = ConfigDict()
    c.data.source = "emoji"  # a name in clip_jax.data.pairs.registry.SOURCES
    c.data.path = ""  # table, tar: files (glob patterns allowed); tfds: data set name
    c.data.validation_path = ""  # the same for the pairs of the evaluation task "retrieval"
    c.data.split = "train"  # tfds: split to train on
    c.data.validation_split = "validation"  # tfds: split for the evaluation task "retrieval"
    c.data.image_key = "image"  # table, tfds, tar: column, feature or file ending of the image
    c.data.caption_key = "caption"  # likewise of the caption
    c.data.cache_dir = ""  # prepared data; empty: $CLIP_JAX_CACHE or ~/.cache/clip_jax
    c.data.tfds_data_dir = ""  # folder of prepared TFDS datasets; empty: TFDS's own default
    c.data.emoji = ConfigDict()
    c.data.emoji.preset = "all"  # all | free (only drawings under free licences)
    c.data.emoji.captions = "plain"  # plain | rich: emoji names only, or mixed with keywords etc.
    c.data.resize = "shortest"  # without augmentation: shortest, then the centre | squash (SigLIP)
    c.data.augmentation = "square_crop"  # a name in clip_jax.data.transforms.AUGMENTATIONS
    c.data.sampling = "uniform"  # uniform: every record once an epoch | grouped: every group once
    c.data.threads = 2  # decoding threads per process: they share the rows of a batch
    c.data.workers = 0  # decoding processes per process, each with up to 3 batches; 0: threads
    c.data.cache_decoded = False  # keep decoded pictures in memory: for data sets that fit
    c.data.prefetch = 2  # batches kept ready on the device, and as many in the host's memory
    c.data.max_bad_fraction = 0.01  # unreadable records tolerated before the run stops

    c.train = ConfigDict()
    c.train.batch_size = 32768  # global
    c.train.epochs = 0.0  # passes over the data; or give examples
    c.train.examples = 0  # examples seen in all; or give epochs
    c.train.num_microbatches = (
        1  # micro-batches of a step: the memory of one, the gradient of all; each
    )
    # sums all gradients over the devices once, and with mesh.fsdp gathers the parameters twice
    c.train.max_consecutive_nonfinite = 10  # non-finite steps in a row before the run stops

    c.loss = ConfigDict()
    c.loss.name = "softmax"  # softmax | sigmoid (SigLIP's; needs model.logit_bias)
    c.loss.implementation = "auto"  # auto | dense | all_gather | ring; the same numbers
    c.loss.chunk_size = 0  # all_gather: logits' columns at a time; 0: chosen
    c.loss.dtype = "float32"  # of the embeddings in the loss: bfloat16 halves what is sent
    c.loss.mask_groups = False  # pairs of one group are not each other's negatives
    c.loss.soft_targets = 0.0  # share of a target that goes to pairs with related captions

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # adamw | muon (the blocks' matrices by Muon, the rest by AdamW)
    c.optim.learning_rate = 5e-4
    c.optim.text_lr_multiplier = 1.0  # learning rate of the text tower, relative to learning_rate
    c.optim.warmup_examples = 2000 * 32768
    c.optim.beta1 = 0.9
    c.optim.beta2 = 0.98
    c.optim.eps = 1e-6
    c.optim.moment_dtype = "float32"  # Adam's (not Muon's): bfloat16 is rounded stochastically
    c.optim.weight_decay = 0.2
    c.optim.muon_momentum = 0.95
    c.optim.muon_ns_steps = 5  # Newton-Schulz steps towards an orthogonal update
    c.optim.decay_rule = "paper"  # paper | open_clip (spares position embeddings too)
    c.optim.grad_clip_norm = 0.0  # global gradient norm; 0: not clipped
    c.optim.ema_decay = 0.0  # moving average of the parameters for evaluation; 0: none

    c.mesh = ConfigDict()  # one of the next three may be -1: the devices left over
    c.mesh.data = -1
    c.mesh.fsdp = 1
    c.mesh.tensor = 1
    c.mesh.slices = 1  # TPU slices that the data axis goes across, over the data centre's network

    c.eval = ConfigDict()
    c.eval.tasks = ()  # of clip_jax.evals.tasks.in_training.TASKS, or TASK@DATA
    c.eval.every_examples = 0  # 0: at the end only
    c.eval.batch_size = 256
    c.eval.limit = 0  # retrieval: pairs used; 0: all
    c.eval.protocol = "paper"  # of TASK@DATA: whose prompts and metrics
    c.eval.data_root = ""  # of TASK@DATA: folder with data sets of docs/data_sets.md

    c.checkpoint = ConfigDict()
    c.checkpoint.every_examples = 0  # 0: at the end only (and when told to stop)
    c.checkpoint.keep = 3  # newest steps kept

    c.log = ConfigDict()
    c.log.every_steps = 10
    c.log.tensorboard = True
    c.log.report = True  # report.html and report.png at the end

    c.runtime = ConfigDict()
    c.runtime.watchdog_seconds = (
        1800.0  # no progress (step, batch of an evaluation) for so long: exit
    )
    return c


# What may differ between a run and its resumption: nothing here changes the parameters. (Data may
# move to another path; the data fingerprint in the checkpoint guards what is there. Weights to
# begin from are looked at before the first step only.)
FREE_ON_RESUME = (
    "model.init_from", "mesh", "eval", "checkpoint", "log", "runtime",
    "train.max_consecutive_nonfinite", "train.num_microbatches", "loss.implementation",
    "loss.chunk_size",
)  # fmt: skip
FREE_DATA_KEYS = ("path", "validation_path", "validation_split", "cache_dir", "tfds_data_dir",
                  "threads", "workers", "prefetch", "max_bad_fraction",
                  "cache_decoded")  # fmt: skip

# Keys of earlier versions and what they are called now. They are read from stored runs only.
RENAMED = {
    "model.weights": "model.init_from",
    "model.scan": "model.scan_layers",
    "model.remat": "model.remat_policy",
    "model.vision.heads": "model.vision.num_heads",
    "model.vision.layers": "model.vision.num_layers",
    "model.text.heads": "model.text.num_heads",
    "model.text.layers": "model.text.num_layers",
    "loss.chunk": "loss.chunk_size",
    "optim.moments": "optim.moment_dtype",
    "optim.text_weights": "model.text.param_dtype",
    "optim.text_rate": "optim.text_lr_multiplier",
    "optim.clip_norm": "optim.grad_clip_norm",
    "optim.muon_beta": "optim.muon_momentum",
    "optim.muon_steps": "optim.muon_ns_steps",
    "train.pieces": "train.num_microbatches",
    "train.max_skipped": "train.max_consecutive_nonfinite",
    "data.emoji_preset": "data.emoji.preset",
    "data.captions": "data.emoji.captions",
    "eval.data_dir": "data.tfds_data_dir",
    "watchdog_seconds": "runtime.watchdog_seconds",
}
_RENAMED_VALUES = {("model.vision.pool", "class"): "cls"}

CHOICES: dict[str, tuple[str, ...]] = {
    "model.dtype": ("bfloat16", "float32"),
    "model.remat_policy": ("none", "dots", "full"),
    "tokenizer.name": ("clip", "sentencepiece", "siglip"),
    "tokenizer.model_type": ("unigram", "bpe", "word"),
    "data.source": ("emoji", "table", "tar", "tfds", "synthetic"),
    "data.emoji.preset": ("all", "free"),
    "data.emoji.captions": ("plain", "rich"),
    "data.resize": ("shortest", "squash"),
    "data.sampling": ("uniform", "grouped"),
    "loss.name": ("softmax", "sigmoid"),
    "loss.implementation": ("auto", "dense", "all_gather", "ring"),
    "loss.dtype": ("bfloat16", "float32"),
    "optim.moment_dtype": ("float32", "bfloat16"),
    "model.text.param_dtype": ("float32", "bfloat16"),
    "optim.name": ("adamw", "muon"),
    "optim.decay_rule": ("paper", "open_clip"),
    "eval.protocol": ("paper", "clip_benchmark", "datacomp"),
}
POSITIVE = (
    "train.batch_size", "eval.batch_size", "log.every_steps", "checkpoint.keep", "data.prefetch",
    "data.threads", "tokenizer.context_length", "tokenizer.vocab_size", "optim.learning_rate",
    "optim.text_lr_multiplier", "optim.eps", "optim.muon_ns_steps",
    "train.max_consecutive_nonfinite", "runtime.watchdog_seconds", "train.num_microbatches",
)  # fmt: skip
NOT_NEGATIVE = (
    "optim.warmup_examples", "optim.weight_decay", "optim.grad_clip_norm", "eval.every_examples",
    "eval.limit", "checkpoint.every_examples", "data.workers", "train.epochs", "train.examples",
    "model.batch_norm_group", "loss.chunk_size",
)  # fmt: skip
FRACTIONS = (
    "model.patch_dropout", "optim.beta1", "optim.beta2", "optim.ema_decay", "optim.muon_momentum",
    "data.max_bad_fraction", "loss.soft_targets",
)  # fmt: skip


def load(path: str, overrides: Iterable[tuple[str, str]] = ()) -> ConfigDict:
    """Runs a config file, applies overrides, validates and locks the result.

    Args:
      path: a Python file that defines ``get_config()``. It is code: run only files you trust.
      overrides: pairs such as ("optim.learning_rate", "1e-3"); values are Python literals, and
        anything that is not one is taken as a string.

    Raises:
      ConfigError: no such file, an error in it, unknown key, value of the wrong type or out of
        range.
    """
    if not Path(path).is_file():
        near = difflib.get_close_matches(Path(path).name, _siblings(path), 1)
        hint = f"; did you mean {Path(path).parent / near[0]}?" if near else ""
        raise ConfigError(f"--config={path}: no such file{hint}")
    config = _get_config(path)
    _check_keys(config, path)
    for key, text in overrides:
        _override(config, key, text)
    validate(config)
    return config.lock()


def overrides(arguments: Iterable[str]) -> list[tuple[str, str]]:
    """Key and value of every --config.key=value of a command line.

    Raises:
      ConfigError: an argument that is none.
    """
    found = []
    for argument in arguments:
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not argument.startswith("--config.") or not equals:
            raise ConfigError(
                f"{argument!r}: overrides are written --config.key=value (see clip_jax/config.py)"
            )
        found.append((key, value))
    return found


def _get_config(path: str) -> Any:
    """What the file's ``get_config`` returns; whatever goes wrong in it names file and line."""
    try:
        names = runpy.run_path(path)
        if "get_config" not in names:
            raise ConfigError(f"--config={path}: the file has no function get_config()")
        return names["get_config"]()
    except ConfigError:
        raise
    except Exception as error:  # it is the user's code
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        if isinstance(error, SyntaxError) and error.filename == path:
            lines.append(error.lineno)
        place = f"{path}:{lines[-1]}" if lines else path
        raise ConfigError(f"--config={place}: {type(error).__name__}: {error}") from error


def _siblings(path: str) -> list[str]:
    parent = Path(path).parent
    return [p.name for p in parent.glob("*.py")] if parent.is_dir() else []


def _unknown(key: str) -> ConfigError:
    if key in RENAMED:
        return ConfigError(f"config key {key!r} is called {RENAMED[key]!r} now")
    near = difflib.get_close_matches(key, flatten(defaults()), 1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown config key {key!r}{hint}")


def _check_keys(config: Any, path: str) -> None:
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"--config={path}: get_config() returns {type(config).__name__}; it must return the "
            "config that it made from defaults()"
        )
    legal, given = flatten(defaults()), flatten(config)
    for key in given:
        if key not in legal:
            raise ConfigError(f"--config={path}: {_unknown(key)}")
    missing = [key for key in legal if key not in given]
    if missing:
        raise ConfigError(
            f"--config={path}: no {missing[0]}; get_config() must start from defaults()"
        )


def _override(config: ConfigDict, key: str, text: str) -> None:
    legal = flatten(defaults())
    if key not in legal:
        raise _unknown(key)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    default = legal[key]
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(default, list) and isinstance(value, str):
        value = tuple(v for v in value.split(",") if v)
    if isinstance(default, str) and not isinstance(value, str):
        value = text
    group = config
    *parents, last = key.split(".")
    for name in parents:
        group = group[name]
    try:
        with group.unlocked():
            group[last] = value
    except TypeError:
        kind = type(default).__name__ if default is not None else "None or the variant's type"
        raise ConfigError(f"--config.{key}={text}: expected {kind}") from None


def validate(config: ConfigDict) -> None:
    """Checks every value that can be checked without data or devices.

    Raises:
      ConfigError: names the key, its value and what is allowed.
    """
    flat = flatten(config)
    check_types(flat, defaults())

    def require(ok: bool, key: str, what: str) -> None:
        if not ok:
            raise ConfigError(f"{key}={flat[key]!r}: must be {what}")

    for key, choices in CHOICES.items():
        near = difflib.get_close_matches(str(flat[key]), choices, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        require(flat[key] in choices, key, f"one of {', '.join(choices)}{hint}")
    for key in POSITIVE:
        require(flat[key] > 0, key, "positive")
    for key in NOT_NEGATIVE:
        require(flat[key] >= 0, key, "0 or more")
    for key in FRACTIONS:
        require(0 <= flat[key] < 1, key, "in [0, 1)")
    require(0 <= flat["seed"] < 2**63, "seed", "in [0, 2**63)")
    for key, value in flat.items():
        if key.startswith(("model.vision.", "model.text.", "model.embed_dim")) and is_int(value):
            require(value > 0, key, "positive")
    for key, lowest in (("model.image_mean", -math.inf), ("model.image_std", 0.0)):
        value = flat[key]
        ok = value is None or (len(value) == 3 and all(is_number(v) and v > lowest for v in value))
        require(ok, key, "three numbers" + (" above 0" if lowest == 0 else ""))
    stem = flat["model.vision.stem"] or []
    require(all(is_int(v) and v > 0 for v in stem), "model.vision.stem", "positive whole numbers")
    require(all(isinstance(t, str) for t in flat["eval.tasks"]), "eval.tasks", "names of tasks")
    if (config.train.epochs > 0) == (config.train.examples > 0):
        raise ConfigError(
            f"train.epochs={config.train.epochs} and train.examples={config.train.examples}: "
            "set exactly one of them above 0"
        )
    if config.data.source in ("table", "tar", "tfds") and not config.data.path:
        raise ConfigError(
            f"data.path is empty: data.source={config.data.source!r} needs it, for example "
            "--config.data.path='/data/shards/*.tar'"
        )


def steps(config: ConfigDict, examples: int) -> int:
    """Examples to optimizer steps, rounded up; at least 1."""
    return max(1, math.ceil(examples / config.train.batch_size))


def total_steps(config: ConfigDict, dataset_size: int) -> int:
    """Number of optimizer steps of the whole run."""
    return steps(config, config.train.examples or round(config.train.epochs * dataset_size))


def to_json(config: ConfigDict) -> str:
    """The resolved config as indented JSON."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True)


def with_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config in today's words, with the keys that did not exist when its run began."""
    config: dict[str, Any] = {}
    for key, value in (flatten(defaults()) | _upgraded(stored)).items():
        *groups, last = key.split(".")
        functools.reduce(lambda group, name: group.setdefault(name, {}), groups, config)[last] = (
            value
        )
    return config


def _upgraded(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config, flat, with today's names for keys and values of earlier versions."""
    flat = {RENAMED.get(key, key): value for key, value in flatten(stored).items()}
    return {
        key: _RENAMED_VALUES.get((key, value), value) if isinstance(value, str) else value
        for key, value in flat.items()
    }


def differences(old: Mapping[str, Any], new: ConfigDict) -> list[str]:
    """Keys in which a run's stored config and the present one differ and may not.

    A key that did not exist when the run began had the effect of what is now its default: new
    keys begin with the value that keeps what was done before.

    Returns lines such as "optim.learning_rate: 0.0005 (this run) -> 0.001 (given)".
    """
    free = FREE_ON_RESUME + tuple(f"data.{k}" for k in FREE_DATA_KEYS)
    before, after = flatten(defaults()) | _upgraded(old), flatten(new)
    missing = object()
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if any(key == f or key.startswith(f + ".") for f in free):
            continue
        a, b = before.get(key, missing), after.get(key, missing)
        if a != b:
            show = ["absent" if v is missing else repr(v) for v in (a, b)]
            lines.append(f"{key}: {show[0]} (this run) -> {show[1]} (given)")
    return lines
