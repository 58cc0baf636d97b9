"""Rules of benchmarks' tasks by their names; no environment of theirs need be installed."""

import re
from dataclasses import dataclass
from functools import partial

from reverie.envs import neorl2, ogbench
from reverie.envs.rules import RewardRule, TerminationRule
from reverie.mistake import Mistake


@dataclass(frozen=True)
class Rules:
    """What a step of a task pays, and where it ends."""

    reward: RewardRule
    terminated: TerminationRule


def rules_of(task: str) -> Rules:
    """The rules of `Spec.task`: `neorl2/Fusion`, `ogbench/cube-double-task2`.

    Raises:
        Mistake: there is no such task.
    """
    benchmark, _, name = task.partition("/")
    if benchmark == "neorl2" and name in neorl2.TASKS:
        known = neorl2.TASKS[name]
        return Rules(known.reward, known.terminated)
    found = re.fullmatch(r"(.+)-task([1-5])", name) if benchmark == "ogbench" else None
    if found is not None and found[1] in ogbench.ROOMS:
        room, number = ogbench.ROOMS[found[1]], int(found[2])
        return Rules(
            partial(ogbench.reward_rule, room, number),
            partial(ogbench.termination_rule, room, number),
        )
    raise Mistake(
        f"no rules of task {task!r} are known; a dataset's reader sets it, so read the data again"
    )
