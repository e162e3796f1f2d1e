"""How much arithmetic a model is: multiplications and additions of its matrix products.

In closed form, for XLA's own count takes the body of a loop once, however often it runs. What is
counted is what the mathematics needs: the last block of a Transformer of which one token is
wanted computes that one alone; what a backward pass recomputes to save memory is not counted.
"""

from clip_jax.models.resnet import EXPANSION, ResNetConfig
from clip_jax.models.text import TextConfig
from clip_jax.models.variants import ClipConfig
from clip_jax.models.vit import ViTConfig


def _product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def _block(tokens: int, queries: int, width: int, mlp_width: int) -> int:
    """A Transformer block with keys and values of ``tokens`` tokens and ``queries`` queries."""
    keys_values = _product(tokens, width, 2 * width)
    query_and_output = 2 * _product(queries, width, width)
    attention = 2 * _product(queries, width, tokens)
    return keys_values + query_and_output + attention + 2 * _product(queries, width, mlp_width)


def _encoder(layers: int, tokens: int, queries: int, width: int, mlp_width: int) -> int:
    whole = _block(tokens, tokens, width, mlp_width)
    return (layers - 1) * whole + _block(tokens, queries, width, mlp_width)


def _vit(c: ViTConfig, embed_dim: int, patch_dropout: float = 0.0) -> int:
    total, side, channels = 0, c.image_size, 3
    for wider in c.stem:
        side //= 2
        total += _product(side * side, 9 * channels, wider)
        channels = wider
    patches, patch = (c.image_size // c.patch_size) ** 2, c.patch_size // 2 ** len(c.stem)
    total += _product(patches, patch * patch * channels, c.width)
    patches = c.patches_kept(patch_dropout)
    if c.pool == "map":
        total += _encoder(c.num_layers, patches, patches, c.width, c.mlp_width)
        return total + _block(patches, 1, c.width, c.mlp_width)
    total += _encoder(c.num_layers, patches + 1, 1, c.width, c.mlp_width)
    return total + _product(1, c.width, embed_dim)


def _resnet(c: ResNetConfig, embed_dim: int) -> int:
    side, total, channels = c.image_size // 2, 0, 3
    for wider in (c.width // 2, c.width // 2, c.width):
        total += _product(side * side, 9 * channels, wider)
        channels = wider
    side //= 2
    for stage, blocks in enumerate(c.num_layers):
        width, stride = c.width * 2**stage, 1 if stage == 0 else 2
        for block in range(blocks):
            cells = side * side
            total += _product(cells, channels, width) + _product(cells, 9 * width, width)
            if block == 0 and stride == 2:
                side //= 2
            cells = side * side
            total += _product(cells, width, EXPANSION * width)
            if block == 0:
                total += _product(cells, channels, EXPANSION * width)
            channels = EXPANSION * width
    tokens = side * side + 1
    attention = _product(tokens, channels, 2 * channels) + _product(1, channels, channels)
    return total + attention + 2 * _product(1, channels, tokens) + _product(1, channels, embed_dim)


def _text(c: TextConfig, embed_dim: int) -> int:
    total = _encoder(c.num_layers, c.context_length, 1, c.width, c.mlp_width)
    return total + _product(1, c.width, embed_dim)


def forward(config: ClipConfig, patch_dropout: float = 0.0) -> int:
    """FLOPs of both towers for one pair."""
    vision, text = config.vision, _text(config.text, config.embed_dim)
    if isinstance(vision, ResNetConfig):
        return _resnet(vision, config.embed_dim) + text
    return _vit(vision, config.embed_dim, patch_dropout) + text


def training(config: ClipConfig, batch: int, patch_dropout: float = 0.0) -> int:
    """FLOPs of a training step: a backward pass is twice the products of a forward pass.

    The first products of the towers need no gradient by the pixels; that they are counted makes
    less than 1% of a model of the paper. The loss is 3 products of [batch, E] by [E, batch].
    """
    return 3 * batch * forward(config, patch_dropout) + 3 * _product(batch, config.embed_dim, batch)


def recomputed(config: ClipConfig, remat_policy: str, patch_dropout: float = 0.0) -> int:
    """FLOPs that a policy of ``execution.REMAT_POLICIES`` adds to the training of one pair."""
    total = 0
    for tower in (config.vision, config.text):
        if isinstance(tower, ResNetConfig):
            whole = _resnet(tower, 0) if remat_policy not in ("none", "elementwise") else 0
            total += whole
            continue
        if not isinstance(tower, ViTConfig | TextConfig):
            continue  # a tower from outside, which decides for itself
        if isinstance(tower, TextConfig):
            tokens = tower.context_length
        else:
            tokens = tower.patches_kept(patch_dropout) + (tower.pool == "cls")
        attention = 2 * _product(tokens, tower.width, tokens)
        hidden = _product(tokens, tower.width, tower.mlp_width)
        qkv = _product(tokens, tower.width, 3 * tower.width)
        block = {
            "none": 0,
            "elementwise": 0,
            "dots": attention,
            "mlp": hidden,
            "projections": hidden + qkv,
            # The last product's output is not needed again.
            "full": _block(tokens, tokens, tower.width, tower.mlp_width) - hidden,
        }
        total += (tower.num_layers - 1) * block[remat_policy]
    return total
