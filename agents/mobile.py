"""SAC with targets reduced by the disagreement of values under a model's members: MOBILE.

Model-Bellman inconsistency penalised offline policy optimisation, ICML 2023. The penalty is
computed in every update with the current policy and critics, so rollouts are not penalised.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.sac import SAC
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Count, Finite, Range
from reverie.world_models.base import WorldModel
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed

Predict = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(obs, action) -> (mean, std)`, each `[S, E, B, D + 1]` over (next_obs, reward), by member."""


class MOBILE(SAC):
    """SAC with y = max(r - penalty U(s, a) + discount (1 - terminated) V(s'), floor).

    Args:
        penalty: beta, reward units per unit of value disagreement; a list gives each seed its own.
        samples: n, next observations sampled from each member's Gaussian.
        target_floor: lower clip of the target, None for none; use 0 if rewards are not negative.
        sac: see `SAC`.

    U is `disagreement` for synthetic transitions and 0 for recorded ones. Needs a world model that
    predicts by member: a probabilistic ensemble with at least two elites, given by `attach`.
    """

    gains_by_compiling = False  # nearly all matrix products: .8 to 1.06 times as fast on a CPU
    predict: Predict | None = None
    penalty: float | Tensor

    def __init__(
        self,
        *,
        penalty: Annotated[PerSeed, Range(0)],
        samples: Count,
        target_floor: Finite | None,
        **sac: Any,
    ) -> None:
        super().__init__(**sac)
        if min(as_list(penalty)) < 0:
            raise Mistake(f"agent.penalty={penalty} must not be negative")
        if samples < 1:
            raise Mistake(f"agent.samples={samples} must be at least 1")
        set_per_seed(self, "penalty", penalty, trailing=1)
        self.samples, self.target_floor = samples, target_floor

    def attach(self, model: WorldModel | None) -> None:
        """Keep the model's prediction; as a function, the model stays out of `state_dict`.

        Raises:
            Mistake: no model, or one that does not predict by two members or more.
        """
        predict = getattr(model, "predict", None)
        members = 0 if predict is None else int(getattr(model, "elites", 1))
        if members < 2:
            found = "there is none" if model is None else type(model).__name__
            raise Mistake(
                f"agent=mobile compares at least 2 members of a world model, but {found}"
                f"{'' if model is None else f' gives {members}'}; choose world_model=ensemble with "
                "world_model.elites of at least 2"
            )
        self.predict = predict

    @torch.no_grad()
    def target(self, batch: Transition) -> Float[Tensor, "S B"]:
        """SAC's target less the penalty on synthetic rows, no lower than the floor."""
        target = super().target(batch)
        uncertainty = self.disagreement(batch.obs, batch.action)
        # where, not a product: a recorded row must not care what the model makes of it.
        target = target - self.penalty * torch.where(batch.is_real, 0.0, uncertainty)
        return target if self.target_floor is None else target.clamp(min=self.target_floor)

    def disagreement(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S B"]:
        """U(s, a): unbiased std over members e of the mean over samples j of min_i Q'_i(s'_ej, a').

        s'_ej is drawn from member e's Gaussian, a' from the policy there. No gradient reaches the
        model, and terminations of s' do not count.

        Raises:
            RuntimeError: no world model was attached.

        Source: MOBILE, the Bellman inconsistency and its public code. Differs: none.
        """
        if self.predict is None:
            raise RuntimeError(
                "MOBILE learns from a fitted world model and has none; call attach(model) first"
            )
        mean, std = (part[..., :-1].unsqueeze(2) for part in self.predict(obs, action))
        seeds, members, _, rows, width = mean.shape
        noise = torch.randn(
            seeds, members, self.samples, rows, width, device=obs.device, dtype=obs.dtype
        )
        drawn = (mean + std * noise).flatten(1, 3)  # [S, E * n * B, D]
        next_action, _ = self.actor.sample(drawn)
        value = self.target_critics(drawn, next_action).amin(1)
        return value.view(seeds, members, self.samples, rows).mean(2).std(1)
