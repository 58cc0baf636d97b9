"""Reward rules of known tasks, by the benchmark's name of the task or by exact environment id.

A rule sees raw observations, and actions in [-1, 1], as datasets hold them.
"""

from functools import partial

from torch import Tensor

from reverie.envs import (
    cartpole_swingup,
    double_mass_spring,
    edge_of_reach,
    neorl2,
    pipeline,
    refrigerator,
)
from reverie.envs.benchmarks import rules_of
from reverie.envs.rules import RewardRule, of_newest
from reverie.envs.specs import Spec
from reverie.envs.true_dynamics import pendulum


def pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Pendulum-v1, of the state that is left; an action of 1 is 2 N m."""
    return pendulum(obs, 2.0 * action)[1]


def edge_of_reach_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """See `envs.edge_of_reach.dynamics`."""
    return edge_of_reach.dynamics(obs, action)[1]


def cartpole_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """See `envs.cartpole_swingup.dynamics`."""
    return cartpole_swingup.dynamics(obs, action)[1]


def refrigerator_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """See `envs.refrigerator.reward_of`."""
    return refrigerator.reward_of(next_obs)


RULES: dict[str, RewardRule] = {
    "Pendulum-v1": pendulum_reward,
    edge_of_reach.ENV_ID: edge_of_reach_reward,
    cartpole_swingup.ENV_ID: cartpole_reward,
    refrigerator.ENV_ID: refrigerator_reward,
    pipeline.ENV_ID: neorl2.pipeline_reward,
    double_mass_spring.ENV_ID: neorl2.dmsd_reward,
}
"""Of environments made without options and wrappers."""


def reward_rule_for(spec: Spec) -> RewardRule | None:
    """The rule of a task as configured, None where none is known.

    None also of chunks, whose rewards are sums, and where columns are hidden. Of histories a rule
    sees what is seen now.
    """
    if spec.hidden or spec.chunk > 1:
        return None
    if spec.task is not None:
        rule = rules_of(spec.task).reward
    elif spec.env_id in RULES and not spec.wrappers and not spec.env_kwargs:
        rule = RULES[spec.env_id]
    else:
        return None
    return partial(of_newest, rule, spec.newest_dim) if spec.has_history else rule
