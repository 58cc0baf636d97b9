"""Sparse equations refined on windows of their own predictions, see `world_models.forcing`.

Generalised teacher forcing, arXiv:2306.04406, of the coefficients of SINDy-RL, arXiv:2403.09110.
Regression chooses the terms; their numbers then follow the gradient of many steps in a row.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.ranges import Count, Decay, Inside, Positive
from reverie.world_models.forced_fit import ForcedFit
from reverie.world_models.forcing import Cell, Forcing
from reverie.world_models.selection import MULTI_STEP, Cut, cut
from reverie.world_models.sindy.dictionary import Monomials, spread_of
from reverie.world_models.sindy.equations import SparseEquations


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How coefficients are refined, see `forced_fit.ForcedFit`.

    Args:
        learning_rate, batch: of Adam, windows per member and update. A coefficient counts in stds
            of its target per root mean square of its term.
        holdout_fraction: of the episodes that are seen; of a single one its end.
        holdout_limit: at most so many rows measure the fit.
        improvement, patience, max_epochs: see `ProbabilisticEnsemble`.
    """

    learning_rate: Positive
    batch: Count
    holdout_fraction: Inside
    holdout_limit: Count
    improvement: Decay
    patience: Count
    max_epochs: Count | Literal["auto"] | None

    def signature(self) -> dict[str, Any]:
        """Plain values by which fits are told apart."""
        return asdict(self)


class EquationsCell(Cell):
    """One step of the median and of every member, `[L, 1 + E]`, each by equations of its own.

    The state stays within the box of the data, beyond which rollouts end: there polynomials run
    away. What is judged is the prediction itself.

    Args:
        model: with the equations that regression found; zeros in them remain.
        rows: with the units of observations and reward.
        table: `[R, D + A]` (obs, action) of rows that are learned from.
        changes: `[R, D + 1]` what the equations say of them, for their units.
    """

    def __init__(self, model: SparseEquations, rows: Cut, table: Tensor, changes: Tensor) -> None:
        self.model, self.given = model, model.spec.exogenous
        self.dim = model.spec.obs_dim
        self.mean, self.std = rows.mean[: self.dim], rows.std[: self.dim]
        self.unit = torch.cat([self.std, rows.reward_std.unsqueeze(0)])
        learned = [column for column in range(self.dim + 1) if column not in self.given]
        self.learned = torch.tensor(learned, device=self.mean.device)
        found = torch.cat([model.coefficients.unsqueeze(1), model.members], 1)
        self.used = (found != 0).flatten(0, 2).any(0)
        self.start = found[..., self.used]  # [L, 1 + E, D + 1, F]
        self.features = Monomials(model.powers[self.used.cpu().numpy()]).to(found.device)
        obs, action = table.split([self.dim, table.shape[-1] - self.dim], -1)
        size = self.features(model.inputs_of(obs, action)).square().mean(-1).sqrt()
        unit = spread_of(changes).unsqueeze(-1) / size
        self.step = torch.where((self.start != 0) & (size > 0), unit, 0.0)
        self.network = nn.Module()
        self.moved = self.network.moved = nn.Parameter(torch.zeros_like(self.start))
        low, high = ((each - self.mean) / self.std for each in model.box.unbind(1))
        self.low, self.high = low[:, None, None], high[:, None, None]

    def weights(self) -> Float[Tensor, "L M Y F"]:
        """The coefficients now."""
        return self.start + self.step * self.moved

    def move(
        self, state: Float[Tensor, "L M B D"], action: Float[Tensor, "L M B A"]
    ) -> tuple[Float[Tensor, "L M B D"], tuple[Tensor, ...]]:
        obs = state * self.std + self.mean
        values = (self.weights() @ self.features(self.model.inputs_of(obs, action))).mT
        predicted = self.model.outcome(obs, values)
        following = (predicted[..., :-1] - self.mean) / self.std
        return following.clamp(self.low, self.high), (predicted,)

    def judge(
        self,
        state: Tensor,
        following: Tensor,
        told: tuple[Tensor, ...],
        next_obs: Tensor,
        reward: Tensor,
    ) -> tuple[Float[Tensor, "L M N"], Float[Tensor, "L M N"]]:
        """Squared error of next observation and reward in variances, mean over both."""
        truth = torch.cat([next_obs * self.std + self.mean, reward], -1)
        error = ((told[0] - truth) / self.unit).square()
        error = error.index_select(-1, self.learned).mean(-1)
        return error, error


def refine(
    model: SparseEquations,
    data: Dataset,
    seen: Bool[Tensor, " N"],
    *,
    forcing: Forcing,
    refinement: Refinement,
    bagged: bool,
    seed: int,
) -> dict[str, Any]:
    """Refine median and members in place, all at once, and say how.

    The median sees every window, and so do members that are not `bagged`; others a bootstrap
    sample each. One whose error over many steps never falls below that of regression stays as it
    was.

    Raises:
        Mistake: no rows for a holdout; an error was not finite.
    """
    device = model.coefficients.device
    rows = cut(data, seen, refinement.holdout_fraction, seed, device)
    known = data.transitions[rows.train].to(device)
    changes = known.next_obs - known.obs if model.target == "increment" else known.next_obs
    cell = EquationsCell(
        model,
        rows,
        torch.cat([known.obs, known.action], -1),
        torch.cat([changes, known.reward.unsqueeze(-1)], -1),
    )
    lead = (cell.start.shape[0], cell.start.shape[1])
    fit = ForcedFit(
        forcing=forcing,
        select_by=MULTI_STEP,
        select_steps=forcing.steps,
        batch=refinement.batch,
        learning_rate=refinement.learning_rate,
        holdout_limit=refinement.holdout_limit,
        improvement=refinement.improvement,
        patience=refinement.patience,
        max_epochs=refinement.max_epochs,
        precision="float32",
        wrap=_as_it_is,
        whole=1 if bagged else lead[1],
        refines=True,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        with torch.enable_grad():
            stopping, said = fit.run(cell, cell, lead, rows, data, None)
    stopping.require_finite("or lower world_model.refinement.learning_rate")
    found = cell.weights().detach()
    model.coefficients[..., cell.used] = found[:, 0]
    model.members[..., cell.used] = found[:, 1:]
    return said


def _as_it_is(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return function
