"""ReBRAC, arXiv:2305.09836: TD3+BC with a second behaviour penalty, in its targets."""

from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.losses import inverse_value_scale, masked_mean
from reverie.agents.networks import initialise_
from reverie.agents.td3_bc import TD3BC
from reverie.datasets.columns import WithNextAction, where_taken, with_next_action
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Finite, Positive, Range
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed

IMITATED = ("all", "real")


class ReBRAC(TD3BC):
    """TD3 with penalties on the squared distance to recorded actions in actor and targets.

    Args:
        actor_penalty: beta_1, weight of the distance in the actor's loss; a list gives each seed
            its own.
        critic_penalty: beta_2, weight of the distance at the next state in the targets; 0 omits it,
            and no recorded next action is needed. May be a list too.
        normalise_value: divide the actor's value by mean |Q|, so that its unit does not matter.
        imitate: transitions whose actions are imitated, `all` of a batch or the `real` ones.
        reward_scale: factor on all rewards.
        hidden_bias, actor_output_bound, critic_output_bound: initialisation, see `EDAC`.
        td3: see `TD3BC`; its `alpha` is the weight of the actor's value here.
    """

    actor_penalty: float | Tensor
    critic_penalty: float | Tensor

    def __init__(
        self,
        *,
        actor_penalty: Annotated[PerSeed, Range(0)],
        critic_penalty: Annotated[PerSeed, Range(0)],
        normalise_value: bool,
        imitate: str,
        reward_scale: Positive,
        hidden_bias: Finite | None,
        actor_output_bound: Positive | None,
        critic_output_bound: Positive | None,
        **td3: Any,
    ) -> None:
        super().__init__(**td3)
        for name, weight in {"actor": actor_penalty, "critic": critic_penalty}.items():
            if min(as_list(weight)) < 0:
                raise Mistake(f"agent.{name}_penalty={weight} must not be negative; 0 is off")
        if imitate not in IMITATED:
            raise Mistake(f"agent.imitate={imitate} must be one of {', '.join(IMITATED)}")
        if reward_scale <= 0:
            raise Mistake(f"agent.reward_scale={reward_scale} must be positive; 1 changes nothing")
        set_per_seed(self, "actor_penalty", actor_penalty, trailing=0)
        set_per_seed(self, "critic_penalty", critic_penalty, trailing=1)
        self.penalises_targets = max(as_list(critic_penalty)) > 0
        self.normalise_value, self.imitate = normalise_value, imitate
        self.reward_scale = reward_scale
        initialise_(self.actor.body, hidden_bias=hidden_bias, output_bound=actor_output_bound)
        initialise_(self.critics.body, hidden_bias=hidden_bias, output_bound=critic_output_bound)
        self.regulariser.project_(self.critics)
        self.target_actor.load_state_dict(self.actor.state_dict())
        self.target_critics.load_state_dict(self.critics.state_dict())

    def recorded(self, data: Dataset) -> Transition:
        """The dataset's rows with their next actions, if the targets ask for them.

        Raises:
            Mistake: they do, and no row goes on in another.
        """
        if not self.penalises_targets:
            return super().recorded(data)
        rows = with_next_action(data)
        if not rows.has_next_action.any():
            raise Mistake(
                "agent.critic_penalty compares with the action that was recorded at the next "
                f"state, but no row of {data.name} is followed by another of its episode; set "
                "agent.critic_penalty=0"
            )
        return self.tell_taken(rows, data.taken)

    def complete(self, rows: Transition) -> Transition:
        """Rows of a source, whose next action is what the present policy does there."""
        if not self.penalises_targets:
            return super().complete(rows)
        rows = WithNextAction(
            **vars(rows),
            next_action=self.act(rows.next_obs),
            has_next_action=torch.ones_like(rows.terminated),
        )
        return self.tell_taken(rows, None)

    def values(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S N B"]:
        """Every critic's estimate in units of the raw reward."""
        return super().values(obs, action) / self.reward_scale

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        return super().update(replace(batch, reward=self.reward_scale * batch.reward))

    def next_value(self, batch: Transition, action: Float[Tensor, "S B A"]) -> Float[Tensor, "S B"]:
        """min_i Q'_i(s', a') - beta_2 |a' - a_next|^2, a_next what was recorded at s'."""
        value = super().next_value(batch, action)
        if not self.penalises_targets:
            return value
        if not isinstance(batch, WithNextAction):
            raise RuntimeError(
                "agent.critic_penalty needs rows with `next_action`, as `mix(..., agent=agent)` "
                "gives them"
            )
        distance = (action - batch.next_action).square().sum(-1)
        return value - self.critic_penalty * torch.where(batch.has_next_action, distance, 0.0)

    def imitation_weight(self, batch: Transition) -> Float[Tensor, "S B"] | float:
        """What each row counts in the actor's imitation; no gradient."""
        return 1.0

    def actor_loss(self, batch: Transition, action: Float[Tensor, "S B A"]) -> Float[Tensor, " S"]:
        """beta_1 mean w |pi(s) - a|^2 - lambda mean min_i Q_i(s, pi(s)), summed over dimensions."""
        value = self.critics(batch.obs, action).amin(1)
        distance = where_taken((action - batch.action).square(), batch).sum(-1)
        distance = self.imitation_weight(batch) * distance
        imitated = batch.is_real if self.imitate == "real" else torch.ones_like(batch.is_real)
        scale = inverse_value_scale(value, self.alpha) if self.normalise_value else self.alpha
        return self.actor_penalty * masked_mean(distance, imitated) - scale * value.mean(1)
