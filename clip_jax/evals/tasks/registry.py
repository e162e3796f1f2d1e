"""The evaluation tasks by name. A new one is a subclass of ``Task`` and a line here, or a line
elsewhere: ``TASKS["mine"] = MyTask()``.
"""

from clip_jax.evals.tasks.base import Task
from clip_jax.evals.tasks.bias import Bias
from clip_jax.evals.tasks.caption_selection import CaptionSelection
from clip_jax.evals.tasks.few_shot import FewShot
from clip_jax.evals.tasks.linear_probe import LinearProbe
from clip_jax.evals.tasks.overlap import Overlap
from clip_jax.evals.tasks.retrieval import Retrieval
from clip_jax.evals.tasks.zero_shot import ZeroShot

# In the order in which they run and are shown.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        ZeroShot(), LinearProbe(), FewShot(), Retrieval(), CaptionSelection(), Overlap(), Bias(),
    )
}  # fmt: skip
