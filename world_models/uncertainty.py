"""How uncertain an ensemble is of a state and an action: penalties of MOPO, the limit of MOReL.

MOPO: arXiv:2005.13239, MOReL: arXiv:2005.05951. Each is a pure function of the Gaussians that all
E members predict for the same input, in raw units but for `STANDARDISED`, observation dimensions
first and the reward last. Means may be of the change or of the next observation: only their
differences count.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.world_models.base import WorldModel
from reverie.world_models.measures import quantile

_BLOCK = 2048
CONSTANT = 1e-6
"""Standard deviation of an observation below which it counts as constant, and is no unit."""

Uncertainty = Callable[[Tensor, Tensor], Tensor]


def max_aleatoric(
    mean: Float[Tensor, "S E B D1"], std: Float[Tensor, "S E B D1"]
) -> Float[Tensor, "S B"]:
    """u = max_e ||std_e||_2 over observation and reward dimensions.

    Source: MOPO, arXiv:2005.13239, section 4.3, the form behind its published results; all
    members count, not only the elites. Differs: none.
    """
    return torch.linalg.vector_norm(std, dim=-1).amax(1)


def pairwise_difference(
    mean: Float[Tensor, "S E B D1"], std: Float[Tensor, "S E B D1"]
) -> Float[Tensor, "S B"]:
    """u = max_e ||mean_e - mean_over_members||_2 over observation dimensions.

    Source: the `pairwise-diff` penalty of OfflineRL-Kit's MOPO. Despite the name it measures the
    distance to the ensemble's mean, not between pairs. Differs: none.
    """
    obs_mean = mean[..., :-1]
    distance = torch.linalg.vector_norm(obs_mean - obs_mean.mean(1, keepdim=True), dim=-1)
    return distance.amax(1)


def ensemble_std(
    mean: Float[Tensor, "S E B D1"], std: Float[Tensor, "S E B D1"]
) -> Float[Tensor, "S B"]:
    """u = sqrt(mean over observation dimensions of Var_e[mean_e]), population variance.

    Source: the `ensemble_std` penalty of OfflineRL-Kit's MOPO. Differs: none. Given means in
    standard deviations of the observations (`scaled_ensemble_std`) it is the doubt of NEUBAY,
    arXiv:2512.04341, which standardises changes and rewards instead.
    """
    return mean[..., :-1].var(1, correction=0).mean(-1).sqrt()


def max_pairwise(
    mean: Float[Tensor, "S E B D1"], std: Float[Tensor, "S E B D1"]
) -> Float[Tensor, "S B"]:
    """u = max_{i<j} ||mean_i - mean_j||_2 over observation dimensions.

    Source: the disagreement of MOReL, arXiv:2005.05951. Differs: means come in standard
    deviations of the observations, see `STANDARDISED`.
    """
    obs_mean = mean[..., :-1].transpose(1, 2)  # [S, B, E, D]
    # The faster way by matrix products loses the digits of members that agree.
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(obs_mean, obs_mean, compute_mode=exact).amax((-1, -2))


def dropout_std(mean: Float[Tensor, "S E K B D1"]) -> Float[Tensor, "S B"]:
    """u = max_e sqrt(mean over observation dimensions of Var_k[mean_ek]), population variance.

    Args:
        mean: of K passes in which every network leaves out other hidden units.

    Source: the spread of Monte Carlo dropout, arXiv:1506.02142, in the form of `ensemble_std`.
    """
    return mean[..., :-1].var(2, correction=0).mean(-1).sqrt().amax(1)


UNCERTAINTIES: dict[str, Uncertainty] = {
    "max_aleatoric": max_aleatoric,
    "pairwise_difference": pairwise_difference,
    "ensemble_std": ensemble_std,
    "scaled_ensemble_std": ensemble_std,
    "max_pairwise": max_pairwise,
}

STANDARDISED = ("max_pairwise", "scaled_ensemble_std")
"""Those that are given means in standard deviations of the observations, not in raw units."""

DROPOUT = "dropout"
"""Needs passes of its own: `dropout_std` is a function of those, not of the members' Gaussians."""

DISAGREEMENTS = ("pairwise_difference", "ensemble_std", "scaled_ensemble_std", "max_pairwise")
"""Those that compare members and are therefore zero for a single model."""


def uncertainty_named(name: str, members: int) -> Uncertainty:
    """Look up a penalty by its configuration name, refusing disagreement among one member."""
    if name not in UNCERTAINTIES:
        known = sorted([*UNCERTAINTIES, DROPOUT])
        raise Mistake(f"world_model.uncertainty={name!r} is unknown; use one of {known}")
    if members < 2 and name in DISAGREEMENTS:
        raise Mistake(
            f"world_model.uncertainty={name!r} compares members, but world_model.members={members}"
            " leaves nothing to compare; use max_aleatoric, dropout or more members"
        )
    return UNCERTAINTIES[name]


def limit_on_uncertainty(
    model: WorldModel, data: Dataset, seeds: int, level: float
) -> tuple[Float[Tensor, " S"], Float[Tensor, "S N"]]:
    """The quantile `level` of a model's u over all recorded rows, and u itself.

    Rows that the fit saw are among them, so the limit is a low one.

    Raises:
        Mistake: it is not finite.
    """
    uncertainty = recorded_uncertainty(model, data, seeds)
    limit = quantile(uncertainty, level)
    require_finite(limit, data)
    return limit, uncertainty


def require_finite(limit: Float[Tensor, " S"], data: Dataset) -> None:
    """Refuse a limit that lets everything pass, or nothing."""
    if not limit.isfinite().all():
        raise Mistake(
            f"the world model's uncertainty of rows of dataset {data.name} is not finite, so "
            "it sets no limit; look at world_model.png, or fit again with a lower "
            "world_model.learning_rate"
        )


def recorded_uncertainty(model: WorldModel, data: Dataset, seeds: int) -> Float[Tensor, "S N"]:
    """A world model's u of every recorded state and action, with its past where it counts."""
    tensors = (*model.parameters(), *model.buffers())
    device = tensors[0].device if tensors else torch.device("cpu")
    found = []
    for block in torch.arange(len(data)).split(_BLOCK):
        rows = data.transitions[block].to(device)
        obs, action = (column.expand(seeds, -1, -1) for column in (rows.obs, rows.action))
        past = model.recorded_state(data, block)
        past = None if past is None else past.expand(seeds, -1, -1)
        found.append(model.step(obs, action, state=past).uncertainty)
    return torch.cat(found, 1)
