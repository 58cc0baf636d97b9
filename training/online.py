"""Online training: steps in the true environment and refits of the world model between updates.

MBPO, arXiv:1906.08253, algorithm 2. Collected rows join the dataset in the replay stream `real`,
so that batches and start states of rollouts come from both; refits are events of the one loop.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import GrowingReplay
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count, UnitInterval, Whole
from reverie.training.seeding import side_stream
from reverie.world_models.base import WorldModel
from reverie.world_models.model_updates import ModelUpdates
from reverie.world_models.simulator import Collection


class Online:
    """Settings of the group `online`.

    Args:
        spec, seeds: of the task, and S.
        environments, steps, every, capacity: see `world_models.simulator.Collection`.
        refit_every: environment steps per seed between refits of the world model; 0 = never.
        warm: a refit starts from the current weights instead of new ones.
        collected_share: share of collected transitions among the real ones of a batch and the
            start states of rollouts; None: their share of all real ones.

    Raises:
        Mistake: no environment, or a number that makes no sense.
    """

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        environments: Count,
        steps: Count,
        every: Count,
        capacity: Count,
        refit_every: Whole,
        warm: bool,
        collected_share: UnitInterval | None,
    ) -> None:
        if spec.env_id is None:
            raise Mistake(
                "online=collect has no environment to step; name it with dataset.env_id=..., or "
                "set online=none"
            )
        self.source = Collection(
            spec=spec,
            seeds=seeds,
            environments=environments,
            steps=steps,
            every=every,
            capacity=capacity,
        )
        rows = steps * environments
        if isinstance(refit_every, bool) or not isinstance(refit_every, int) or refit_every < 0:
            raise Mistake(f"online.refit_every={refit_every} must be a whole number, 0 = never")
        if refit_every % rows:
            raise Mistake(
                f"online.refit_every={refit_every} must be a multiple of the online.steps * "
                f"online.environments = {rows} steps that a rollout round collects"
            )
        self.refit_every, self.warm = refit_every // rows * every, warm
        self.collected_share = collected_share

    def refit(
        self,
        model: WorldModel | None,
        data: Dataset,
        replay: GrowingReplay,
        device: torch.device,
    ) -> "Refit | None":
        """The refits of a run; None where there is no model, or nobody asked.

        Raises:
            Mistake: the model cannot be fitted again.
        """
        if model is None or not self.refit_every:
            return None
        model.require_refit()
        return Refit(model, data, replay, self.refit_every, self.warm, device)


class Refit(ModelUpdates):
    """Fits the world model again to the dataset and to what each seed has collected."""

    def __init__(
        self,
        model: WorldModel,
        data: Dataset,
        replay: GrowingReplay,
        every: int,
        warm: bool,
        device: torch.device,
    ) -> None:
        super().__init__(model, every)
        self.data, self.replay = data, replay
        self.warm, self.device = warm, device

    def compile(self, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        # A refit has as many rows as were collected, so each would be compiled anew.
        self.model.compile_update(lambda function: function)

    def change(self) -> dict[str, Tensor]:
        # A fit lasts until the slowest seed has stopped. On a stream of its own it takes one
        # number from the run's, so no seed's later draws depend on another seed's fit.
        seed = int(torch.randint(2**62, ()))
        with side_stream(seed, self.device):
            return self.model.refit(self.data, self.replay.added_rows(), warm=self.warm)
