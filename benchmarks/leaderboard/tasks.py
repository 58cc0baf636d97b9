"""Which presets on which datasets, at which budgets."""

from dataclasses import replace

from reverie.benchmarks.claims.comparison import Task
from reverie.benchmarks.claims.shipped import METHODS as WITH_MODELS
from reverie.benchmarks.claims.shipped import Budget
from reverie.benchmarks.suite.tasks import TASKS, dataset_ids

GENERATORS = ("pgd_iql", "pgd", "synther")
OTHERS = ("cql", "cal_ql", "edac", "sac_n", "fql", "td3_awr", "sac", "awac", "rvs", "bc_best")
METHODS = (*GENERATORS, *WITH_MODELS[:7], *OTHERS[:6], *WITH_MODELS[7:-1], *OTHERS[6:], "bc")
"""Every preset that learns offline from one recorded dataset and nothing else, longest first."""
_ONLINE = "steps the true environment"
_SIMULATOR = "steps a simulator beside the dataset"
LEFT_OUT = {
    **dict.fromkeys(("mbpo_online", "sac_online", "sindy_rl_online"), _ONLINE),
    **dict.fromkeys(("h2o", "h2o_plus", "darc", "darc_plus", "sac_sim"), _SIMULATOR),
    "mpc": "trains no agent",
}
"""The other presets, and why."""

_CONTACTS = {"sindy_rl": "whose equations are meant for few variables and no contacts"}
_MUJOCO = ("hopper", "halfcheetah", "walker2d")
STAND_INS = {
    f"{name}-mixed": Task(
        dataset="minari",
        options={"id": f"bench/{name}/mixed-v0", "name": f"{name}-mixed"},
        unsuited=_CONTACTS,
    )
    for name in ("hopper", "halfcheetah")
}
"""Mixtures of skill of another origin, for who has them and not the suite's own: their scores are
measured against other policies, so they do not count in the aggregates."""


def datasets(size: str) -> dict[str, Task]:
    """Those of a suite of this size by the name `task-kind`, those of the shortest task first."""
    suite = {
        f"{task}-{kind}": Task(
            dataset="minari",
            options={"id": id, "name": f"{task}-{kind}"},
            unsuited=_CONTACTS if task in _MUJOCO else {},
        )
        for task in TASKS
        for kind, id in dataset_ids(task, size).items()
    }
    return suite | STAND_INS


def usual(size: str) -> tuple[str, ...]:
    """Those that are taken where nobody asks."""
    return tuple(name for name in datasets(size) if name not in STAND_INS)


BUDGETS = {"small": Budget(), "full": Budget(option="paper", episodes=10)}
"""`--small` trains as shipped at `budget=laptop`, else as long as each preset's paper does."""
SHORT = {"pendulum": 5_000, "two-tanks": 5_000, "swing-up": 10_000}
"""Updates of every preset on the easy tasks of `--small`, in the place of laptop's."""


def budget_of(dataset: str, budget: Budget) -> Budget:
    """That of one dataset: shorter where its task is easy, with four evaluations a seed."""
    updates = next((own for task, own in SHORT.items() if dataset.startswith(f"{task}-")), None)
    if updates is None or budget.option != "laptop" or budget.updates is not None:
        return budget
    return replace(budget, updates=updates, evaluate=updates // 4)
