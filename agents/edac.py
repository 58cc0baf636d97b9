"""SAC with many critics whose action gradients are diversified: EDAC, SAC-N and RAVL.

EDAC: arXiv:2110.01548. Without the diversity term it is SAC-N of the same paper; on rollouts of a
world model, without any penalty, it is RAVL (arXiv:2402.12527).
"""

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.losses import gradient_similarity
from reverie.agents.networks import initialise_
from reverie.agents.sac import SAC
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Finite, NonNegative, Range
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed


class EDAC(SAC):
    """SAC with the critic loss sum_i mean (Q_i - y)^2 + diversity ES, see `gradient_similarity`.

    Args:
        diversity: eta, weight of the similarity of the critics' action gradients; 0 omits the
            term, a list gives each seed its own.
        diversity_critics: critics sampled in every update for that term, None for all.
        hidden_bias: initial hidden biases of actor and critics, None as in `nn.Linear`.
        actor_output_bound, critic_output_bound: their last layers are initialised uniformly in
            +-bound, None as in `nn.Linear`.
        sac: see `SAC`.

    With two critics, no diversity and None for the rest it equals SAC bit for bit.
    """

    diversity: float | Tensor

    def __init__(
        self,
        *,
        diversity: Annotated[PerSeed, Range(0)],
        diversity_critics: Annotated[int, Range(2)] | None,
        hidden_bias: Finite | None,
        actor_output_bound: NonNegative | None,
        critic_output_bound: NonNegative | None,
        **sac: Any,
    ) -> None:
        super().__init__(**sac)
        critics = self.critics.critics
        if min(as_list(diversity)) < 0:
            raise Mistake(f"agent.diversity={diversity} must not be negative; 0 switches it off")
        self.diverse = max(as_list(diversity)) > 0
        self.gains_by_compiling = not self.diverse
        if self.diverse and critics < 2:
            raise Mistake(
                f"agent.diversity={diversity} compares critics, but agent.critics={critics}; use "
                "at least 2, or diversity=0"
            )
        if diversity_critics is not None and not 2 <= diversity_critics <= critics:
            raise Mistake(
                f"agent.diversity_critics={diversity_critics} must lie between 2 and "
                f"agent.critics={critics}, or be null for all"
            )
        set_per_seed(self, "diversity", diversity, trailing=0)
        self.diversity_critics = diversity_critics
        for network, bound in (
            (self.actor, actor_output_bound),
            (self.critics, critic_output_bound),
        ):
            initialise_(network.body, hidden_bias=hidden_bias, output_bound=bound)
        self.regulariser.project_(self.critics)
        self.target_critics.load_state_dict(self.critics.state_dict())

    def fit_critics(
        self, batch: Transition, target: Float[Tensor, "S B"]
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, "S N B"]]:
        """Squared TD error of every critic, plus the diversity term at the batch's own actions."""
        if not self.diverse:
            return super().fit_critics(batch, target)
        prediction, gradient = self.critics.with_action_gradient(batch.obs, batch.action)
        loss = self.critic_loss(batch, prediction, target)
        if self.diversity_critics is not None:
            lots = torch.rand(gradient.shape[:2], device=gradient.device)
            drawn = lots.argsort(1)[:, : self.diversity_critics]  # [S, k]
            gradient = gradient.take_along_dim(drawn[..., None, None], 1)
        return loss + self.diversity * gradient_similarity(gradient), prediction
