"""TD3-AWR, arXiv:2504.11453: ReBRAC that imitates recorded actions by their advantage."""

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.losses import advantage_weight, expectile_loss
from reverie.agents.networks import StateValue, initialise_
from reverie.agents.rebrac import ReBRAC
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Finite, NonNegative, Positive, Range, Widths
from reverie.world_models.networks import ActivationName
from reverie.world_models.optimiser import Adam
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed


class TD3AWR(ReBRAC):
    """ReBRAC whose distance to each recorded action has the weight min(exp(T A), max_weight).

    A = min_i Q_i(s, a) - V(s), V an expectile of min_i Q_i over the recorded actions.

    Args:
        hidden, activation, critic_layer_norm, hidden_bias, critic_output_bound, adam_epsilon: see
            `ReBRAC`; V is built as a critic is.
        expectile: of V, in (0, 1); a list gives each seed its own.
        inverse_temperature: T, may be a list too.
        max_weight: upper clip of exp(T A).
        value_learning_rate: of Adam.
        rebrac: see `ReBRAC`.
    """

    expectile: float | Tensor
    inverse_temperature: float | Tensor

    def __init__(
        self,
        *,
        hidden: Widths,
        activation: ActivationName,
        critic_layer_norm: bool,
        hidden_bias: Finite | None,
        critic_output_bound: Positive | None,
        adam_epsilon: NonNegative,
        expectile: Annotated[PerSeed, Range(above=0, below=1)],
        inverse_temperature: Annotated[PerSeed, Range(0)],
        max_weight: Positive,
        value_learning_rate: Positive,
        **rebrac: Any,
    ) -> None:
        super().__init__(
            hidden=hidden,
            activation=activation,
            critic_layer_norm=critic_layer_norm,
            hidden_bias=hidden_bias,
            critic_output_bound=critic_output_bound,
            adam_epsilon=adam_epsilon,
            **rebrac,
        )
        if not all(0 < each < 1 for each in as_list(expectile)):
            raise Mistake(f"agent.expectile={expectile} must lie between 0 and 1, for example 0.7")
        self.value = StateValue(
            seeds=self.seeds,
            obs_dim=self.spec.obs_dim,
            hidden=hidden,
            activation=activation,
            layer_norm=critic_layer_norm,
        )
        initialise_(self.value.body, hidden_bias=hidden_bias, output_bound=critic_output_bound)
        self.value_optimiser = Adam(self.value.parameters(), value_learning_rate, eps=adam_epsilon)
        set_per_seed(self, "expectile", expectile, trailing=1)
        set_per_seed(self, "inverse_temperature", inverse_temperature, trailing=1)
        self.max_weight = max_weight

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        """ReBRAC's, and then V, which only the next update looks at."""
        return super().update(batch) | self._update_value(batch)

    @torch.no_grad()
    def imitation_weight(self, batch: Transition) -> Float[Tensor, "S B"]:
        """min(exp(T A), max_weight) of standardised observations."""
        value = self.critics(batch.obs, batch.action).amin(1)
        advantage = value - self.value(batch.obs)
        return advantage_weight(advantage, self.inverse_temperature, self.max_weight)

    def _update_value(self, batch: Transition) -> dict[str, Tensor]:
        obs = self.standardise(batch.obs)
        with torch.no_grad():
            recorded = self.critics(obs, batch.action).amin(1)
        value = self.value(obs)
        loss = expectile_loss(recorded - value, self.expectile)
        self.value_optimiser.step(loss)
        return {"value_loss": loss.detach(), "state_value": value.detach().mean(1)}
