"""What an imagined step pays: what the model has learned, or what the task's own rule says.

A rule is exact, also where the model was never shown anything, so that all errors are those of the
next observation. Termination has the same choice, see `world_models.termination`.
"""

import logging
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.envs.rewards import reward_rule_for
from reverie.envs.rules import RewardRule
from reverie.envs.specs import Spec
from reverie.mistake import Mistake

log = logging.getLogger(__name__)

Choice = Literal["learned", "known"]

# Recorded rewards may come from states of more digits than float32 has.
_TOLERATED = 1e-3
_TOLERATED_SHARE = 0.001


def resolve_reward(choice: Choice, spec: Spec) -> RewardRule | None:
    """Turn `world_model.reward` into the task's rule, None for a learned reward.

    Raises:
        Mistake: `known` for a task without a rule.
    """
    if choice == "learned":
        return None
    rule = reward_rule_for(spec)
    if rule is None and spec.task is None and spec.env_id is None:
        raise Mistake(
            "world_model.reward=known asks for the rule of an environment, and the dataset names "
            "none; use world_model.reward=learned, which also learns what a formula in "
            "dataset.reward gave, or name the environment with dataset.env_id=..."
        )
    if rule is None:
        raise Mistake(
            f"no reward rule is known for {spec.task or f'environment {spec.env_id}'} with "
            f"observations of size {spec.obs_dim}, options {dict(spec.env_kwargs)} and "
            f"{len(spec.hidden)} hidden columns; use world_model.reward=learned, or add a rule to "
            "envs/rewards.py"
        )
    return rule


def rewarded(
    rule: RewardRule,
    obs: Float[Tensor, "*lead D"],
    action: Float[Tensor, "*lead A"],
    next_obs: Float[Tensor, "K *lead D"],
) -> Float[Tensor, " K *lead"]:
    """The rule's reward of K outcomes."""
    return rule(obs.expand_as(next_obs), action.expand(*next_obs.shape[:-1], -1), next_obs)


def compare(rule: RewardRule, data: Dataset, rows: Bool[Tensor, " N"]) -> dict[str, Any]:
    """How far recorded rewards are from the rule's, on rows whose next observation is known.

    A warning says if they are others.

    Returns:
        `kind`, the largest `difference`, and the share of rows that `disagree` by more than 0.001
        of the reward, or of 1.
    """
    seen = data.transitions[rows & data.valid_next]
    said = rule(seen.obs, seen.action, seen.next_obs)
    gap = (said - seen.reward).abs()
    wrong = gap > _TOLERATED * seen.reward.abs().clamp(min=1.0)
    share = wrong.float().mean().item() if len(gap) else 0.0
    if share > _TOLERATED_SHARE:
        log.warning(
            "the reward rule of %s differs from %.2f%% of the recorded rewards of dataset %s, by "
            "up to %.3g; if its task was modified, use world_model.reward=learned",
            data.spec.task or data.spec.env_id,
            100 * share,
            data.name,
            gap.max().item(),
        )
    largest = gap.max().item() if len(gap) else 0.0
    return {"kind": "known", "difference": largest, "disagree": share}
