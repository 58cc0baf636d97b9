"""DARC, arXiv:2006.13916: SAC in a simulator, with rewards corrected for wrong dynamics."""

from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.discriminators import Discriminators, DiscriminatorSettings, successor
from reverie.agents.losses import masked_mean
from reverie.agents.sac import SAC
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.mistake import Mistake
from reverie.ranges import Range
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed


class DARC(SAC):
    """SAC on simulated transitions with r + correction log M(s'|s, a) / Mhat(s'|s, a).

    Args:
        discriminators: keywords of `Discriminators`.
        correction: weight of the log ratio, environment reward per nat;
            a list gives each seed its own.
        learn_from_real: actor, critics and temperature also learn from recorded transitions, whose
            reward is not corrected (DARC+ of H2O, arXiv:2206.13464).
        sac: see `SAC`.
    """

    correction: float | Tensor

    def __init__(
        self,
        *,
        discriminators: DiscriminatorSettings,
        correction: Annotated[PerSeed, Range(0)],
        learn_from_real: bool,
        **sac: Any,
    ) -> None:
        super().__init__(**sac)
        if min(as_list(correction)) < 0:
            raise Mistake(
                f"agent.correction={correction} must not be negative: it would pay for steps that "
                "only the simulator makes"
            )
        self.discriminators = Discriminators(spec=self.spec, seeds=self.seeds, **discriminators)
        set_per_seed(self, "correction", correction, trailing=1)
        self.learn_from_real = learn_from_real

    def prepare(self, data: Dataset) -> None:
        super().prepare(data)
        self.discriminators.prepare(data)

    def bonus(self, obs: Float[Tensor, "S B D"]) -> None:
        """Corrections depend on the successors, too."""

    def reward_bounds(self, low: float, high: float) -> tuple[float, float]:
        most = float(torch.as_tensor(self.correction).max()) * 2 * self.discriminators.logit_bound
        return super().reward_bounds(low - most, high + most)

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        rows, measured = self.discriminators.learn(batch)
        if not self.learn_from_real:
            rows = select_simulated(rows)
        log_ratio = self.discriminators.log_ratio(rows.obs, rows.action, successor(rows))
        measured["log_ratio"] = masked_mean(log_ratio, ~rows.is_real)
        correction = torch.where(rows.is_real, 0.0, self.correction * log_ratio)
        return measured | super().update(replace(rows, reward=rows.reward + correction))


def select_simulated(batch: Transition) -> Transition:
    """The simulated rows over and over, as many rows as there were: shapes stay fixed.

    A seed without any keeps its real rows.
    """
    simulated_first = batch.is_real.int().argsort(dim=1, stable=True)
    count = (~batch.is_real).sum(1, keepdim=True)
    count = torch.where(count == 0, batch.shape[1], count)
    turn = torch.arange(batch.shape[1], device=count.device) % count  # [S, B]
    index = simulated_first.gather(1, turn)
    seed = torch.arange(len(index), device=index.device).unsqueeze(1)
    return batch[seed, index]
