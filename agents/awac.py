"""AWAC, arXiv:2006.09359: an actor-critic that imitates recorded actions by their advantage."""

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.losses import advantage_weight, masked_mean
from reverie.agents.networks import GaussianActor
from reverie.agents.sac import SAC
from reverie.datasets.columns import taken_actions
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Positive, Range
from reverie.world_models.optimiser import Adam
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed


class AWAC(SAC):
    """SAC's critics, and a policy trained by weighted imitation instead of their gradient.

    Its entropy is used only if `entropy_in_target` is on.

    Args:
        inverse_temperature: 1 / lambda; larger values weight high advantages more; a list gives
            each seed its own.
        max_weight: upper clip of exp(A / lambda).
        squashed: SAC's tanh-Gaussian, whose std depends on the state; false: a Gaussian in action
            space with one std for all states.
        sac: see `SAC`.
    """

    imitates = True
    inverse_temperature: float | Tensor
    actor: Any

    def __init__(
        self,
        *,
        inverse_temperature: Annotated[PerSeed, Range(0)],
        max_weight: Positive,
        squashed: bool,
        **sac: Any,
    ) -> None:
        super().__init__(**sac)
        if self.anchors:
            raise Mistake(
                f"agent.imitation={sac['imitation']} adds nothing to AWAC, whose actor only "
                "imitates; set agent.imitation=0"
            )
        if min(as_list(inverse_temperature)) < 0:
            raise Mistake(
                f"agent.inverse_temperature={inverse_temperature} must not be negative: it would "
                "prefer the worst actions; 0 is plain imitation"
            )
        set_per_seed(self, "inverse_temperature", inverse_temperature, trailing=1)
        self.max_weight = max_weight
        if not squashed:
            self.actor = GaussianActor(
                seeds=self.seeds,
                obs_dim=self.spec.obs_dim,
                action_dim=self.spec.action_dim,
                hidden=sac["hidden"],
                activation=sac["activation"],
                log_std_bounds=sac["log_std_bounds"],
            )
            self.actor_optimiser = Adam(
                self.actor.parameters(),
                sac["actor_learning_rate"],
                cosine_steps=sac["updates"] if sac["actor_cosine"] else None,
            )

    @torch.no_grad()
    def imitation_weight(
        self, batch: Transition, action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S B"]:
        """min(exp(A / lambda), max_weight), A = min_i Q_i(s, a) - min_i Q_i(s, a_pi)."""
        value = self.critics(batch.obs, batch.action).amin(1)
        advantage = value - self.critics(batch.obs, action).amin(1)
        return advantage_weight(advantage, self.inverse_temperature, self.max_weight)

    def actor_loss(
        self, batch: Transition, action: Float[Tensor, "S B A"], log_prob: Float[Tensor, "S B"]
    ) -> Float[Tensor, " S"]:
        """-mean over real rows of w log pi(a|s), a the recorded action."""
        weight = self.imitation_weight(batch, action)
        likelihood = self.actor.log_prob(batch.obs, batch.action, taken_actions(batch))
        return -masked_mean(weight * likelihood, batch.is_real)
