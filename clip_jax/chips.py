"""The TPU generations: what one device can do, by Google's specifications.

Per *device* as JAX counts them: a chip, except of TPU7x, whose chips are two devices each.
Sources: the pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" and "TPU7x (Ironwood)" of the Cloud TPU
documentation (docs.cloud.google.com/tpu/docs). Link bandwidth is one direction of all links
together: half of what these pages call bidirectional.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a generation.

    Attributes:
      memory: bytes of HBM.
      flops: peak of bfloat16 matrix products, FLOP/s.
      link: bytes/s that it can receive from its neighbours.
      kind: what JAX calls it.
      options: of the topology's description; v4 has two cores a chip that act as one.
    """

    memory: int
    flops: float
    link: float
    kind: str
    options: tuple[tuple[str, str], ...] = ()


CHIPS: dict[str, Chip] = {
    "v4": Chip(32 * 2**30, 275e12, 300e9, "TPU v4", (("chip_config_name", "megacore"),)),
    "v5e": Chip(16 * 2**30, 197e12, 200e9, "TPU v5 lite"),
    "v5p": Chip(95 * 2**30, 459e12, 600e9, "TPU v5"),
    "v6e": Chip(32 * 2**30, 918e12, 400e9, "TPU v6 lite"),
    "tpu7x": Chip(96 * 2**30, 2307e12 / 2, 300e9, "TPU7x"),
}
