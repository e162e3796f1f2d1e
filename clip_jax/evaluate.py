"""The command ``python -m clip_jax.evaluate``.

To be run, not imported: as a name, ``clip_jax.evaluate`` is the function of ``evaluation.py``.
"""

from clip_jax.evaluation import main
from clip_jax.runtime import distributed

if __name__ == "__main__":
    distributed.shut_down(main())
