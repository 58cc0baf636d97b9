"""A verdict on a trained policy from recorded data alone, compared with the recorded behaviour.

Two estimates that fail in different ways, fitted Q evaluation and rollouts of the world model, from
the same starts and with the same discount as the recorded behaviour's own value. If the policy is
close to a clone of that behaviour, a third one corrects the first by its errors on recorded steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from reverie.agents.fitted_q_evaluation import FittedQEvaluation
from reverie.agents.losses import sum_bounds
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.ranges import Bounds, Count, Inside, Positive, Share, UnitInterval, Whole, Widths
from reverie.training.ope.bias import ModelBias, model_bias
from reverie.training.ope.conclusions import conclude
from reverie.training.ope.doubly_robust import correct, weigh
from reverie.training.ope.estimates import Fitted, Rollouts, box_of, fit_values, interval
from reverie.training.ope.estimates import model_rollouts as roll_out
from reverie.training.ope.recorded import (
    Recorded,
    horizon_of,
    recorded_values,
    start_rows,
    value_steps,
)
from reverie.training.ope.support import STATES, action_distance
from reverie.training.progress import stage
from reverie.training.results.statistics import Interval
from reverie.training.seeding import side_stream
from reverie.world_models.base import Policy, WorldModel
from reverie.world_models.diffusion.behaviour import BehaviourClone
from reverie.world_models.networks import ActivationName

Expectations = Callable[[Float[Tensor, "P D"]], Mapping[str, Any] | None]
RANGES: dict[str, Any] = {
    "discount": Inside,
    "horizon": Count | None,
    "far": UnitInterval,
    "fqe.updates": Whole,
    "fqe.converged": Positive,
    "fqe.batch_size": Count,
    "fqe.replicas": Count,
    "fqe.hidden": Widths,
    "fqe.activation": ActivationName,
    "fqe.clip_targets": bool,
    "fqe.learning_rate": Positive,
    "fqe.tau": Share,
    "fqe.offset_rate": UnitInterval,
    "doubly_robust.updates": Whole,
    "doubly_robust.effective": Count,
    "doubly_robust.batch": Count,
    "doubly_robust.hidden": Widths,
    "doubly_robust.activation": ActivationName,
    "doubly_robust.learning_rate": Positive,
    "doubly_robust.log_std_bounds": Bounds,
    "doubly_robust.heldout_episodes": Count,
    "doubly_robust.measure_every": Count,
    "model.rollouts": Whole,
    "model.box": Positive | None,
}
"""What the numbers of a command's settings of a verdict may be; `starts` differs between them."""


@dataclass(frozen=True)
class Verdict:
    """Settings of a verdict.

    Attributes:
        starts: recorded start states, at most.
        discount: per control step, in (0, 1), for policies without one.
        horizon: control steps of a return; None for the task's limit, or the recorded one.
        converged: fitted Q evaluation has converged if the remaining change of its estimate is at
            most this share of it, see `Fitted.remaining`.
        far: no policy is called better if a larger share of its actions, or of its states in the
            model, is outside the data than this, in addition to that of recorded actions.
        updates: of fitted Q evaluation; 0 for none.
        fqe: `batch_size`, and hyperparameters of `FittedQEvaluation`.
        effective: minimum effective number of starts for the weights of a recorded step.
        clone: `updates`, 0 for no correction, and hyperparameters of the `BehaviourClone` for the
            weights.
        rollouts: in the model from each start; 0 for none.
        box: states in the model are clipped to this multiple of the data's range; None: no clip.
    """

    starts: int
    discount: float
    horizon: int | None
    converged: float
    far: float
    updates: int
    fqe: Mapping[str, Any]
    effective: int
    clone: Mapping[str, Any]
    rollouts: int
    box: float | None

    def discount_of(self, own: float) -> float:
        """The discount of an agent, or the stated one where it has none below 1."""
        return own if 0 < own < 1 else self.discount

    def learner(self, spec: Spec, policy: Policy, policies: int, own: float) -> FittedQEvaluation:
        """New critics of P policies, whose agent's discount is `own`.

        Raises:
            Mistake: a hyperparameter is none that they take.
        """
        return FittedQEvaluation(
            spec=spec,
            policy=policy,
            policies=policies,
            discount=self.discount_of(own),
            **{name: value for name, value in self.fqe.items() if name != "batch_size"},
        )

    def require_settings(self, spec: Spec, policy: Policy, policies: int, own: float) -> None:
        """Refuse what would else be refused after a long training.

        Raises:
            Mistake: a hyperparameter of the critics or of the clone is none.
        """
        self.learner(spec, policy, policies, own)
        if self.clone["updates"]:
            self._new_clone(spec, 0)

    def _new_clone(self, spec: Spec, seed: int) -> BehaviourClone:
        settings = {name: value for name, value in self.clone.items() if name != "updates"}
        steps = self.clone["updates"]
        with side_stream(seed, torch.device("cpu")):  # other numbers do not depend on it
            return BehaviourClone(spec=spec, seeds=1, seed=seed, steps=steps, **settings)

    def fit_clone(self, data: Dataset, seed: int, console: Console) -> BehaviourClone:
        """A clone of the recorded behaviour, which draws from a stream of its own."""
        clone = self._new_clone(data.spec, seed)
        with stage("clone of the recorded behaviour", clone.steps, console) as shown:
            clone.fit(data, lambda done, loss: shown.advance_to(done))
        return clone

    def judge(
        self,
        policy: Policy,
        data: Dataset,
        model: WorldModel | None,
        *,
        seeds: int,
        discount: float,
        seed: int,
        device: torch.device,
        console: Console,
        expect: Expectations = lambda starts: None,
    ) -> dict[str, Any]:
        """Everything that is known of S policies, as plain values, with a conclusion each.

        Draws from torch's global generator.

        Args:
            policy: deterministic, of S seeds, on `device`.
            model: of S seeds, or of one that all share; None for no rollouts.
            discount: the agent's own.
            seed: of the choice of starts.
            expect: what the agent's critics say of the starts, see `ope.expectations`.

        Returns:
            See `docs/reference/evaluation.md`, "reading the verdict". Intervals are
            `[estimate, low, high]`.
        """
        discount = self.discount_of(discount)
        horizon = self._horizon(data)
        rows = start_rows(data, self.starts, seed)
        known = recorded_values(data, rows, horizon=horizon, discount=discount)
        starts = data.transitions.obs[rows].to(device)
        distance = action_distance(policy, data, seeds=seeds, seed=seed, device=device)
        found: dict[str, Any] = {
            "discount": discount,
            "horizon": horizon,
            "chunk": data.spec.chunk,
            "starts": len(rows),
            "seeds": seeds,
            "recorded": {
                "value": plain(interval(known.values[None])),
                "return": plain(interval(known.returns[None])),
                "continued": known.continued,
            },
            "attainable": list(attainable(data, discount)),
            "actions": {
                "distance": distance.distance.tolist(),
                "beyond": distance.beyond.tolist(),
                "recorded_beyond": distance.recorded_beyond,
            },
            "fqe": None,
            "doubly_robust": None,
            "model": None,
        }
        if self.updates:
            learner = self.learner(data.spec, policy, seeds, discount).to(device)
            fitted = fit_values(
                learner,
                data,
                starts,
                updates=self.updates,
                batch_size=self.fqe["batch_size"],
                console=console,
            )
            found["fqe"] = self._describe_fit(fitted, known)
            if fitted is not None and self.clone["updates"]:
                clone = self.fit_clone(data, seed, console).to(device)
                weighed = weigh(
                    *(learner, clone, data, rows, known.present), effective=self.effective
                )
                found["doubly_robust"] = correct(weighed, known.values)
        if model is not None and self.rollouts:
            box = None if self.box is None else box_of(data, self.box).to(device)
            with torch.no_grad():
                simulated = roll_out(
                    *(model, policy, starts),
                    seeds=seeds,
                    rollouts=self.rollouts,
                    limit=horizon,
                    discount=discount,
                    box=box,
                    seen=box_of(data, 1.0).to(device),
                )
                missed = model_bias(
                    *(model, data, rows, known),
                    seeds=seeds,
                    rollouts=self.rollouts,
                    discount=discount,
                    box=box,
                    device=device,
                )
            found["model"] = describe_rollouts(simulated, known) | {
                "recorded": describe_bias(missed, known)
            }
        found["critics"] = expect(starts)
        return found | conclude(found, self.far)

    def _horizon(self, data: Dataset) -> int:
        # Control steps were asked for; a row is an action, which may be a chunk of them.
        return horizon_of(data) if self.horizon is None else -(-self.horizon // data.spec.chunk)

    def single_states(self, data: Dataset, discount: float, seed: int) -> int:
        """States at which `judge` asks for an action, one by one, without fitted Q evaluation."""
        steps = max(self._horizon(data), value_steps(self.discount_of(discount)))
        starts = len(start_rows(data, self.starts, seed)) * self.rollouts
        return min(STATES, len(data)) + starts * steps

    def _describe_fit(self, fitted: Fitted | None, known: Recorded) -> dict[str, Any]:
        if fitted is None:
            return {"updates": self.updates, "diverged": True}
        scale = fitted.values.mean((1, 2)).abs().clamp(min=known.values.mean().abs().item())
        remaining = fitted.remaining() / scale.clamp(min=torch.finfo(torch.float32).tiny)
        return {
            "updates": self.updates,
            "diverged": False,
            **compare(fitted.values, known.values),
            "remaining": remaining.tolist(),
            "converged": (remaining <= self.converged).tolist(),
        }


def describe_rollouts(simulated: Rollouts, known: Recorded) -> dict[str, Any]:
    """What rollouts in the model say, one entry a seed."""
    returns = simulated.returns.mean(1, keepdim=True)  # [S, 1, P]
    return {
        **compare(simulated.values.mean(1, keepdim=True), known.values),
        "return": [plain(interval(own)) for own in returns],
        **{
            name: getattr(simulated, name).tolist()
            for name in ("steps", "broken", "outside", "beyond")
        },
    }


def describe_bias(missed: ModelBias, known: Recorded) -> dict[str, Any]:
    """What the model makes of the recorded behaviour, one entry a seed."""
    return {
        "value": [plain(interval((known.values + own)[None])) for own in missed.bias],
        "bias": [plain(interval(own[None])) for own in missed.bias],
        "broken": missed.broken.tolist(),
    }


def compare(values: Float[Tensor, "S R P"], known: Float[Tensor, " P"]) -> dict[str, Any]:
    """Intervals of values, and of what they exceed the recorded ones from the same starts by."""
    values = values.double().cpu()
    return {
        "value": [plain(interval(own)) for own in values],
        "difference": [plain(interval(own - known)) for own in values],
    }


def attainable(data: Dataset, discount: float) -> tuple[float, float]:
    """The least and the most that the recorded rewards allow a discounted value to be."""
    rows = data.transitions
    low, high = rows.reward.aminmax()
    ends = bool(rows.terminated.any())
    return sum_bounds(low.item(), high.item(), 1 / (1 - discount), ends)


def plain(found: Interval) -> list[float]:
    """An interval as `[estimate, low, high]`."""
    return [float(each) for each in (found.estimate, found.low, found.high)]
