"""Termination rules of known tasks, looked up by exact environment id.

A rule takes raw observations and decides which next observations end the episode. Time limits are
not terminations. A state that is not finite ends the episode in every task: simulators never reach
one, a diverging model does.

Differs: public code tests Hopper's states for `< 100` only, so that states below -100 count as
healthy; the task itself tests the absolute value, and so do we. The guard of +-100 that some
codebases add to HalfCheetah and Walker2d is left out, the tasks have none.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.envs.benchmarks import rules_of
from reverie.envs.cartpole_swingup import RAIL
from reverie.envs.rules import TerminationRule, finite, never, of_newest
from reverie.envs.specs import Spec
from reverie.envs.wrappers import are_transparent

Obs = Float[Tensor, "*lead D"]
Action = Float[Tensor, "*lead A"]
Ended = Bool[Tensor, "*lead"]


def hopper(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    height, angle = next_obs[..., 0], next_obs[..., 1]
    inside = (next_obs[..., 1:].abs() < 100.0).all(-1)
    return ~(finite(next_obs) & inside & (height > 0.7) & (angle.abs() < 0.2))


def walker2d(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    height, angle = next_obs[..., 0], next_obs[..., 1]
    return ~(finite(next_obs) & (height > 0.8) & (height < 2.0) & (angle.abs() < 1.0))


def ant(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    height = next_obs[..., 0]
    return ~(finite(next_obs) & (height >= 0.2) & (height <= 1.0))


def humanoid(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    height = next_obs[..., 0]
    return ~(finite(next_obs) & (height > 1.0) & (height < 2.0))


def inverted_pendulum(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    return ~(finite(next_obs) & (next_obs[..., 1].abs() <= 0.2))


def inverted_double_pendulum(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    """Ends when the tip, two links of 0.6 m above the cart, is not above 1 m."""
    # Through the angles, because a model's sines and cosines need not lie on the circle.
    lower = torch.atan2(next_obs[..., 1], next_obs[..., 3])
    upper = torch.atan2(next_obs[..., 2], next_obs[..., 4])
    tip = 0.6 * (torch.cos(lower) + torch.cos(lower + upper))
    return ~(finite(next_obs) & (tip > 1.0))


def cartpole_swingup(obs: Obs, action: Action, next_obs: Obs) -> Ended:
    return ~(finite(next_obs) & (next_obs[..., 0].abs() <= RAIL))


def rule_for(env_id: str) -> TerminationRule | None:
    """The rule of a task in its standard configuration, None when it is not known.

    Unknown on purpose: AdroitHandPen (the simulator never ends it, D4RL's recordings do),
    AntMaze (the goal is not in D4RL's observations) and FrankaKitchen (ends by a count of solved
    sub-tasks that the observation does not hold).
    """
    entry = _RULES.get(env_id)
    return entry[0] if entry else None


def rule_for_spec(spec: Spec) -> TerminationRule | None:
    """The rule of a task as configured; None also where options or sizes make the rule doubtful.

    Of histories it sees what is seen now; where columns are hidden, only a rule that reads none
    is known. Data of a benchmark have that of their task, whatever environment they are scored in.
    """
    if spec.task is not None:
        rule = rules_of(spec.task).terminated
        if spec.hidden and rule is not never:
            return None
        return partial(of_newest, rule, spec.newest_dim) if spec.has_history else rule
    if spec.env_id not in _RULES or not are_transparent(spec.wrappers):
        return None
    rule, sizes = _RULES[spec.env_id]
    seen = spec.newest_dim + len(spec.hidden)
    if (sizes and seen not in sizes) or (spec.hidden and rule is not never):
        return None
    if spec.env_kwargs.get("continuing_task", True) is not True:
        return None
    changed = any(
        option.startswith(_ENDING_OPTIONS) and option != "healthy_reward"
        for option in spec.env_kwargs
    )
    if changed:
        return None
    return partial(of_newest, rule, spec.newest_dim) if spec.has_history else rule


# Options of Gymnasium's MuJoCo tasks that move the limits or shift the observation.
_ENDING_OPTIONS = ("healthy_", "terminate_", "exclude_current_positions")

_MAZES = (
    *("UMaze", "Open", "Medium", "Large"),
    *(f"{size}_Diverse_{starts}" for size in ("Open", "Medium", "Large") for starts in ("G", "GR")),
)

# Task, versions, rule, lengths of the observations whose layout the rule reads (none: any).
_TABLE: tuple[tuple[str, tuple[int, ...], TerminationRule, tuple[int, ...]], ...] = (
    ("HalfCheetah", (2, 3, 4, 5), never, (17,)),
    ("Hopper", (2, 3, 4, 5), hopper, (11,)),
    ("Walker2d", (2, 3, 4, 5), walker2d, (17,)),
    ("Ant", (2, 3, 4, 5), ant, (27, 105, 111)),
    ("Humanoid", (2, 3, 4, 5), humanoid, (376, 348)),
    ("HumanoidStandup", (2, 4, 5), never, ()),
    ("InvertedPendulum", (2, 4, 5), inverted_pendulum, (4,)),
    ("InvertedDoublePendulum", (2, 4, 5), inverted_double_pendulum, (11, 9)),
    ("Swimmer", (2, 3, 4, 5), never, ()),
    ("Reacher", (2, 4, 5), never, ()),
    ("Pusher", (2, 4, 5), never, ()),
    ("Pendulum", (1,), never, ()),
    ("ReverieEdgeOfReach", (0,), never, (2,)),
    ("ReverieRefrigerator", (0,), never, (1,)),
    ("ReveriePredatorPrey", (0,), never, (2,)),
    ("ReverieDuffing", (0,), never, (4,)),
    ("ReverieLorenz", (0,), never, (3,)),
    ("ReverieCartPoleSwingUp", (0,), cartpole_swingup, (5,)),
    ("ReverieTwoTanks", (0,), never, (4,)),
    ("ReveriePipeline", (0,), never, (52,)),
    ("ReverieDoubleMassSpring", (0,), never, (6,)),
    *(
        (f"AdroitHand{task}{kind}", (1,), never, ())
        for task in ("Door", "Hammer", "Relocate")
        for kind in ("", "Sparse")
    ),
    # These end at the goal only when made with continuing_task=False.
    *((f"PointMaze_{maze}{kind}", (3,), never, ()) for maze in _MAZES for kind in ("", "Dense")),
)

_RULES: dict[str, tuple[TerminationRule, tuple[int, ...]]] = {
    f"{task}-v{version}": (rule, sizes)
    for task, versions, rule, sizes in _TABLE
    for version in versions
}
