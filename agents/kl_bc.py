"""SAC with a KL divergence to a clone of the recorded behaviour instead of its entropy term.

Demonstration-regularised reinforcement learning, arXiv:2310.17303: clone the demonstrations, then
learn with a KL divergence to the clone and no penalty for uncertainty.
"""

import math
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.losses import gaussian_divergence
from reverie.agents.sac import SAC
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import NonNegative, Positive, Range
from reverie.world_models.base import Gaussian
from reverie.world_models.per_seed import PerSeed, as_list, as_tensor


class KLToClone(SAC):
    """SAC with lambda KL(pi || pi_BC) where SAC has alpha log pi, in the target and for the actor.

        V(s)    = E_a min_i Q'_i(s, a) - lambda KL(pi(.|s) || pi_BC(.|s))
        L_actor = E [lambda KL(pi(.|s) || pi_BC(.|s)) - min_i Q_i(s, a)]

    Both policies are Gaussian before their tanh, which does not change the divergence, so KL is
    computed exactly instead of estimated from one sampled action.

    Args:
        weight: lambda, reward units per nat; 0 is SAC without entropy, bit for bit; a list gives
            each seed its own.
        budget: target divergence in nats per state, by which lambda is trained; None keeps lambda
            at `weight`.
        weight_learning_rate: of Adam on ln lambda.
        max_weight: upper clip of lambda, None for none.
        divergence_limit: upper clip of KL in the target, in nats per action dimension, because the
            clone may be overconfident in states outside the data. The actor's loss is not clipped,
            because it would then have no gradient.
        divergence_in_target: subtract the term in the target.
        sac: see `SAC`, apart from its temperature.

    Needs a clone, given by `follow`; its minimum std keeps every action possible, like the
    paper's log-barrier.

    Source: arXiv:2310.17303, sections 2 and 3, for finite and linear tasks; with networks: ours.
    """

    clone: Gaussian | None = None
    is_off: Tensor

    def __init__(
        self,
        *,
        weight: Annotated[PerSeed, Range(0)],
        budget: Positive | None,
        weight_learning_rate: NonNegative,
        max_weight: Positive | None,
        divergence_limit: Positive,
        divergence_in_target: bool,
        **sac: Any,
    ) -> None:
        weights = as_list(weight)
        if min(weights) < 0:
            raise Mistake(f"agent.weight={weight} must not be negative; 0 is off")
        if budget is not None and min(weights) == 0:
            raise Mistake(
                f"agent.weight={weight} cannot be steered to agent.budget={budget}, for it is "
                "multiplied; set a small agent.weight, or agent.budget=null"
            )
        started = [each or 1.0 for each in weights]  # where it is 0, it is never read
        super().__init__(
            initial_temperature=started if isinstance(weight, list | tuple) else started[0],
            temperature_learning_rate=0.0 if budget is None else weight_learning_rate,
            max_temperature=max_weight,
            target_entropy=0.0 if budget is None else -budget,
            entropy_in_target=divergence_in_target,
            **sac,
        )
        self.highest_temperature = min(max(weights), math.inf if max_weight is None else max_weight)
        self.divergence_limit = divergence_limit
        self.register_buffer("is_off", as_tensor(weight, self.seeds) == 0, persistent=False)

    def follow(self, clone: Gaussian | None) -> None:
        """Keep the clone's Gaussian; as a function, the clone stays out of `state_dict`.

        Raises:
            Mistake: there is none.
        """
        if clone is None:
            raise Mistake(
                "agent=kl_bc stays near a clone of the recorded behaviour, but there is none; set "
                "behaviour=clone"
            )
        self.clone = clone

    @property
    def temperature(self) -> Float[Tensor, " S"]:
        """lambda, which takes the place of SAC's temperature; no gradient."""
        value = self.log_temperature.detach().exp()  # as SAC's; a compiler follows no super() here
        if self.max_temperature is not None:
            value = value.clamp(max=self.max_temperature)
        return torch.where(self.is_off, 0.0, value)

    def divergence(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B A"]:
        """KL of the policy to the clone, by action dimension; nats."""
        assert self.clone is not None, "follow a clone first"
        with torch.no_grad():
            cloned_mean, cloned_log_std = self.clone(obs)
        mean, log_std = self.actor(obs)
        return gaussian_divergence(mean, log_std, cloned_mean, cloned_log_std)

    def sample(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B"]]:
        """An action of the policy, and its divergence from the clone."""
        action, _ = self.actor.sample(obs)
        return action, self.divergence(obs).sum(-1)

    def next_value(self, next_obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        """min_i Q'_i(s', a') - lambda KL, with KL up to its limit."""
        action, _ = self.actor.sample(next_obs)
        value = self.target_critics(next_obs, action).amin(1)
        return value + self._term(next_obs) if self.entropy_in_target else value

    @torch.no_grad()
    def bonus(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"] | None:
        """-lambda KL; unknown without the clone, which an evaluation does not have."""
        if not self.entropy_in_target:
            return obs.new_zeros(obs.shape[:-1])
        return None if self.clone is None else self._term(obs)

    def _term(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        limited = self.divergence(obs).clamp(max=self.divergence_limit).sum(-1)
        return -self.temperature.unsqueeze(1) * limited

    def reward_bounds(self, low: float, high: float) -> tuple[float, float]:
        if not self.entropy_in_target:
            return low, high
        most = max(self.highest_temperature, float(self.temperature.max()))
        return low - most * self.divergence_limit * self.spec.action_dim, high

    def _update_policy(self, batch: Transition) -> dict[str, Tensor]:
        measured = super()._update_policy(batch)
        measured["divergence"] = -measured.pop("entropy")
        measured["weight"] = measured.pop("temperature")
        return measured

    def _update_temperature(self, batch: Transition) -> dict[str, Tensor]:
        return {"weight": super()._update_temperature(batch)["temperature"]}
