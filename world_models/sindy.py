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
from envs.specs import Spec
from world_models.base import FitProgress, Step, WorldModel
from world_models.dictionary import (
    Monomials,
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

TARGETS = ("increment", "next")
PREDICTIONS = ("median", "member")

# A pair of columns is a cosine and a sine where c^2 + s^2 is 1 to so much on all rows.
_CIRCLE = 1e-4
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
        cliff: jump of the held-out error that marks the knee, see `dictionary.knee`.
        alpha: ridge penalty while terms are chosen; the final values have none.
        members: E fits, whose median predicts.
        bagging, library_ensemble: how they differ, see `dictionary.ensemble_fit`. Doubt is
            measured on fits without library ensembling.
        prediction: `median`, or a random `member` for each row and step.
        reward_library, reward_degree, reward_threshold: of the reward, which is a function of
            state and control before the step; a threshold of null as above.
        angles: `auto`, or index pairs [cosine, sine].
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
        self.register_buffer("limits", torch.tensor([[-torch.inf], [torch.inf]]).repeat(1, d))
        self.register_buffer("box", torch.tensor([[-torch.inf], [torch.inf]]).repeat(1, d))
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
        self._learn_geometry(data, usable)
        clipped = (
            (rows.next_obs <= self.limits[0].cpu()) | (rows.next_obs >= self.limits[1].cpu())
        ).any(1)
        generator = torch.Generator().manual_seed(self.seed)
        fitting = self._drawn(seen & usable & ~clipped, generator)
        if not judging.any():  # too few episodes to keep one back: rows judge
            cut = max(len(fitting) // 10, 1)
            judging_rows, path_rows = fitting[:cut], fitting[cut:]
        else:
            judging_rows = self._drawn(judging & ~clipped, generator)
            path_rows = self._drawn(seen & usable & ~clipped & ~judging, generator)
        if min(len(path_rows), len(judging_rows)) < 2:
            raise ValueError(
                f"dataset {data.name} has too few rows to fit equations to ({len(path_rows)} to "
                f"fit, {len(judging_rows)} to judge); use more data"
            )

        table = self._table(data, fitting)
        path_table, judge_table = self._table(data, path_rows), self._table(data, judging_rows)
        described: dict[str, Any] = {"clipped_rows": int(clipped.sum()), "angles": self.angles()}
        described |= {"rows": len(fitting), "thresholds": {}, "path": {}}
        members = np.zeros((2, self.lanes, *self.members.shape[1:]))
        for part, targets in (
            ("state", slice(0, self.spec.obs_dim)),
            ("reward", slice(self.spec.obs_dim, None)),
        ):
            given = self.settings["threshold" if part == "state" else "reward_threshold"]
            columns = self._columns(part)
            threshold, path = self._choose(given, path_table, judge_table, columns, targets)
            described["thresholds"][part], described["path"][part] = threshold, path
            # pysindy fits one ensemble at a time; only rollouts need all seeds at once.
            for lane in range(self.lanes):
                for kind, ensembling in enumerate((self.settings["library_ensemble"], False)):
                    if kind and not self.settings["library_ensemble"]:
                        members[1, lane, :, targets] = members[0, lane, :, targets]
                        continue
                    fits = ensemble_fit(
                        table[0][:, columns],
                        table[1][:, targets],
                        threshold=threshold,
                        alpha=self.settings["alpha"],
                        members=self.settings["members"],
                        bagging=self.settings["bagging"],
                        library_ensemble=ensembling,
                        seed=[self.seed, lane, kind],
                    )
                    block = members[kind, lane, :, targets]
                    block[..., columns] = fits
                    members[kind, lane, :, targets] = block
                if progress is not None and part == "reward":
                    progress(lane + 1, min(described["path"]["state"]))
        self.coefficients.copy_(torch.from_numpy(np.median(members[0], 1)))
        self.members.copy_(torch.from_numpy(members[1]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            ending = self.termination.fit(data, seen)
        residual = judge_table[1] - judge_table[0] @ self.coefficients.cpu().double().numpy().mT
        self.residual_std.copy_(torch.from_numpy(np.sqrt(np.square(residual).mean(1))))
        self.unit.copy_(_unit(rows.next_obs[usable] - rows.obs[usable]))
        self.fitted.fill_(True)
        self._compile()

        equations = self.equations()
        log.info("world model of seed 0:\n  %s", "\n  ".join(equations[0]))
        described |= {
            "equations": equations,
            "terms": [int(count) for count in (self.coefficients != 0).sum((1, 2))],
            "residual_std": self.residual_std.tolist(),
            "termination": ending,
            "open_loop": self._gate(data, judged_episodes),
        }
        return described

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
        inside = ((next_obs >= self.box[0]) & (next_obs <= self.box[1])).all(-1, keepdim=True)
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
                name: [[float(x) if abs(x) < torch.inf else None for x in row] for row in rows]
                for name, rows in (("limits", self.limits.tolist()), ("box", self.box.tolist()))
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
            for row, (side, end) in enumerate(
                zip(record[name], (-torch.inf, torch.inf), strict=True)
            ):
                buffer[row] = torch.tensor([end if x is None else x for x in side])
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
        values = torch.cat([next_obs.clamp(self.limits[0], self.limits[1]), reward], -1)
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

    def _learn_geometry(self, data: Dataset, usable: Bool[Tensor, " N"]) -> None:
        """Angles, clips and the box, from all rows."""
        rows = data.transitions
        seen = torch.cat([rows.obs, rows.next_obs[usable]])
        angles = self.settings["angles"]
        pairs = _circles(seen) if angles == "auto" else angles
        self.partner.copy_(_partners(self.spec.obs_dim, pairs))
        low, high = seen.amin(0), seen.amax(0)
        straight = self.partner.cpu() == torch.arange(self.spec.obs_dim)
        for row, (edge, end) in enumerate(((low, -torch.inf), (high, torch.inf))):
            often = (rows.next_obs[usable] == edge).sum(0) >= _CLIPPED_ROWS
            changes = high - low > _CONSTANT
            limit = torch.where(often & straight & changes, edge, torch.full_like(edge, end))
            self.limits[row].copy_(limit)
        margin = self.settings["box_margin"] * (high - low)
        self.box.copy_(torch.stack([low - margin, high + margin]))

    def _drawn(self, rows: Bool[Tensor, " N"], generator: torch.Generator) -> Int[Tensor, " R"]:
        index = rows.nonzero().flatten()
        order = torch.randperm(len(index), generator=generator)
        return index[order[: self.settings["fit_rows"]]]

    def _table(self, data: Dataset, index: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Features `[R, F]` and targets `[R, D + 1]` of some rows, float64."""
        rows = data.transitions[index]
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

    def _choose(
        self,
        given: float | None,
        path: tuple[np.ndarray, np.ndarray],
        judge: tuple[np.ndarray, np.ndarray],
        columns: np.ndarray,
        targets: slice,
    ) -> tuple[float, list[float]]:
        """A threshold, and the held-out error of every candidate."""
        candidates = self.settings["thresholds"] if given is None else [given]
        fitted, aims = path[0][:, columns], path[1][:, targets]
        test, truth = judge[0][:, columns], judge[1][:, targets]
        unit = np.where(truth.std(0) > _CONSTANT, truth.std(0), 1.0)
        errors = []
        for threshold in candidates:
            found = sparse_fit(fitted, aims, threshold=threshold, alpha=self.settings["alpha"])
            errors.append(float(np.sqrt(np.square((test @ found.T - truth) / unit).mean(0)).mean()))
        return candidates[knee(errors, self.settings["cliff"])], errors

    @torch.no_grad()
    def _gate(self, data: Dataset, episodes: Tensor) -> dict[str, Any] | None:
        """Median error after `gate_steps` recorded actions, in stds of the state, worst seed."""
        steps, limit = self.settings["gate_steps"], self.settings["gate_error"]
        lengths, starts = data.episode_lengths[episodes], data.episode_starts[episodes]
        windows = [
            torch.arange(int(start), int(start + length) - steps + 1, steps)
            for start, length in zip(starts, lengths, strict=True)
            if length >= steps
        ]
        if not windows:
            return None
        first = torch.cat(windows)
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
        return {"steps": steps, "windows": len(first), "median": worst if worst < 1e9 else None}

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


def _unit(values: Float[Tensor, "N D"]) -> Float[Tensor, " D"]:
    std = values.std(0, correction=0)
    return torch.where(std > _CONSTANT, std, torch.ones_like(std))


def _circles(values: Float[Tensor, "N D"]) -> list[list[int]]:
    """Pairs of columns whose squares sum to 1 in every row, and that move."""
    squares = values.double().square()
    moving = (values.std(0) > _CONSTANT).tolist()
    pairs: list[list[int]] = []
    for one in range(values.shape[1]):
        for other in range(one + 1, values.shape[1]):
            free = not any({one, other} & set(pair) for pair in pairs)
            if free and moving[one] and moving[other]:
                off = (squares[:, one] + squares[:, other] - 1).abs().max()
                if off < _CIRCLE:
                    pairs.append([one, other])
    return pairs


def _partners(size: int, pairs: Sequence[Sequence[int]]) -> Int[Tensor, " D"]:
    partner = torch.arange(size)
    for cosine, sine in pairs:
        partner[cosine], partner[sine] = sine, cosine
    return partner
