"""What the claims are about, and parts of it."""

from dataclasses import replace
from typing import Any

from reverie.benchmarks.claims.comparison import Task

USUAL = {
    "pendulum": Task(dataset="builtin/pendulum-mixed"),
    "cartpole": Task(dataset="builtin/cartpole-swingup"),
    "hopper": Task(dataset="minari", options={"id": "bench/hopper/mixed-v0", "name": "hopper"}),
    "halfcheetah": Task(
        dataset="minari", options={"id": "bench/halfcheetah/mixed-v0", "name": "halfcheetah"}
    ),
}
"""What the claims are about, shortest first."""


def cut(name: str, **subset: Any) -> dict[str, Task]:
    """A part of every task by its name, such as `hopper-few`; see `datasets.subset`."""
    return {
        f"{task}-{name}": replace(
            whole, options={**whole.options, "name": f"{task}-{name}", "subset": subset}
        )
        for task, whole in USUAL.items()
    }


TASKS = {**USUAL, **cut("few", fraction=0.1), **cut("best", fraction=0.3, order="return")}
"""Those, and what is cut from them: a tenth of the rows, in episodes drawn at random, and three
tenths, in the episodes of the highest return."""
