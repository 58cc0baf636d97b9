"""An ensemble of neural differential equations, for logs with unequal time steps.

Neural ODEs, arXiv:1806.07366: ds/dt = f(s, a), the action held over the step. Everything else is
the probabilistic ensemble of `ensemble`: members, bootstrap, early stopping, elites, penalties.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.extras import require
from reverie.mistake import Mistake
from reverie.ranges import NonNegative, Positive, Range
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.gaussian import GaussianMembers, soft_clamp
from reverie.world_models.gaussian_cell import GaussianCell
from reverie.world_models.ode import local_error, runge_kutta_step, solve
from reverie.world_models.optimiser import Adam
from reverie.world_models.selection import Cut

Solver = Literal["rk4", "dopri5"]


class GaussianFields(GaussianMembers):
    """S x E vector fields f(s, a) and, beside them, mean reward and log-variances, as one network.

    Inputs are (obs, action), or (obs, action, duration) with the duration in nominal steps; without
    it all are one. Of the network's outputs at (s, a) the first D are ds/dt in raw units per
    nominal step, the next is the reward of the row, whatever its duration, and the rest are the
    log-variances of the change and of the reward. Rows of training data hold the duration.

    `integrate_by` must follow the constructor, whose arguments are those of `GaussianMembers`.
    """

    moving: Tensor
    updates: Tensor

    def __init__(
        self, *, inputs: int, outputs: int, left_out: Sequence[int] = (), **others: Any
    ) -> None:
        super().__init__(inputs=inputs, outputs=outputs, left_out=left_out, **others)
        self.widths = [inputs + 1, outputs]
        moving = torch.ones(outputs - 1)
        moving[[column for column in left_out if column < outputs - 1]] = 0.0
        self.register_buffer("moving", moving, persistent=False)
        self.register_buffer("updates", torch.zeros(()), persistent=False)

    def integrate_by(
        self,
        *,
        solver: Solver,
        substeps: int,
        tolerance: float,
        local_regularisation: float,
        local_first_stage: bool,
        local_half_life: float | None,
    ) -> None:
        """Say how; the arguments are those of `NeuralODE`."""
        self.solver, self.substeps, self.tolerance = solver, substeps, tolerance
        self.local_regularisation, self.local_half_life = local_regularisation, local_half_life
        self.local_first_stage = local_first_stage

    def reset(self) -> None:
        super().reset()
        if hasattr(self, "updates"):
            self.updates.zero_()

    def normalise_by(self, mean: Float[Tensor, "S X"], std: Float[Tensor, "S X"]) -> None:
        width = self.input_mean.shape[-1]  # the duration is no input of the network
        super().normalise_by(mean[:, :width], std[:, :width])

    def forward(
        self,
        inputs: Float[Tensor, "S E1 B X"],
        dropout: float = 0.0,
        masks: Sequence[Float[Tensor, "S 1 B _"]] = (),
    ) -> tuple[Float[Tensor, "S E B Y"], Float[Tensor, "S E B Y"]]:
        """Mean and log-variance of (next_obs - obs, reward); masked units lack at every stage."""
        start, action, duration = self._parts(inputs)
        outputs = self._outputs(start, action, dropout, masks)
        slope, reward, log_variance = self._split(outputs)
        change = self._change(start, action, duration, slope, masks)
        return torch.cat([change, reward], -1), soft_clamp(log_variance, self.low, self.high)

    def loss(
        self, rows: Float[Tensor, "S E B W"], weight: Float[Tensor, " B"]
    ) -> Float[Tensor, " S"]:
        losses = super().loss(rows, weight)
        if self.local_regularisation == 0:
            return losses
        errors = self.local_error(rows[..., : self.widths[0]])
        share = self.local_share()
        self.updates.add_(1)
        return losses + share * errors.sum(-1)

    def local_share(self) -> Float[Tensor, ""]:
        """The weight of the local error in the next update."""
        share = self.local_regularisation * torch.ones_like(self.updates)
        if self.local_half_life is not None:
            share = share * torch.exp(-math.log(2) / self.local_half_life * self.updates)
        return share

    def evaluations(self, inputs: Float[Tensor, "S E1 B X"], duration: float) -> int:
        """How often the adaptive solver evaluates the fields over so many nominal steps."""
        start, action, _ = self._parts(inputs)
        return solve(self._field(start, action), start, duration, self.tolerance)[1]

    def local_error(self, inputs: Float[Tensor, "S E B X"]) -> Float[Tensor, "S E"]:
        """Of one step of the adaptive solver, at a random time of each row, at most a nominal one.

        Rows that only fill up the last batch count as well, for they are rows of the data.
        """
        start, action, duration = self._parts(inputs)
        with torch.no_grad():
            part = duration * torch.rand_like(duration)
            slope = self._split(self._outputs(start, action))[0]
            state = start + self._rk4(start, action, part, slope) / self._unit()
        field, whole = self._field(start, action), self.local_first_stage
        return local_error(field, state, self.tolerance, 1.0, first_stage=whole)

    def _parts(
        self, inputs: Float[Tensor, "S E1 B X"]
    ) -> tuple[Float[Tensor, "S E B D"], Float[Tensor, "S E B A"], Float[Tensor, "S E B 1"]]:
        """Standardised state and action, and the duration, of every member."""
        width = self.input_mean.shape[-1]
        inputs = inputs.expand(-1, self.members, -1, -1)
        known, duration = inputs[..., :width], inputs[..., width:]
        if inputs.shape[-1] == width:
            duration = torch.ones_like(known[..., :1])
        state, action = ((known - self.input_mean) / self.input_std).split(
            [len(self.moving), width - len(self.moving)], -1
        )
        return state, action, duration

    def _outputs(
        self, state: Tensor, action: Tensor, dropout: float = 0.0, masks: Sequence[Tensor] = ()
    ) -> Tensor:
        return self.network(torch.cat([state, action], -1), dropout, masks=masks)

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slope in raw units, reward, log-variance before its bounds."""
        dims = len(self.moving)
        slope, reward, log_variance = outputs.split([dims, 1, dims + 1], -1)
        return slope * self.moving, reward, log_variance

    def _unit(self) -> Float[Tensor, "S 1 1 D"]:
        return self.input_std[..., : len(self.moving)]

    def _field(
        self, start: Tensor, action: Tensor, masks: Sequence[Tensor] = ()
    ) -> Callable[[Tensor], Tensor]:
        """d state / dt of standardised states, under actions that are held."""

        def field(state: Tensor) -> Tensor:
            return self._split(self._outputs(state, action, masks=masks))[0] / self._unit()

        return field

    def _change(
        self,
        start: Tensor,
        action: Tensor,
        duration: Tensor,
        slope: Tensor,
        masks: Sequence[Tensor],
    ) -> Tensor:
        """How far the state moves in each row's duration, raw."""
        if self.solver == "rk4":
            return self._rk4(start, action, duration, slope, masks)
        field = self._field(start, action, masks)
        after, _ = solve(lambda state: duration * field(state), start, 1.0, self.tolerance)
        return (after - start) * self._unit()

    def _rk4(
        self,
        start: Tensor,
        action: Tensor,
        duration: Tensor,
        slope: Tensor,
        masks: Sequence[Tensor] = (),
    ) -> Tensor:
        """The same in equal substeps; sums of changes lose no digits to the state."""
        unit, h = self._unit(), duration / self.substeps

        def field(moved: Tensor) -> Tensor:
            return self._split(self._outputs(start + moved / unit, action, masks=masks))[0]

        change = runge_kutta_step(field, torch.zeros_like(slope), h, slope)
        for _ in range(self.substeps - 1):
            change = change + runge_kutta_step(field, change, h, field(change))
        return change


class FieldCell(GaussianCell):
    """One step of vector fields, whose local error is part of the loss."""

    network: GaussianFields

    def move(
        self, state: Float[Tensor, "L E B D"], action: Float[Tensor, "L E B A"]
    ) -> tuple[Float[Tensor, "L E B D"], tuple[Tensor, ...]]:
        following, told = super().move(state, action)
        inputs = torch.cat([state * self.std + self.mean, action], -1)
        added = self.network.local_share() * self.network.local_error(inputs)
        return following, (*told, added[..., None, None].expand(*state.shape[:-1], 1))

    def judge(
        self,
        state: Tensor,
        following: Tensor,
        told: tuple[Tensor, ...],
        next_obs: Tensor,
        reward: Tensor,
    ) -> tuple[Float[Tensor, "L E B"], Float[Tensor, "L E B"]]:
        """The likelihood of `GaussianCell`, and the share of the local error."""
        *gaussian, added = told
        loss, error = super().judge(state, following, tuple(gaussian), next_obs, reward)
        return loss + added.squeeze(-1), error

    def descend(self, optimiser: Adam, losses: Float[Tensor, " L"]) -> None:
        super().descend(optimiser, losses)
        self.network.updates.add_(1)


class NeuralODE(ProbabilisticEnsemble):
    """Vector fields f(s, a), integrated over the duration of each recorded transition.

    Rollouts, plans and everything else that is not recorded use nominal steps, the median of the
    data's. Data without durations (`Dataset.dt`) have nominal steps only.

    Args:
        solver: `rk4`, the classical rule in fixed steps, or `dopri5`, torchdiffeq's adaptive one,
            which synchronises with the host and is not compiled.
        substeps: of `rk4` per transition.
        tolerance: absolute and relative, of standardised states: of `dopri5`, of the steps that
            `local_regularisation` looks at, and of `evaluations`.
        local_regularisation: weight of the local error, see `ode.local_error`; 0 for none.
        local_first_stage: whether its gradient goes through the first stage of the step too;
            published without.
        local_half_life: updates after which that weight has halved; None: constant.
        others: of `ProbabilisticEnsemble`. With `forcing` the record is mixed in after each
            transition, however long it lasted.

    Source: arXiv:1806.07366, as members of PETS; `local_regularisation`: arXiv:2303.02262.
    """

    gaussians: GaussianFields
    nominal: Tensor

    def __init__(
        self,
        *,
        solver: Solver,
        substeps: Annotated[int, Range(1, 1000)],
        tolerance: Annotated[float, Range(1e-7, 1)],
        local_regularisation: NonNegative,
        local_first_stage: bool,
        local_half_life: Positive | None,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        if solver == "dopri5":
            require("torchdiffeq", "ode", "world_model.solver=dopri5")
        elif solver != "rk4":
            raise Mistake(f"world_model.solver={solver} is unknown; use rk4 or dopri5")
        if self.dropout:
            raise Mistake(
                "world_model.dropout leaves other units out at every stage of a step, so that a "
                "neural ODE has no solution; set it to 0"
            )
        self.integration: dict[str, Any] = {
            "solver": solver,
            "substeps": substeps,
            "tolerance": tolerance,
            "local_regularisation": local_regularisation,
            "local_first_stage": local_first_stage,
            "local_half_life": local_half_life,
        }
        self.gaussians.integrate_by(**self.integration)
        self.compiles = solver == "rk4"
        self.register_buffer("nominal", torch.tensor(1.0))  # seconds of a nominal step
        self._durations: Tensor | None = None

    make_members = staticmethod(GaussianFields)

    def signature(self) -> dict[str, Any]:
        fixed = dict(self.integration)
        if fixed["local_first_stage"] or not fixed["local_regularisation"]:
            # Models fitted so are the same as before there was a choice.
            del fixed["local_first_stage"]
        return super().signature() | fixed

    def compile_update(
        self, wrapper: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
    ) -> None:
        if self.compiles:
            super().compile_update(wrapper)

    def fit(self, data: Dataset, progress: Any = None) -> dict[str, Any]:
        self.nominal.fill_(1.0 if data.dt is None else data.nominal_dt)
        return super().fit(data, progress)

    def examples(
        self, rows: Transition, dt: Tensor | None = None
    ) -> tuple[Float[Tensor, "R X"], Float[Tensor, "R Y"]]:
        inputs, targets = super().examples(rows)
        return torch.cat([inputs, self._in_steps(dt, rows.reward).unsqueeze(-1)], -1), targets

    def cells(self, rows: Cut) -> tuple[GaussianCell, GaussianCell]:
        train, test = super().cells(rows)
        if self.integration["local_regularisation"]:
            given = (self.gaussians, self.copies, self.spec.exogenous, rows.reward_std)
            train = FieldCell(*given, self.dropout)
        return train, test

    @contextmanager
    def lasting(self, dt: Float[Tensor, "*some B"] | None) -> Iterator[None]:
        before, self._durations = self._durations, dt
        try:
            yield
        finally:
            self._durations = before

    def inputs(
        self, obs: Float[Tensor, "L B D"], action: Float[Tensor, "L B A"]
    ) -> Float[Tensor, "L 1 B X"]:
        known = super().inputs(obs, action)
        if self._durations is None:
            return known
        lead = (self.seeds, obs.shape[0] * obs.shape[1] // self.seeds)
        steps = self._in_steps(self._durations.to(obs.device), obs).expand(lead)
        return torch.cat([known, self._by_replica(steps.unsqueeze(-1)).unsqueeze(1)], -1)

    def _in_steps(self, dt: Tensor | None, like: Tensor) -> Tensor:
        """Seconds in nominal steps, one where nobody knows."""
        if dt is None:
            return torch.ones_like(like)
        return dt.to(like.dtype) / self.nominal.to(dt.device)
