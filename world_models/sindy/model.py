"""E-SINDy: sparse equations for the next state and the reward, fitted by pysindy, run by torch.

SINDy-RL, arXiv:2403.09110. Next state and reward are sparse combinations of monomials of state and
control; an ensemble of bootstrap fits gives the median that predicts and the spread that is the
uncertainty.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition, concatenate
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative, Range, Whole
from reverie.world_models.base import FitProgress
from reverie.world_models.fitting import held_out_episodes, rows_of
from reverie.world_models.forcing import Forcing
from reverie.world_models.sindy.dictionary import (
    CONSTANT,
    Monomials,
    circles,
    legend,
    library_of,
    powers_of,
    spread_of,
)
from reverie.world_models.sindy.equations import SparseEquations, partners
from reverie.world_models.sindy.open_loop_gate import open_loop
from reverie.world_models.sindy.refinement import Refinement, refine
from reverie.world_models.sindy.regression import Regression, Table
from reverie.world_models.termination import Termination, resolve

log = logging.getLogger(__name__)

TARGETS = ("increment", "next")
PREDICTIONS = ("median", "member")

# A value at the edge of a column's range in so many rows is a clip or a contact, not a chance.
_CLIPPED_ROWS = 3
# Bytes of a feature matrix that are refused.
_MEMORY = 4 * 2**30


class SINDy(SparseEquations):
    """Sparse equations per seed: medians of an ensemble, bagged by seed.

    Everything is in the environment's own units, nothing is normalised; actions are mapped from
    [-1, 1] to the box first. Columns that form a cosine and a sine are divided by their norm after
    every step. Columns that the task clips (many rows exactly at the edge of the range) are
    clipped in the step, and the rows at the clip leave the fit, for they are not smooth. A step
    that leaves the box of the data, or diverges, has a next observation of NaN, which rollouts
    drop: their end is no termination.

    Args:
        spec, seeds, seed: of the task, S, and of every draw.
        library, degree, interactions: of the dynamics, see `dictionary.library_of`.
        target: fit the `increment` x' - x, or the `next` state itself as the paper.
        threshold: coefficients below leave, in raw units; null chooses out of `thresholds`.
        thresholds: ascending candidates, judged by one fit each on held-out rows.
        cliff, tolerance: jump of the held-out error that marks the knee, and what a sparser model
            may cost where there is none, see `dictionary.knee`.
        alpha: ridge penalty while terms are chosen; the final values have none.
        members: E fits, whose median predicts.
        bagging, library_ensemble: how they differ, see `dictionary.ensemble_fit`. Uncertainty is
            measured on fits without library ensembling.
        prediction: `median`, or a random `member` for each row and step.
        reward_library, reward_degree, reward_threshold: of the reward, which is a function of
            state and control before the step; a threshold of null as above.
        angles: `auto`, or index pairs [cosine, sine]. Of a pair the later column enters a monomial
            of `quotient` and `polynomial` at most once.
        box_margin: the box is the range of the data, wider by this share on each side.
        fit_rows: at most so many rows are fitted, drawn at random.
        forcing: None for regression alone; else the coefficients that it found are refined on
            windows, whose states are drawn to the record, see `refinement.refine`.
        refinement: how, where they are.
        gate_steps, gate_error: warn where the median open-loop error after so many steps exceeds
            so many standard deviations of the state.
        per_seed: one ensemble per seed, or one shared by all seeds.
        termination, terminal_head: see `world_models.termination`.
        heldout_episodes: whole episodes (at most a tenth) kept out of the fit; 0 for none, a tenth
            then still judges thresholds.

    Source: arXiv:2403.09110 and its code. Differs: increments, a constant, no second powers of
    sines and thresholds by a knee are our defaults; `conf/world_model/sindy.yaml` has the paper's.
    """

    fit_unit = "seeds"
    better_fit = "raise world_model.degree, or choose another world_model.library"

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        library: str,
        degree: Count,
        interactions: bool,
        target: str,
        threshold: NonNegative | None,
        thresholds: Sequence[NonNegative],
        cliff: Annotated[float, Range(above=1)],
        tolerance: NonNegative,
        alpha: NonNegative,
        members: Count,
        bagging: bool,
        library_ensemble: bool,
        prediction: str,
        reward_library: str,
        reward_degree: Count,
        reward_threshold: NonNegative | None,
        angles: str | Sequence[Sequence[Whole]],
        box_margin: NonNegative,
        fit_rows: Count,
        forcing: Forcing | None,
        refinement: Refinement,
        gate_steps: Count,
        gate_error: Annotated[float, Range(above=0, infinite=True)],
        per_seed: bool,
        termination: str,
        terminal_head: Callable[..., Termination],
        heldout_episodes: Whole,
    ) -> None:
        for name, value, known in (
            ("target", target, TARGETS),
            ("prediction", prediction, PREDICTIONS),
        ):
            if value not in known:
                raise Mistake(f"world_model.{name}={value!r} must be one of {known}")
        for name, count in (
            ("members", members),
            ("fit_rows", fit_rows),
            ("gate_steps", gate_steps),
        ):
            if count < 1:
                raise Mistake(f"world_model.{name}={count} must be at least 1")
        if cliff <= 1:
            raise Mistake(f"world_model.cliff={cliff} must be above 1, a growth of the error")
        for name, share in (("box_margin", box_margin), ("tolerance", tolerance)):
            if share < 0:
                raise Mistake(f"world_model.{name}={share} must not be negative")
        _require_pairs(angles, spec.obs_dim)
        if not thresholds or list(thresholds) != sorted(thresholds):
            raise Mistake(f"world_model.thresholds={list(thresholds)} must ascend and not be empty")
        if spec.copies:
            raise Mistake(
                "world_model=sindy would look for an equation of every column, of copies of others "
                "as well (dataset.history, dataset.copies); choose world_model=ensemble, or set "
                "both to null"
            )
        replicas = seeds if per_seed else 1
        sizes = {"obs_dim": spec.obs_dim, "action_dim": spec.action_dim}
        # The features of the dynamics, then those of the reward; a target has zeros in the other's.
        state_library = library_of(library, **sizes, degree=degree, interactions=interactions)
        reward = library_of(reward_library, **sizes, degree=reward_degree, interactions=True)
        parts = [powers_of(part, **sizes) for part in (state_library, reward)]
        powers = np.concatenate(parts)
        if len(powers) * fit_rows * 8 > _MEMORY:
            raise Mistake(
                f"world_model: {len(powers)} features of {fit_rows} rows do not fit; lower "
                "world_model.degree or world_model.fit_rows, or project the observations on fewer "
                "modes (SVD) before they become a dataset"
            )
        super().__init__(
            spec=spec,
            seeds=seeds,
            replicas=replicas,
            members=members,
            powers=powers,
            of_state=np.arange(len(powers)) < len(parts[0]),
            target=target,
            prediction=prediction,
            termination=resolve(
                termination, spec, lambda: terminal_head(spec=spec, seeds=replicas)
            ),
        )
        self.seed, self.heldout_episodes = seed, heldout_episodes
        self.forcing, self.refinement = forcing, refinement
        self.settings: dict[str, Any] = {
            "library": library,
            "degree": degree,
            "interactions": interactions,
            "target": target,
            "threshold": threshold,
            "thresholds": list(thresholds),
            "cliff": cliff,
            "tolerance": tolerance,
            "alpha": alpha,
            "members": members,
            "bagging": bagging,
            "library_ensemble": library_ensemble,
            "prediction": prediction,
            "reward_library": reward_library,
            "reward_degree": reward_degree,
            "reward_threshold": reward_threshold,
            "angles": angles if isinstance(angles, str) else [list(pair) for pair in angles],
            "box_margin": box_margin,
            "fit_rows": fit_rows,
            "gate_steps": gate_steps,
            "gate_error": gate_error,
        }

    def signature(self) -> dict[str, Any]:
        return {
            "model": type(self).__name__,
            "obs_dim": self.spec.obs_dim,
            "action_dim": self.spec.action_dim,
            "action_box": [list(self.spec.action_low), list(self.spec.action_high)],
            "seed": self.seed,
            "replicas": self.replicas,
            "termination": self.termination.signature(),
            "heldout_episodes": self.heldout_episodes,
            **self.settings,
            **self._forced_by(),
            **({"exogenous": list(self.spec.exogenous)} if self.spec.exogenous else {}),
            **({"columns": columns} if (columns := legend(self.spec)) else {}),
        }

    def _forced_by(self) -> dict[str, Any]:
        if self.forcing is None:
            return {}
        return {
            "forcing": self.forcing.signature(),
            "refinement": self.refinement.signature(),
        }

    def held_out(self, data: Dataset) -> Int[Tensor, " P"]:
        """Episodes of this dataset that the fit does not see."""
        return held_out_episodes(data, self.heldout_episodes, self.seed)

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Choose thresholds on held-out rows, then fit every seed's ensemble.

        Returns:
            `equations` of every seed (and what the words in them stand for, where the data name
            their columns), the number of `terms`, `threshold` and `path` (held-out
            error at each candidate) of state and reward, `angles`, `clipped_rows`, the
            `residual_std` of next state and reward, `open_loop` error, and what the termination
            says of its own fit. With forcing also the course of the refinement, as `ForcedFit`
            tells it; its errors by epoch begin with those of regression.

        Raises:
            Mistake: other spaces than the model's, or too few usable rows.
        """
        self.spec.require_same_spaces(data.spec, "the world model", f"dataset {data.name}")
        rows = data.transitions
        usable = data.valid_next
        held = self.held_out(data)
        judged_episodes = held if len(held) else held_out_episodes(data, len(data), self.seed)
        judging, seen = rows_of(data, judged_episodes) & usable, ~rows_of(data, held)
        self._learn_angles(data)
        self._learn_bounds(rows[usable], slice(None))
        clipped = self._clipped(rows, 0)
        generator = torch.Generator().manual_seed(self.seed)
        fitting = self._draw(seen & usable & ~clipped, generator)
        if not judging.any():  # too few episodes to keep one back: rows judge
            judging_rows, path_rows = _tenth(fitting)
        else:
            judging_rows = self._draw(judging & ~clipped, generator)
            path_rows = self._draw(seen & usable & ~clipped & ~judging, generator)
        if min(len(path_rows), len(judging_rows)) < 2:
            raise Mistake(
                f"dataset {data.name} has too few rows to fit equations to ({len(path_rows)} to "
                f"fit, {len(judging_rows)} to judge, {int(clipped.sum())} left out at a clip); use "
                "more data"
            )

        table, judge = self._table(rows[fitting]), self._table(rows[judging_rows])
        thresholds, paths = self._regression().choose(self._table(rows[path_rows]), judge)
        # pysindy fits one ensemble at a time; only rollouts need all seeds at once.
        for replica in range(self.replicas):
            self._solve(replica, table, judge, thresholds, (self.seed, replica))
            if progress is not None:
                progress(replica + 1, min(paths["state"]))
        refined = {} if self.forcing is None else self._refine(data, seen, self.forcing, judge)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            ending = self.termination.fit(data, seen)
        self.unit.copy_(spread_of(rows.next_obs[usable] - rows.obs[usable]))
        self.fitted.fill_(True)
        self._compile()

        equations, columns = self.equations(), legend(self.spec)
        log.info("world model of seed 0:\n  %s", "\n  ".join(equations[0]))
        described = {
            **refined,
            "clipped_rows": int(clipped.sum()),
            "angles": self.angles(),
            "rows": len(fitting),
            "thresholds": thresholds,
            "path": paths,
            "equations": equations,
            **({"columns_of_equations": columns} if columns else {}),
            "terms": [int(count) for count in (self.coefficients != 0).sum((1, 2))],
            "residual_std": self.residual_std.tolist(),
            "termination": ending,
            "open_loop": open_loop(
                self,
                data,
                judged_episodes,
                steps=self.settings["gate_steps"],
                limit=self.settings["gate_error"],
            ),
        }
        return described

    def _refine(
        self, data: Dataset, seen: Bool[Tensor, " N"], forcing: Forcing, judge: Table
    ) -> dict[str, Any]:
        said = refine(
            self,
            data,
            seen,
            forcing=forcing,
            refinement=self.refinement,
            bagged=self.settings["bagging"],
            seed=self.seed,
        )
        features, truth = (torch.from_numpy(each) for each in judge)
        residual = truth - features @ self.coefficients.cpu().double().mT
        self.residual_std.copy_(residual.square().mean(1).sqrt())
        return said

    def require_refit(self) -> None:
        if self.forcing is not None:
            raise Mistake(
                "equations refined on windows of episodes are not fitted again to single rows "
                "that were collected; set online.refit_every=0, or forcing=none"
            )
        if self.replicas != self.seeds:
            raise Mistake(
                f"online training with seeds={self.seeds} needs equations for every seed, for each "
                "collects rows of its own; set world_model.per_seed=true, or online.refit_every=0"
            )
        if self.termination.kind == "learned":
            raise Mistake(
                f"the learned termination rule of {self.spec.env_id} is not fitted again during "
                "a run; set world_model.termination=known or none, or online.refit_every=0"
            )

    def refit(
        self, data: Dataset, added: Transition, *, warm: bool
    ) -> dict[str, Float[Tensor, " S"]]:
        """Equations anew for each seed, from the dataset's rows and its own `added[s]`.

        Thresholds, clips, the box and the residuals are new, judged by a random tenth of the rows
        of the fit; angles and the unit of the uncertainty stay those of the dataset. A regression
        goes on from nothing, so `warm` or not is the same.

        Returns:
            `rows` that were fitted, nonzero `terms`, the `threshold` of the state, and
            `holdout_error`, that of `fit`'s path, at this threshold.
        """
        recorded = data.transitions[data.valid_next]
        seen = ~rows_of(data, self.held_out(data))[data.valid_next]
        own = added.map(lambda column: column.cpu())
        keys = torch.randint(2**31, (self.replicas,)).tolist()
        told: dict[str, list[float]] = {}
        for replica, key in enumerate(keys):  # pysindy fits one ensemble at a time
            rows = concatenate([recorded, own[replica]], 0)
            self._learn_bounds(rows, replica)
            new = torch.ones(len(own.reward[replica]), dtype=torch.bool)
            usable = torch.cat([seen, new]) & ~self._clipped(rows, replica)
            fitting = self._draw(usable, torch.Generator().manual_seed(key))
            judging, rest = _tenth(fitting)
            judge = self._table(rows[judging])
            thresholds, paths = self._regression().choose(self._table(rows[rest]), judge)
            self._solve(replica, self._table(rows[fitting]), judge, thresholds, (key,))
            tried = self.settings["thresholds"]
            found = tried.index(thresholds["state"]) if len(paths["state"]) > 1 else 0
            for name, value in (
                ("rows", len(fitting)),
                ("terms", int((self.coefficients[replica] != 0).sum())),
                ("threshold", thresholds["state"]),
                ("holdout_error", paths["state"][found]),
            ):
                told.setdefault(name, []).append(float(value))
        self._compile()
        device = self.coefficients.device
        return {name: torch.tensor(values, device=device) for name, values in told.items()}

    def _learn_angles(self, data: Dataset) -> None:
        rows, angles = data.transitions, self.settings["angles"]
        pairs = angles
        if angles == "auto":
            pairs = circles(torch.cat([rows.obs, rows.next_obs[data.valid_next]]))
        self.partner.copy_(partners(self.spec.obs_dim, pairs))

    def _learn_bounds(self, rows: Transition, replica: int | slice) -> None:
        """Clips and the box of a seed, from all its rows."""
        seen = torch.cat([rows.obs, rows.next_obs])
        low, high = seen.amin(0), seen.amax(0)
        straight = self.partner.cpu() == torch.arange(self.spec.obs_dim)
        changes = high - low > CONSTANT
        for side, (edge, end) in enumerate(((low, -torch.inf), (high, torch.inf))):
            often = (rows.next_obs == edge).sum(0) >= _CLIPPED_ROWS
            limit = torch.where(often & straight & changes, edge, torch.full_like(edge, end))
            self.limits[replica, side] = limit.to(self.limits.device)
        margin = self.settings["box_margin"] * (high - low)
        self.box[replica] = torch.stack([low - margin, high + margin]).to(self.box.device)

    def _clipped(self, rows: Transition, replica: int) -> Bool[Tensor, " N"]:
        low, high = self.limits[replica].cpu()
        return ((rows.next_obs <= low) | (rows.next_obs >= high)).any(1)

    def _draw(self, rows: Bool[Tensor, " N"], generator: torch.Generator) -> Int[Tensor, " R"]:
        index = rows.nonzero().flatten()
        order = torch.randperm(len(index), generator=generator)
        return index[order[: self.settings["fit_rows"]]]

    def _table(self, rows: Transition) -> Table:
        """Features `[R, F]` and targets `[R, D + 1]` of some rows, float64."""
        control = self.middle.cpu().double() + self.scale.cpu().double() * rows.action.double()
        inputs = torch.cat([rows.obs.double(), control], -1)
        features = Monomials(self.powers)(inputs.mT).mT
        after = rows.next_obs.double()
        held = list(self.spec.exogenous)  # what no action moves stays as it is
        after[:, held] = rows.obs.double()[:, held]
        if self.target == "increment":
            after = after - rows.obs.double()
        return features.numpy(), torch.cat([after, rows.reward.double()[:, None]], -1).numpy()

    def _regression(self) -> Regression:
        sines = [sine for _, sine in self.angles()]
        return Regression(self.powers, self.of_state, self.settings, sines)

    def _solve(
        self,
        replica: int,
        table: Table,
        judge: Table,
        thresholds: dict[str, float],
        seed: Sequence[int],
    ) -> None:
        """Coefficients, members and residuals of one seed."""
        median, members, residual = self._regression().solve(table, judge, thresholds, seed)
        self.coefficients[replica] = torch.from_numpy(median)
        self.members[replica] = torch.from_numpy(members)
        self.residual_std[replica] = torch.from_numpy(residual)


def _require_pairs(angles: str | Sequence[Sequence[int]], size: int) -> None:
    if angles == "auto":
        return
    pairs = [] if isinstance(angles, str) else [list(pair) for pair in angles]
    flat = [index for pair in pairs for index in pair]
    good = all(len(pair) == 2 for pair in pairs) and len(set(flat)) == len(flat)
    if isinstance(angles, str) or not good or not all(0 <= index < size for index in flat):
        raise Mistake(
            f"world_model.angles={angles!r} must be auto or pairs of different columns of the "
            f"observation, 0 to {size - 1}"
        )


def _tenth(rows: Int[Tensor, " R"]) -> tuple[Int[Tensor, " J"], Int[Tensor, " P"]]:
    """A first tenth that judges, and the rest."""
    cut = max(len(rows) // 10, 1)
    return rows[:cut], rows[cut:]
