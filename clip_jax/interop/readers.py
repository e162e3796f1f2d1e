"""How each foreign layout tells its model: by settings, by shapes, by what the caller says."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from clip_jax.data.preprocess import Preprocess
from clip_jax.data.preprocess_formats import from_hugging_face, from_open_clip
from clip_jax.interop.files import PREPROCESSOR, WeightFiles
from clip_jax.interop.formats import big_vision, hugging_face, open_clip, openai
from clip_jax.interop.mapping import LayoutError
from clip_jax.interop.settings import JsonObject, error_context
from clip_jax.interop.sizes import checked
from clip_jax.models.variants import ClipConfig
from clip_jax.tokenizers import ClipTokenizer, SigLipTokenizer, Tokenizer

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class LayoutHints:
    """What the caller says about a file that does not say it itself."""

    activation: str | None = None
    heads: tuple[int, int] | None = None

    def refuse(self, source: str, decider: str) -> None:
        """Raises LayoutError where the caller says what a file decides."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                raise LayoutError(f"{source}: {field.name} is decided by {decider}")


Parts = tuple[ClipConfig, Preprocess, Tokenizer | None]


def standard_preprocess(config: ClipConfig, resize: str = "shortest") -> Preprocess:
    """What a model's images go through where the files do not say."""
    return Preprocess(
        config.vision.image_size, resize, mean=config.image_mean, std=config.image_std
    )


def _clip_tokenizer(config: ClipConfig) -> ClipTokenizer | None:
    """CLIP's own, if the model has its vocabulary."""
    tokenizer = ClipTokenizer(config.text.context_length)
    same = (tokenizer.vocab_size, tokenizer.eot_id) == (config.text.vocab_size, config.text.eot_id)
    return tokenizer if same else None


def read_openai(files: WeightFiles, tensors: Tensors, hints: LayoutHints, source: str) -> Parts:
    """OpenAI's: lone files, sizes from the shapes, heads 64 wide."""
    if hints.activation not in (None, "quick_gelu"):
        raise LayoutError(
            f"{source}: activation={hints.activation!r}, but OpenAI's weights were trained with "
            "QuickGELU; for an open_clip model say layout='open_clip'"
        )
    config = checked(openai.infer(tensors, "quick_gelu"), tensors, source)
    heads = (config.vision.num_heads, config.text.num_heads)
    if hints.heads not in (None, heads):
        raise LayoutError(
            f"{source}: heads={hints.heads!r}, but OpenAI's are 64 wide, which makes {heads}; for "
            "an open_clip model say layout='open_clip'"
        )
    return config, standard_preprocess(config), _clip_tokenizer(config)


def read_open_clip(files: WeightFiles, tensors: Tensors, hints: LayoutHints, source: str) -> Parts:
    """open_clip's: a folder with its settings, or a lone file."""
    if files.settings is None:
        config = openai.infer(tensors, hints.activation or "gelu", hints.heads)
        if hints.heads is None:
            config = open_clip.with_known_heads(config, source)
        config = checked(config, tensors, source)
        return config, standard_preprocess(config), _clip_tokenizer(config)
    file = f"{source}/open_clip_config.json"
    hints.refuse(source, "open_clip_config.json")
    config = open_clip.from_json(files.settings.get("model_cfg"), file)
    config = checked(config, tensors, file)
    given = files.settings.get("preprocess_cfg")
    values = {} if given is None else JsonObject(given, file, "preprocess_cfg").values
    with error_context(f"{file}, preprocess_cfg"):
        preprocess = from_open_clip(values, image_size=config.vision.image_size)
    return config, preprocess, _clip_tokenizer(config)


def read_hugging_face(
    files: WeightFiles, tensors: Tensors, hints: LayoutHints, source: str
) -> Parts:
    """Hugging Face's: a folder with its settings."""
    settings = files.settings
    if settings is None:
        raise LayoutError(
            f"{source}: tensors of Hugging Face's layout, but their config.json says the sizes: "
            "give the folder that holds both"
        )
    hints.refuse(source, "config.json (hidden_act, num_attention_heads)")
    file = f"{source}/config.json"
    config = checked(hugging_face.from_json(settings, file), tensors, file)
    siglip = hugging_face.is_siglip(config)
    if files.preprocessor is not None:
        with error_context(f"{source}/{PREPROCESSOR}"):
            preprocess = from_hugging_face(files.preprocessor)
        _same_size(config, preprocess, source)
    elif siglip:
        config = dataclasses.replace(config, image_mean=(0.5,) * 3, image_std=(0.5,) * 3)
        preprocess = standard_preprocess(config, "squash")
    else:
        preprocess = standard_preprocess(config)
    if not siglip:
        return config, preprocess, _clip_tokenizer(config)
    pieces, tokenizer = files.folder / "spiece.model", None
    if pieces.is_file():
        with error_context(str(pieces)):
            tokenizer = SigLipTokenizer(pieces, config.text.context_length)
    return config, preprocess, tokenizer


def _same_size(config: ClipConfig, preprocess: Preprocess, source: str) -> None:
    """Refuses images of another size than the model's."""
    size = config.vision.image_size
    if preprocess.image_size != size:
        raise LayoutError(
            f"{source}: {PREPROCESSOR} makes images of {preprocess.image_size} px, but the model "
            f"of config.json takes {size} px. Set the preprocessor's to {size}, and resize the "
            f"model where {preprocess.image_size} is meant: python -m clip_jax.convert "
            f"--image-size={preprocess.image_size}"
        )


def read_big_vision(files: WeightFiles, tensors: Tensors, hints: LayoutHints, source: str) -> Parts:
    """big_vision's: a lone file, sizes from the shapes."""
    if hints.activation not in (None, "gelu_tanh"):
        raise LayoutError(f"{source}: activation={hints.activation!r}, but SigLIP has GELU (tanh)")
    LayoutHints(heads=hints.heads).refuse(source, "the tensors")
    config = checked(big_vision.infer(tensors), tensors, source)
    return config, standard_preprocess(config, "squash"), None
