"""Plans in world models: against the optimum, in the truth, in fitted models, and beside MOPO.

Every claim was chosen before anything was run. The last two tasks give planning and MOPO's policy
the same fitted ensemble, so that what differs is who uses it.
"""

from collections.abc import Callable
from typing import Any

from reverie.benchmarks.claims.experiment import prefix_names, run_all, split_by_task
from reverie.benchmarks.claims.planning import linear_quadratic, pendulum, policies
from reverie.benchmarks.claims.report import Findings, run_command

NAME = "planning"
TITLE = "Planning in world models"
MODULES = {"policies": policies, "pendulum": pendulum, "linear-quadratic": linear_quadratic}
"""Each gives jobs for its arms, `jobs(quick)`, and judges what came of them, `judge(found, quick)`;
the longest first."""


def measure(quick: bool) -> Findings:
    """Run the arms of all modules side by side, and judge each module's."""
    jobs: dict[str, Callable[[], dict[str, Any]]] = {}
    for name, module in MODULES.items():
        jobs |= prefix_names(name, module.jobs(quick))
    runs = split_by_task(run_all(jobs))
    parts = [module.judge(runs[name], quick) for name, module in reversed(MODULES.items())]
    return Findings(
        [claim for part in parts for claim in part.claims],
        {name: arms for name, arms in runs.items()},
        {stem: figure for part in parts for stem, figure in part.figures.items()},
    )


if __name__ == "__main__":
    run_command(NAME, TITLE, __doc__, measure)
