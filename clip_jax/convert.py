"""Converts the weights of a CLIP from any known layout to another.

python -m clip_jax.convert SRC DST --to=hugging_face
"""

import functools
import sys

import jax

from clip_jax import cli
from clip_jax.interop import resize
from clip_jax.interop.weights import LAYOUTS, Weights
from clip_jax.interop.write import DTYPES, losses, write
from clip_jax.pretrained import find
from clip_jax.runtime import distributed
from clip_jax.training.state import parameter_table


def parser() -> cli.Parser:
    """The command line's flags."""
    p = cli.Parser("convert", __doc__)
    p.add_argument("src", help="file, folder, workdir of a run, or id on the Hugging Face hub")
    p.add_argument("dst", help="new file (openai: .pt, big_vision: .npz) or new folder")
    p.add_argument("--to", required=True, choices=tuple(LAYOUTS), help="layout to write")
    p.add_argument(
        "--from", dest="layout", choices=tuple(LAYOUTS), help="layout of a file that does not tell"
    )
    p.add_argument("--activation", choices=("quick_gelu", "gelu", "gelu_tanh"),
                   help="of an open_clip file without its config")  # fmt: skip
    p.add_argument("--heads", type=int, nargs=2, metavar=("IMAGE", "TEXT"),
                   help="of the two towers of such a file")  # fmt: skip
    p.add_argument("--dtype", default="float32", choices=DTYPES, help="of the tensors")
    p.add_argument("--image-size", type=int, help="resize the model for this resolution")
    p.add_argument("--context-length", type=int, help="resize the model for this text length")
    return p


def describe(weights: Weights) -> str:
    """The model of a file, as lines to print."""
    c, t = weights.config, weights.tokenizer
    v, text = c.vision, c.text
    rows = [
        ("source", f"{weights.source} ({weights.layout})"),
        ("image tower", f"{type(v).__name__.removesuffix('Config')}, {v.image_size} px, width "
                        f"{v.width}, layers {v.num_layers}, {v.num_heads} heads"),
        ("text tower", f"width {text.width}, {text.num_layers} layers, {text.num_heads} heads, "
                       f"{text.context_length} tokens of {text.vocab_size:,}"),
        ("embedding", f"{c.embed_dim} dimensions"),
        ("activation", c.activation),
        ("preprocessing", f"{weights.preprocess.resize}, {weights.preprocess.interpolation}, "
                          f"{weights.preprocess.image_size} px"),
        ("tokenizer", "none" if t is None else t.name),
        ("fingerprint", weights.fingerprint[:16]),
    ]  # fmt: skip
    lines = [f"  {name:<14}{value}" for name, value in rows]
    return "\n".join([*lines, "parameters:", parameter_table(weights.variables["params"])])


def _command(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")  # nothing here is worth an accelerator
    with cli.user_values():
        heads = None if args.heads is None else tuple(args.heads)
        weights = find(args.src, layout=args.layout, activation=args.activation, heads=heads)
        if args.image_size is not None:
            weights = resize.for_image_size(weights, args.image_size)
        if args.context_length is not None:
            weights = resize.for_context_length(weights, args.context_length)
        print(describe(weights))
        path = write(args.dst, weights, args.to, args.dtype)
    if lost := losses(weights, args.to):
        print(f"note: layout {args.to} does not hold {' and '.join(lost)}; --to=clip_jax does")
    print(f"wrote {path} ({args.to}, {args.dtype})")
    return distributed.OK


main = functools.partial(cli.run_command, _command)


if __name__ == "__main__":
    sys.exit(main())
