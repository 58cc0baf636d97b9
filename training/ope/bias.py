"""Error of a world model's returns when it replays recorded actions.

A model that is wrong about the data cannot be trusted to evaluate a policy. The recorded actions
are replayed in it from the recorded starts, and its rewards are compared with the recorded ones
over the same steps. This measures errors on the data only; a policy may leave them.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.training.ope.estimates import model_rollouts
from reverie.training.ope.recorded import Recorded, recorded_window
from reverie.world_models.base import Policy, WorldModel


@dataclass(frozen=True)
class ModelBias:
    """Of replays of the recorded actions from each of P rows, in the models of S seeds.

    Attributes:
        bias: `[S, P]` float64, discounted reward of the model minus the recorded one. If recordings
            are cut, it is extrapolated to the missing steps with the same error per step.
        broken: `[S]` share of replays that the model ended with numbers that are not finite.
    """

    bias: Float[Tensor, "S P"]
    broken: Float[Tensor, " S"]


def model_bias(
    model: WorldModel,
    data: Dataset,
    rows: Tensor,
    known: Recorded,
    *,
    seeds: int,
    rollouts: int,
    discount: float,
    box: Float[Tensor, "2 D"] | None,
    device: torch.device,
) -> ModelBias:
    """Replay what was recorded from `rows [P]` on.

    Draws from torch's global generator.

    Args:
        model: of S seeds, or of one that all share; on `device`.
        known: what was recorded from these rows on, under the same discount.
        seeds, rollouts: S, and replays of each recording.
        box: states are kept within it, as those of the policy are.
    """
    window = recorded_window(rows, known.present)
    actions = data.transitions.action[window].to(device)
    replayed = model_rollouts(
        model,
        _replay(actions, rollouts),
        data.transitions.obs[rows].to(device),
        seeds=seeds,
        rollouts=rollouts,
        limit=actions.shape[1],
        discount=discount,
        box=box,
        lengths=known.present,
        lasted=None if data.dt is None else data.dt[window].to(device),
    )
    missed = replayed.values.mean(1).cpu() - known.earned
    return ModelBias(missed / (1 - known.continued), replayed.broken.cpu())


def _replay(actions: Float[Tensor, "P T A"], rollouts: int) -> Policy:
    """Take these actions one after the other, whatever the model shows."""
    steps = iter(actions.repeat(rollouts, 1, 1).unbind(1))
    return lambda obs: next(steps).expand(len(obs), -1, -1)
