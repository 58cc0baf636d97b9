"""E-SINDy: sparse equations for the next state and the reward, fitted by pysindy, run by torch.

SINDy-RL, arXiv:2403.09110. Next state and reward are sparse combinations of monomials of state and
control; an ensemble of bootstrap fits gives the median that predicts and the spread that doubts.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datasets.dataset import Dataset
from datasets.transition import Transition, concatenate
from envs.specs import Spec
from world_models.base import FitProgress, Step, WorldModel
from world_models.dictionary import (
    Monomials,
    circles,
    ensemble_fit,
    equation,
    input_names,
    knee,
    library_of,
    powers_of,
    reduced,
    sparse_fit,
    term_names,
)
from world_models.fitting import held_out_episodes, rows_of
from world_models.termination import Termination, resolve

log = logging.getLogger(__name__)

Table = tuple[np.ndarray, np.ndarray]
"""Features `[R, F]` and targets `[R, T]`, float64."""

TARGETS = ("increment", "next")
PREDICTIONS = ("median", "member")

# A value at the edge of a column's range in so many rows is a clip or a contact, not a chance.
_CLIPPED_ROWS = 3
# Columns that do not change have no unit; theirs is 1.
_CONSTANT = 1e-6


class SINDy(WorldModel):
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
        bagging, library_ensemble: how they differ, see `dictionary.ensemble_fit`. Doubt is
            measured on fits without library ensembling.
        prediction: `median`, or a random `member` for each row and step.
        reward_library, reward_degree, reward_threshold: of the reward, which is a function of
            state and control before the step; a threshold of null as above.
        angles: `auto`, or index pairs [cosine, sine]. Of a pair the later column enters a monomial
            of `quotient` and `polynomial` at most once.
        box_margin: the box is the range of the data, wider by this share on each side.
        fit_rows: at most so many rows are fitted, drawn at random.
        gate_steps, gate_error: warn where the median open-loop error after so many steps exceeds
            so many standard deviations of the state.
        per_seed: an ensemble for every seed, or one that all seeds share.
        termination, terminal_head: see `world_models.termination`.
        heldout_episodes: whole episodes (at most a tenth) kept out of the fit; 0 for none, a tenth
            then still judges thresholds.

    Source: arXiv:2403.09110 and its code. Differs: increments, a constant, no second powers of
    sines and thresholds by a knee are our defaults; `conf/world_model/sindy.yaml` has the paper's.
    """

    coefficients: Tensor
    members: Tensor
    partner: Tensor
    limits: Tensor
    box: Tensor
    residual_std: Tensor
    unit: Tensor
    fitted: Tensor
    weights: Tensor
    middle: Tensor
    scale: Tensor

    fit_unit = "seeds"

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        library: str,
        degree: int,
        interactions: bool,
        target: str,
        threshold: float | None,
        thresholds: Sequence[float],
        cliff: float,
        tolerance: float,
        alpha: float,
        members: int,
        bagging: bool,
        library_ensemble: bool,
        prediction: str,
        reward_library: str,
        reward_degree: int,
        reward_threshold: float | None,
        angles: str | Sequence[Sequence[int]],
        box_margin: float,
        fit_rows: int,
        gate_steps: int,
        gate_error: float,
        per_seed: bool,
        termination: str,
        terminal_head: Callable[..., Termination],
        heldout_episodes: int,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("target", target, TARGETS),
            ("prediction", prediction, PREDICTIONS),
        ):
            if value not in known:
                raise ValueError(f"world_model.{name}={value!r} must be one of {known}")
        for name, count in (
            ("members", members),
            ("fit_rows", fit_rows),
            ("gate_steps", gate_steps),
        ):
            if count < 1:
                raise ValueError(f"world_model.{name}={count} must be at least 1")
        if cliff <= 1:
            raise ValueError(f"world_model.cliff={cliff} must be above 1, a growth of the error")
        for name, share in (("box_margin", box_margin), ("tolerance", tolerance)):
            if share < 0:
                raise ValueError(f"world_model.{name}={share} must not be negative")
        _require_pairs(angles, spec.obs_dim)
        if not thresholds or list(thresholds) != sorted(thresholds):
            raise ValueError(
                f"world_model.thresholds={list(thresholds)} must ascend and not be empty"
            )
        self.spec, self.seeds, self.seed = spec, seeds, seed
        self.lanes = seeds if per_seed else 1  # L
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
        self.target, self.prediction = target, prediction
        self.heldout_episodes = heldout_episodes
        self.termination = resolve(
            termination, spec, lambda: terminal_head(spec=spec, seeds=self.lanes)
        )
        sizes = {"obs_dim": spec.obs_dim, "action_dim": spec.action_dim}
        self.inputs = input_names(**sizes)
        # The features of the dynamics, then those of the reward; a target has zeros in the other's.
        state_library = library_of(library, **sizes, degree=degree, interactions=interactions)
        reward = library_of(reward_library, **sizes, degree=reward_degree, interactions=True)
        parts = [powers_of(part, **sizes) for part in (state_library, reward)]
        self.powers = np.concatenate(parts)
        self.of_state = np.arange(len(self.powers)) < len(parts[0])
        features, d = len(self.powers), spec.obs_dim
        if features * fit_rows * 8 > _MEMORY:
            raise ValueError(
                f"world_model: {features} features of {fit_rows} rows do not fit; lower "
                "world_model.degree or world_model.fit_rows, or project the observations on fewer "
                "modes (SVD) before they become a dataset"
            )
        options: dict[str, Any] = {"dtype": torch.float32}
        self.register_buffer("coefficients", torch.zeros(self.lanes, d + 1, features))
        self.register_buffer("members", torch.zeros(self.lanes, members, d + 1, features))
        self.register_buffer("partner", torch.arange(d))
        everywhere = torch.tensor([[-torch.inf], [torch.inf]]).repeat(self.lanes, 1, d)
        self.register_buffer("limits", everywhere)  # [L, 2, D], as the box
        self.register_buffer("box", everywhere.clone())
        self.register_buffer("residual_std", torch.zeros(self.lanes, d + 1))
        self.register_buffer("unit", torch.ones(d))
        self.register_buffer("fitted", torch.tensor(False))
        low, high = (torch.tensor(side, **options) for side in (spec.action_low, spec.action_high))
        self.register_buffer("middle", (low + high) / 2, persistent=False)
        self.register_buffer("scale", (high - low) / 2, persistent=False)
        self.ready = False
        self._compile()
        self.register_load_state_dict_post_hook(lambda module, keys: module._compile())

    def signature(self) -> dict[str, Any]:
        return {
            "model": type(self).__name__,
            "obs_dim": self.spec.obs_dim,
            "action_dim": self.spec.action_dim,
            "action_box": [list(self.spec.action_low), list(self.spec.action_high)],
            "seed": self.seed,
            "lanes": self.lanes,
            "termination": self.termination.signature(),
            "heldout_episodes": self.heldout_episodes,
            **self.settings,
        }

    def held_out(self, data: Dataset) -> Int[Tensor, " P"]:
        """Episodes of this dataset that the fit does not see."""
        return held_out_episodes(data, self.heldout_episodes, self.seed)

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Choose thresholds on held-out rows, then fit every seed's ensemble.

        Returns:
            `equations` of every seed, the number of `terms`, `threshold` and `path` (held-out
            error at each candidate) of state and reward, `angles`, `clipped_rows`, the
            `residual_std` of next state and reward, `open_loop` error, and what the termination
            says of its own fit.

        Raises:
            ValueError: other spaces than the model's, or too few usable rows.
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
        fitting = self._drawn(seen & usable & ~clipped, generator)
        if not judging.any():  # too few episodes to keep one back: rows judge
            judging_rows, path_rows = _tenth(fitting)
        else:
            judging_rows = self._drawn(judging & ~clipped, generator)
            path_rows = self._drawn(seen & usable & ~clipped & ~judging, generator)
        if min(len(path_rows), len(judging_rows)) < 2:
            raise ValueError(
                f"dataset {data.name} has too few rows to fit equations to ({len(path_rows)} to "
                f"fit, {len(judging_rows)} to judge, {int(clipped.sum())} left out at a clip); use "
                "more data"
            )

        table, judge = self._table(rows[fitting]), self._table(rows[judging_rows])
        thresholds, paths = self._choose(self._table(rows[path_rows]), judge)
        # pysindy fits one ensemble at a time; only rollouts need all seeds at once.
        for lane in range(self.lanes):
            self._solve(lane, table, judge, thresholds, (self.seed, lane))
            if progress is not None:
                progress(lane + 1, min(paths["state"]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            ending = self.termination.fit(data, seen)
        self.unit.copy_(_unit(rows.next_obs[usable] - rows.obs[usable]))
        self.fitted.fill_(True)
        self._compile()

        equations = self.equations()
        log.info("world model of seed 0:\n  %s", "\n  ".join(equations[0]))
        described = {
            "clipped_rows": int(clipped.sum()),
            "angles": self.angles(),
            "rows": len(fitting),
            "thresholds": thresholds,
            "path": paths,
            "equations": equations,
            "terms": [int(count) for count in (self.coefficients != 0).sum((1, 2))],
            "residual_std": self.residual_std.tolist(),
            "termination": ending,
            "open_loop": self._gate(data, judged_episodes),
        }
        return described

    def require_refit(self) -> None:
        if self.lanes != self.seeds:
            raise ValueError(
                f"online training with seeds={self.seeds} needs equations for every seed, for each "
                "collects rows of its own; set world_model.per_seed=true, or online.refit_every=0"
            )
        if self.termination.kind == "learned":
            raise ValueError(
                f"the learned termination rule of {self.spec.env_id} is not fitted again during "
                "a run; set world_model.termination=known or none, or online.refit_every=0"
            )

    def refit(
        self, data: Dataset, added: Transition, *, warm: bool
    ) -> dict[str, Float[Tensor, " S"]]:
        """Equations anew for each seed, from the dataset's rows and its own `added[s]`.

        Thresholds, clips, the box and the residuals are new, judged by a random tenth of the rows
        of the fit; angles and the unit of the doubt stay those of the dataset. A regression goes
        on from nothing, so `warm` or not is the same.

        Returns:
            `rows` that were fitted, nonzero `terms`, the `threshold` of the state, and
            `holdout_error`, that of `fit`'s path, at this threshold.
        """
        recorded = data.transitions[data.valid_next]
        seen = ~rows_of(data, self.held_out(data))[data.valid_next]
        own = added.map(lambda column: column.cpu())
        keys = torch.randint(2**31, (self.lanes,)).tolist()
        told: dict[str, list[float]] = {}
        for lane, key in enumerate(keys):  # pysindy fits one ensemble at a time
            rows = concatenate([recorded, own[lane]], 0)
            self._learn_bounds(rows, lane)
            new = torch.ones(len(own.reward[lane]), dtype=torch.bool)
            usable = torch.cat([seen, new]) & ~self._clipped(rows, lane)
            fitting = self._drawn(usable, torch.Generator().manual_seed(key))
            judging, rest = _tenth(fitting)
            judge = self._table(rows[judging])
            thresholds, paths = self._choose(self._table(rows[rest]), judge)
            self._solve(lane, self._table(rows[fitting]), judge, thresholds, (key,))
            tried = self.settings["thresholds"]
            found = tried.index(thresholds["state"]) if len(paths["state"]) > 1 else 0
            for name, value in (
                ("rows", len(fitting)),
                ("terms", int((self.coefficients[lane] != 0).sum())),
                ("threshold", thresholds["state"]),
                ("holdout_error", paths["state"][found]),
            ):
                told.setdefault(name, []).append(float(value))
        self._compile()
        device = self.coefficients.device
        return {name: torch.tensor(values, device=device) for name, values in told.items()}

    def step(
        self, obs: Tensor, action: Tensor, candidates: int = 1, state: Tensor | None = None
    ) -> Step:
        """The median's outcome `candidates` times over, or that of a random member each.

        A row that leaves the box of the data, or is not finite, has a next observation of NaN.
        """
        values, doubt = self._predict(obs, action)  # [S, 1 + E, B, D + 1]
        if self.prediction == "median":
            chosen = values[:, :1].expand(-1, candidates, -1, -1)
        else:
            lead = (values.shape[0], candidates, values.shape[2], 1)
            draw = torch.randint(1, values.shape[1], lead, device=obs.device)
            chosen = values.gather(1, draw.expand(-1, -1, -1, values.shape[-1]))
        chosen = chosen.transpose(0, 1)  # [K, S, B, D + 1]
        next_obs, reward = chosen[..., :-1], chosen[..., -1]
        before = (obs.expand_as(next_obs), action.expand(candidates, *action.shape))
        terminated = self.termination(*before, next_obs)
        low, high = self.box.unsqueeze(2).unbind(1)  # [L, 1, D]
        inside = ((next_obs >= low) & (next_obs <= high)).all(-1, keepdim=True)
        return Step(
            next_obs=torch.where(inside, next_obs, torch.nan),
            reward=reward,
            terminated=terminated,
            uncertainty=(doubt[..., :-1] / self.unit).mean(-1),
        )

    def predict(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> tuple[Float[Tensor, "S 1 B D1"], Float[Tensor, "S 1 B D1"]]:
        """Median of (next_obs, reward) and its std: members' spread and held-out residuals."""
        values, doubt = self._predict(obs, action)
        return values[:, :1], doubt.unsqueeze(1)

    def equations(self) -> list[list[str]]:
        """What each seed's median says, in the environment's units."""
        mark = " - " if self.target == "increment" else None
        lefts = [f"{x}'{mark + x if mark else ''}" for x in self.inputs[: self.spec.obs_dim]]
        return [
            [equation(left, terms) for left, terms in zip([*lefts, "r"], lane, strict=True)]
            for lane in self._terms(self.coefficients)
        ]

    def terms(self) -> list[list[dict[str, float]]]:
        """Nonzero coefficients of each seed's median by name, per column and of the reward."""
        return self._terms(self.coefficients)

    def angles(self) -> list[list[int]]:
        """Index pairs [cosine, sine]."""
        partner = self.partner.tolist()
        return [[index, other] for index, other in enumerate(partner) if index < other]

    def save_json(self, path: Path | str) -> None:
        """Write the fitted equations as readable JSON: terms by name, numbers in raw units."""
        names = [*self.inputs[: self.spec.obs_dim], "reward"]
        record = {
            "model": "sindy",
            "target": self.target,
            "equations": self.equations(),
            "median": [
                dict(zip(names, lane, strict=True)) for lane in self._terms(self.coefficients)
            ],
            "members": [
                [dict(zip(names, member, strict=True)) for member in self._terms(lane)]
                for lane in self.members
            ],
            "angles": self.angles(),
            **{
                name: [
                    [[x if abs(x) < torch.inf else None for x in side] for side in lane]
                    for lane in bounds.tolist()
                ]
                for name, bounds in (("limits", self.limits), ("box", self.box))
            },
            "residual_std": self.residual_std.tolist(),
            "unit": self.unit.tolist(),
        }
        Path(path).write_text(json.dumps(record, indent=1) + "\n")

    def load_json(self, path: Path | str) -> None:
        """Take back what `save_json` wrote, into a model of the same settings.

        A learned termination is not part of the file.

        Raises:
            ValueError: another number of seeds or members, or a term the library does not have.
        """
        record = json.loads(Path(path).read_text())
        shape = [len(record["median"]), len(record["members"][0])]
        if record["target"] != self.target or shape != list(self.members.shape[:2]):
            raise ValueError(
                f"{path} holds equations of the {record['target']} for {shape[0]} seeds with "
                f"{shape[1]} members; the model has target={self.target}, "
                f"{self.members.shape[0]} seeds and {self.members.shape[1]} members"
            )
        self.coefficients.copy_(self._matrix(record["median"], path))
        self.members.copy_(torch.stack([self._matrix(lane, path) for lane in record["members"]]))
        self.partner.copy_(_partners(self.spec.obs_dim, record["angles"]))
        for name, buffer in (("limits", self.limits), ("box", self.box)):
            for bounds, lane in zip(buffer, record[name], strict=True):
                for row, end in enumerate((-torch.inf, torch.inf)):
                    bounds[row] = torch.tensor([end if x is None else x for x in lane[row]])
        self.residual_std.copy_(torch.tensor(record["residual_std"]))
        self.unit.copy_(torch.tensor(record["unit"]))
        self.fitted.fill_(True)
        self._compile()

    def _predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """(next_obs, reward) of the median and of every member `[S, 1 + E, B, D + 1]`, and std."""
        if not self.ready:
            raise RuntimeError("the world model has no equations yet; fit or load it first")
        control = self.middle + self.scale * action
        features = self.program(torch.cat([obs, control], -1).mT)  # [S, F, B]
        values = self.weights @ features  # [S or L, (1 + E) (D + 1), B]
        values = values.unflatten(1, (-1, self.spec.obs_dim + 1)).mT
        change, reward = values[..., :-1], values[..., -1:]
        next_obs = obs.unsqueeze(1) + change if self.target == "increment" else change
        norm = (next_obs.square() + next_obs[..., self.partner].square()).sqrt()
        on_circle = self.partner != torch.arange(len(self.partner), device=obs.device)
        next_obs = torch.where(on_circle, next_obs / norm.clamp(min=1e-12), next_obs)
        low, high = self.limits[:, :, None, None].unbind(1)  # [L, 1, 1, D]
        values = torch.cat([next_obs.clamp(low, high), reward], -1)
        spread = values[:, 1:].var(1, correction=0)
        return values, (spread + self.residual_std.square().unsqueeze(1)).sqrt()

    def _compile(self) -> None:
        """Leave out what is zero everywhere; median and members become one matrix."""
        together = torch.cat([self.coefficients.unsqueeze(1), self.members], 1).flatten(1, 2)
        used = (together != 0).flatten(0, 1).any(0).cpu()
        self.program = Monomials(self.powers[used.numpy()]).to(together.device)
        weights = together[..., used.to(together.device)]
        self.register_buffer("weights", weights, persistent=False)
        self.ready = bool(self.fitted)

    def _learn_angles(self, data: Dataset) -> None:
        rows, angles = data.transitions, self.settings["angles"]
        pairs = angles
        if angles == "auto":
            pairs = circles(torch.cat([rows.obs, rows.next_obs[data.valid_next]]))
        self.partner.copy_(_partners(self.spec.obs_dim, pairs))

    def _learn_bounds(self, rows: Transition, lane: int | slice) -> None:
        """Clips and the box of a lane, from all its rows."""
        seen = torch.cat([rows.obs, rows.next_obs])
        low, high = seen.amin(0), seen.amax(0)
        straight = self.partner.cpu() == torch.arange(self.spec.obs_dim)
        changes = high - low > _CONSTANT
        for side, (edge, end) in enumerate(((low, -torch.inf), (high, torch.inf))):
            often = (rows.next_obs == edge).sum(0) >= _CLIPPED_ROWS
            limit = torch.where(often & straight & changes, edge, torch.full_like(edge, end))
            self.limits[lane, side] = limit.to(self.limits.device)
        margin = self.settings["box_margin"] * (high - low)
        self.box[lane] = torch.stack([low - margin, high + margin]).to(self.box.device)

    def _clipped(self, rows: Transition, lane: int) -> Bool[Tensor, " N"]:
        low, high = self.limits[lane].cpu()
        return ((rows.next_obs <= low) | (rows.next_obs >= high)).any(1)

    def _drawn(self, rows: Bool[Tensor, " N"], generator: torch.Generator) -> Int[Tensor, " R"]:
        index = rows.nonzero().flatten()
        order = torch.randperm(len(index), generator=generator)
        return index[order[: self.settings["fit_rows"]]]

    def _table(self, rows: Transition) -> Table:
        """Features `[R, F]` and targets `[R, D + 1]` of some rows, float64."""
        control = self.middle.cpu().double() + self.scale.cpu().double() * rows.action.double()
        inputs = torch.cat([rows.obs.double(), control], -1)
        features = Monomials(self.powers)(inputs.mT).mT
        after = rows.next_obs.double()
        if self.target == "increment":
            after = after - rows.obs.double()
        return features.numpy(), torch.cat([after, rows.reward.double()[:, None]], -1).numpy()

    def _columns(self, part: str) -> np.ndarray:
        """Numbers of the features that a part of the targets may use."""
        own = np.flatnonzero(self.of_state == (part == "state"))
        if self.settings["library" if part == "state" else "reward_library"] == "affine":
            return own  # the paper's, singular as it is where angles are pairs
        return own[reduced(self.powers[own], [sine for _, sine in self.angles()])]

    def _choose(self, path: Table, judge: Table) -> tuple[dict[str, float], dict[str, list[float]]]:
        """A threshold for state and reward, and the held-out error of every candidate."""
        thresholds: dict[str, float] = {}
        paths: dict[str, list[float]] = {}
        for part, targets, given in self._parts():
            columns = self._columns(part)
            candidates = self.settings["thresholds"] if given is None else [given]
            fitted, aims = path[0][:, columns], path[1][:, targets]
            test, truth = judge[0][:, columns], judge[1][:, targets]
            unit = np.where(truth.std(0) > _CONSTANT, truth.std(0), 1.0)
            errors = []
            for threshold in candidates:
                found = sparse_fit(fitted, aims, threshold=threshold, alpha=self.settings["alpha"])
                off = (test @ found.T - truth) / unit
                errors.append(float(np.sqrt(np.square(off).mean(0)).mean()))
            cliff, tolerance = self.settings["cliff"], self.settings["tolerance"]
            thresholds[part] = candidates[knee(errors, cliff, tolerance)]
            paths[part] = errors
        return thresholds, paths

    def _solve(
        self,
        lane: int,
        table: Table,
        judge: Table,
        thresholds: dict[str, float],
        seed: tuple[int, ...],
    ) -> None:
        """Coefficients, members and residuals of one lane."""
        # Kind 0 has the median that predicts, kind 1 the members that doubt.
        members = np.zeros((2, *self.members.shape[1:]))
        for part, targets, _ in self._parts():
            columns = self._columns(part)
            for kind, ensembling in enumerate((self.settings["library_ensemble"], False)):
                if kind and not self.settings["library_ensemble"]:
                    members[1, :, targets] = members[0, :, targets]
                    continue
                block = members[kind, :, targets]
                block[..., columns] = ensemble_fit(
                    table[0][:, columns],
                    table[1][:, targets],
                    threshold=thresholds[part],
                    alpha=self.settings["alpha"],
                    members=self.settings["members"],
                    bagging=self.settings["bagging"],
                    library_ensemble=ensembling,
                    seed=[*seed, kind],
                )
        median = np.median(members[0], 0)
        residual = judge[1] - judge[0] @ median.T
        self.coefficients[lane] = torch.from_numpy(median)
        self.members[lane] = torch.from_numpy(members[1])
        self.residual_std[lane] = torch.from_numpy(np.sqrt(np.square(residual).mean(0)))

    def _parts(self) -> tuple[tuple[str, slice, float | None], ...]:
        """What is fitted apart: its name, its targets, its given threshold."""
        d = self.spec.obs_dim
        return (
            ("state", slice(0, d), self.settings["threshold"]),
            ("reward", slice(d, None), self.settings["reward_threshold"]),
        )

    @torch.no_grad()
    def _gate(self, data: Dataset, episodes: Tensor) -> dict[str, Any] | None:
        """Median error after `gate_steps` recorded actions, in stds of the state, worst seed."""
        steps, limit = self.settings["gate_steps"], self.settings["gate_error"]
        if not len(episodes):  # too few to keep one back
            episodes = torch.arange(len(data.episode_starts))
        lengths, starts = data.episode_lengths[episodes], data.episode_starts[episodes]
        windows = [
            torch.arange(int(start), int(start + length) - steps + 1, steps)
            for start, length in zip(starts, lengths, strict=True)
            if length >= steps
        ]
        first = torch.cat(windows) if windows else torch.zeros(0, dtype=torch.int64)
        first = first[data.valid_next[first + steps - 1]]
        if not len(first):
            log.warning(
                "no episode that judges the equations has world_model.gate_steps=%d steps, so "
                "their open-loop error is unknown; lower it",
                steps,
            )
            return None
        device = self.unit.device
        rows = data.transitions.to(device)
        obs = rows.obs[first.to(device)].expand(self.seeds, -1, -1)
        for step in range(steps):
            action = rows.action[(first + step).to(device)].expand(self.seeds, -1, -1)
            obs = self._predict(obs, action)[0][:, 0, :, :-1]
        truth = rows.next_obs[(first + steps - 1).to(device)]
        size = ((obs - truth) / _unit(data.transitions.obs).to(device)).square().mean(-1).sqrt()
        worst = size.nan_to_num(torch.inf, torch.inf).median(-1).values.max().item()
        if worst > limit:
            log.warning(
                "the equations miss the recorded states by %.2g standard deviations after %d "
                "steps (world_model.gate_error=%g): their rollouts deserve no trust; raise "
                "world_model.degree, choose another world_model.library, or use "
                "world_model=ensemble",
                worst,
                steps,
                limit,
            )
        return {
            "steps": steps,
            "windows": len(first),
            "median": worst if worst < 1e9 else None,
            "limit": limit,
            "alarm": worst > limit,
        }

    def _terms(self, coefficients: Float[Tensor, "L T F"]) -> list[list[dict[str, float]]]:
        names = term_names(self.powers, self.inputs)
        return [
            [
                {names[i]: float(row[i]) for i in row.nonzero().flatten().tolist()}
                for row in lane.cpu()
            ]
            for lane in coefficients
        ]

    def _matrix(self, lanes: Sequence[dict[str, dict[str, float]]], path: Any) -> Tensor:
        """Coefficients `[L, D + 1, F]` of terms by name."""
        names = term_names(self.powers, self.inputs)
        of_part = {
            part: {names[i]: i for i in np.flatnonzero(self.of_state == part)[::-1]}
            for part in (True, False)
        }
        found = torch.zeros(len(lanes), *self.coefficients.shape[1:])
        for lane, targets in enumerate(lanes):
            for row, (target, terms) in enumerate(targets.items()):
                columns = of_part[target != "reward"]
                for name, value in terms.items():
                    if name not in columns:
                        raise ValueError(
                            f"{path}: the library of {target} has no term {name!r}; build the "
                            "model with the library, degree and interactions of the file"
                        )
                    found[lane, row, columns[name]] = value
        return found


# Bytes of a feature matrix that are refused.
_MEMORY = 4 * 2**30


def _require_pairs(angles: str | Sequence[Sequence[int]], size: int) -> None:
    if angles == "auto":
        return
    pairs = [] if isinstance(angles, str) else [list(pair) for pair in angles]
    flat = [index for pair in pairs for index in pair]
    good = all(len(pair) == 2 for pair in pairs) and len(set(flat)) == len(flat)
    if isinstance(angles, str) or not good or not all(0 <= index < size for index in flat):
        raise ValueError(
            f"world_model.angles={angles!r} must be auto or pairs of different columns of the "
            f"observation, 0 to {size - 1}"
        )


def _tenth(rows: Int[Tensor, " R"]) -> tuple[Int[Tensor, " J"], Int[Tensor, " P"]]:
    """A first tenth that judges, and the rest."""
    cut = max(len(rows) // 10, 1)
    return rows[:cut], rows[cut:]


def _unit(values: Float[Tensor, "N D"]) -> Float[Tensor, " D"]:
    std = values.std(0, correction=0)
    return torch.where(std > _CONSTANT, std, torch.ones_like(std))


def _partners(size: int, pairs: Sequence[Sequence[int]]) -> Int[Tensor, " D"]:
    partner = torch.arange(size)
    for cosine, sine in pairs:
        partner[cosine], partner[sine] = sine, cosine
    return partner
