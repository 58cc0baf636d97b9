"""Sparse equations as a world model: one batched torch program, printed and kept as JSON.

Nothing here is fitted: `world_models.sindy` does that. SINDy-RL, arXiv:2403.09110.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reverie.envs.specs import Spec
from reverie.mistake import Mistake, writing
from reverie.temporary import replacing
from reverie.world_models.base import Step, WorldModel, watch_indices
from reverie.world_models.sindy.dictionary import (
    Monomials,
    equation,
    input_names,
    legend,
    readable_names,
    term_names,
)
from reverie.world_models.termination import Termination


class SparseEquations(WorldModel):
    """Median and members of an ensemble of sparse combinations of monomials, for every seed.

    Args:
        spec, seeds, seeds: of the task, S, and L: S, or 1 for equations that all seeds share.
        members: E.
        powers: `[F, D + A]` exponents: the features of the dynamics, then those of the reward.
        of_state: `[F]`, which those of the dynamics are.
        target: the equations give the `increment` x' - x, or the `next` state itself.
        prediction: `median`, or a random `member` for each row and step.
        termination: the rule of the task, or a learned one.

    Attributes:
        coefficients, members: `[L, D + 1, F]` and `[L, E, D + 1, F]`, zero where a target has no
            such feature.
        partner: `[D]`, the other column of a cosine and a sine, else the column itself.
        limits, box: `[L, 2, D]`, where the step clips, and what it must not leave.
        residual_std, unit: `[L, D + 1]` held-out errors, and `[D]` the unit of the uncertainty.
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

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        replicas: int,
        members: int,
        powers: np.ndarray,
        of_state: np.ndarray,
        target: str,
        prediction: str,
        termination: Termination,
    ) -> None:
        super().__init__()
        self.spec, self.seeds, self.replicas = spec, seeds, replicas
        self.powers, self.of_state = powers, of_state
        self.target, self.prediction = target, prediction
        self.termination = termination
        self.inputs = input_names(spec.obs_dim, spec.action_dim)
        features, d = len(powers), spec.obs_dim
        self.register_buffer("coefficients", torch.zeros(replicas, d + 1, features))
        self.register_buffer("members", torch.zeros(replicas, members, d + 1, features))
        self.register_buffer("partner", torch.arange(d))
        watch_indices(self, "partner", d)
        everywhere = torch.tensor([[-torch.inf], [torch.inf]]).repeat(replicas, 1, d)
        self.register_buffer("limits", everywhere)  # [L, 2, D], as the box
        self.register_buffer("box", everywhere.clone())
        self.register_buffer("residual_std", torch.zeros(replicas, d + 1))
        self.register_buffer("unit", torch.ones(d))
        self.register_buffer("fitted", torch.tensor(False))
        low, high = (
            torch.tensor(side, dtype=torch.float32) for side in (spec.action_low, spec.action_high)
        )
        self.register_buffer("middle", (low + high) / 2, persistent=False)
        self.register_buffer("scale", (high - low) / 2, persistent=False)
        self.ready = False
        self._compile()
        self.register_load_state_dict_post_hook(lambda module, keys: module._compile())

    def step(
        self, obs: Tensor, action: Tensor, candidates: int = 1, state: Tensor | None = None
    ) -> Step:
        """The median's outcome `candidates` times over, or that of a random member each.

        A row that leaves the box of the data, or is not finite, has a next observation of NaN.
        """
        return self._step(obs, action, candidates, self.prediction)

    def sample(
        self, obs: Tensor, action: Tensor, candidates: int = 1, state: Tensor | None = None
    ) -> Step:
        """The outcome of a random member for each row and candidate."""
        return self._step(obs, action, candidates, "member")

    def expect(
        self, obs: Tensor, action: Tensor, candidates: int = 1, state: Tensor | None = None
    ) -> Step:
        """The median's outcome, `candidates` times over, whatever `prediction` is."""
        return self._step(obs, action, candidates, "median")

    def _step(self, obs: Tensor, action: Tensor, candidates: int, prediction: str) -> Step:
        values, uncertainty = self._predict(obs, action)  # [S, 1 + E, B, D + 1]
        if prediction == "median":
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
            uncertainty=(uncertainty[..., :-1] / self.unit).mean(-1),
        )

    def predict(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> tuple[Float[Tensor, "S 1 B D1"], Float[Tensor, "S 1 B D1"]]:
        """Median of (next_obs, reward) and its std: members' spread and held-out residuals."""
        values, uncertainty = self._predict(obs, action)
        return values[:, :1], uncertainty.unsqueeze(1)

    def equations(self) -> list[list[str]]:
        """What each seed's median says, in the environment's units and by its columns' names."""
        mark = " - " if self.target == "increment" else None
        names = readable_names(self.spec)
        lefts = [f"{x}'{mark + x if mark else ''}" for x in names[: self.spec.obs_dim]]
        return [
            [equation(left, terms) for left, terms in zip([*lefts, "r"], replica, strict=True)]
            for replica in self._terms(self.coefficients, names)
        ]

    def terms(self) -> list[list[dict[str, float]]]:
        """Nonzero coefficients of each seed's median by term, per column and of the reward.

        Terms count states and controls, `x0 u0`, whatever the data call them.
        """
        return self._terms(self.coefficients)

    def angles(self) -> list[list[int]]:
        """Index pairs [cosine, sine]."""
        partner = self.partner.tolist()
        return [[index, other] for index, other in enumerate(partner) if index < other]

    def save_json(self, path: Path | str) -> None:
        """Write the fitted equations as readable JSON: terms by name, numbers in raw units.

        Where the data name their columns, `inputs` says which word of the equations, and which
        column, each `x0` of the terms is.
        """
        names = [*self.inputs[: self.spec.obs_dim], "reward"]
        columns = dict(zip(self.inputs, legend(self.spec).items(), strict=False))
        record = {
            "model": "sindy",
            "target": self.target,
            "equations": self.equations(),
            **({"inputs": columns} if columns else {}),
            "median": [
                dict(zip(names, replica, strict=True)) for replica in self._terms(self.coefficients)
            ],
            "members": [
                [dict(zip(names, member, strict=True)) for member in self._terms(replica)]
                for replica in self.members
            ],
            "angles": self.angles(),
            **{
                name: [
                    [[x if abs(x) < torch.inf else None for x in side] for side in replica]
                    for replica in bounds.tolist()
                ]
                for name, bounds in (("limits", self.limits), ("box", self.box))
            },
            "residual_std": self.residual_std.tolist(),
            "unit": self.unit.tolist(),
        }
        path = Path(path)
        with writing(path), replacing(path) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")

    def load_json(self, path: Path | str) -> None:
        """Take back what `save_json` wrote, into a model of the same settings.

        A learned termination is not part of the file.

        Raises:
            Mistake: no such file, a damaged one, another number of seeds or members, or a term the
                library does not have.
        """
        try:
            record = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise Mistake(
                f"{path} cannot be read ({error}); give a file that save_json wrote"
            ) from error
        shape = [len(record["median"]), len(record["members"][0])]
        if record["target"] != self.target or shape != list(self.members.shape[:2]):
            raise Mistake(
                f"{path} holds equations of the {record['target']} for {shape[0]} seeds with "
                f"{shape[1]} members; the model has target={self.target}, "
                f"{self.members.shape[0]} seeds and {self.members.shape[1]} members"
            )
        self.coefficients.copy_(self._matrix(record["median"], path))
        self.members.copy_(
            torch.stack([self._matrix(replica, path) for replica in record["members"]])
        )
        self.partner.copy_(partners(self.spec.obs_dim, record["angles"]))
        for name, buffer in (("limits", self.limits), ("box", self.box)):
            for bounds, replica in zip(buffer, record[name], strict=True):
                for row, end in enumerate((-torch.inf, torch.inf)):
                    bounds[row] = torch.tensor([end if x is None else x for x in replica[row]])
        self.residual_std.copy_(torch.tensor(record["residual_std"]))
        self.unit.copy_(torch.tensor(record["unit"]))
        self.fitted.fill_(True)
        self._compile()

    def _predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """(next_obs, reward) of the median and of every member `[S, 1 + E, B, D + 1]`, and std."""
        if not self.ready:
            raise RuntimeError("the world model has no equations yet; fit or load it first")
        features = self.program(self.inputs_of(obs, action))  # [S, F, B]
        values = self.weights @ features  # [S or L, (1 + E) (D + 1), B]
        values = values.unflatten(1, (-1, self.spec.obs_dim + 1)).mT
        values = self.outcome(obs.unsqueeze(1), values)
        spread = values[:, 1:].var(1, correction=0)
        return values, (spread + self.residual_std.square().unsqueeze(1)).sqrt()

    def inputs_of(
        self, obs: Float[Tensor, "*lead B D"], action: Float[Tensor, "*lead B A"]
    ) -> Float[Tensor, "*lead X B"]:
        """What monomials are taken of: states and controls in the environment's units."""
        return torch.cat([obs, self.middle + self.scale * action], -1).mT

    def outcome(
        self, obs: Float[Tensor, "S M B D"], values: Float[Tensor, "L E B Y"]
    ) -> Float[Tensor, "_ _ B Y"]:
        """(next_obs, reward) by what the equations say, on its circles and within its clips."""
        change, reward = values[..., :-1], values[..., -1:]
        next_obs = obs + change if self.target == "increment" else change
        on_circle = self.partner != torch.arange(len(self.partner), device=obs.device)
        square = next_obs.square() + next_obs[..., self.partner].square()
        # A root has no slope at zero, where other columns may well be.
        norm = torch.where(on_circle, square, 1.0).clamp(min=1e-24).sqrt()
        next_obs = torch.where(on_circle, next_obs / norm, next_obs)
        low, high = self.limits[:, :, None, None].unbind(1)  # [L, 1, 1, D]
        return torch.cat([next_obs.clamp(low, high), reward], -1)

    def _compile(self) -> None:
        """Leave out what is zero everywhere; median and members become one matrix."""
        together = torch.cat([self.coefficients.unsqueeze(1), self.members], 1).flatten(1, 2)
        used = (together != 0).flatten(0, 1).any(0).cpu()
        self.program = Monomials(self.powers[used.numpy()]).to(together.device)
        weights = together[..., used.to(together.device)]
        self.register_buffer("weights", weights, persistent=False)
        self.ready = bool(self.fitted)

    def _terms(
        self, coefficients: Float[Tensor, "L T F"], inputs: Sequence[str] | None = None
    ) -> list[list[dict[str, float]]]:
        names = term_names(self.powers, inputs or self.inputs)
        return [
            [
                {names[i]: float(row[i]) for i in row.nonzero().flatten().tolist()}
                for row in replica.cpu()
            ]
            for replica in coefficients
        ]

    def _matrix(self, replicas: Sequence[dict[str, dict[str, float]]], path: Any) -> Tensor:
        """Coefficients `[L, D + 1, F]` of terms by name."""
        names = term_names(self.powers, self.inputs)
        of_part = {
            part: {names[i]: i for i in np.flatnonzero(self.of_state == part)[::-1]}
            for part in (True, False)
        }
        found = torch.zeros(len(replicas), *self.coefficients.shape[1:])
        for replica, targets in enumerate(replicas):
            for row, (target, terms) in enumerate(targets.items()):
                columns = of_part[target != "reward"]
                for name, value in terms.items():
                    if name not in columns:
                        raise Mistake(
                            f"{path}: the library of {target} has no term {name!r}; build the "
                            "model with the library, degree and interactions of the file"
                        )
                    found[replica, row, columns[name]] = value
        return found


def partners(size: int, pairs: Sequence[Sequence[int]]) -> Int[Tensor, " D"]:
    partner = torch.arange(size)
    for cosine, sine in pairs:
        partner[cosine], partner[sine] = sine, cosine
    return partner
