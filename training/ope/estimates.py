"""Values of fixed policies estimated without a step in the environment, and their errors.

Three numbers of a policy, all from the same start states: its discounted value, which no time
limit cuts; its return, undiscounted and cut by the limit; and either of them in truth.
"""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from reverie.agents.fitted_q_evaluation import FittedQEvaluation
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import Mixture, ResampledReplay
from reverie.envs.evaluation import Evaluator
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training import fitting
from reverie.training.logging import Log, NoTracker
from reverie.training.loop import Periods, train
from reverie.training.ope.recorded import value_steps
from reverie.training.progress import stage
from reverie.training.results.statistics import LEVEL, Interval
from reverie.world_models.base import Policy, WorldModel

REPLICATES = 2_000
_MEASURED = 40
"""Points of the trace of a fit."""


@dataclass(frozen=True)
class Rollouts:
    """Results of K rollouts from each of P starts for each of S policies.

    Attributes:
        values: `[S, K, P]` discounted, as if there were no time limit.
        returns: `[S, K, P]` undiscounted, up to the time limit.
        steps: `[S]` mean length up to the time limit.
        broken: `[S]` share of rollouts that the model ended with numbers that are not finite.
        outside: `[S]` share of steps that left the box of the data, before clipping.
        beyond: `[S]` share of steps that left the range of the data.
    """

    values: Float[Tensor, "S K P"]
    returns: Float[Tensor, "S K P"]
    steps: Float[Tensor, " S"]
    broken: Float[Tensor, " S"]
    outside: Float[Tensor, " S"]
    beyond: Float[Tensor, " S"]


@dataclass(frozen=True)
class Fitted:
    """Results of R fits of fitted Q evaluation for each of S policies from P starts.

    Attributes:
        values: `[S, R, P]` discounted, as if there were no time limit.
        trace: `[T, S]` mean estimate at T times of the fit, evenly spread.
        pace: share of an error that decays in a quarter of the fit, if nothing else changes.
    """

    values: Float[Tensor, "S R P"]
    trace: Float[Tensor, "T S"]
    pace: float

    def remaining(self) -> Float[Tensor, " S"]:
        """How far the mean estimate would go on to move, in units of the value.

        The mean of the last quarter differs from that of the one before by a share `pace` of the
        error that was left. Infinite where there are no four points.
        """
        quarter = len(self.trace) // 4
        if not quarter:
            return torch.full((self.trace.shape[1],), torch.inf)
        last, before = self.trace[-quarter:], self.trace[-2 * quarter : -quarter]
        return (last.mean(0) - before.mean(0)).abs() / self.pace


def box_of(data: Dataset, factor: float) -> Float[Tensor, "2 D"]:
    """The range of the recorded observations, each dimension widened about its middle."""
    low, high = data.transitions.obs.amin(0), data.transitions.obs.amax(0)
    middle, half = (low + high) / 2, factor * (high - low) / 2
    return torch.stack([middle - half, middle + half])


@torch.no_grad()
def model_rollouts(
    model: WorldModel,
    policy: Policy,
    starts: Float[Tensor, "P D"],
    *,
    seeds: int,
    rollouts: int,
    limit: int,
    discount: float,
    box: Float[Tensor, "2 D"] | None,
    seen: Float[Tensor, "2 D"] | None = None,
    lengths: Int[Tensor, " P"] | None = None,
    lasted: Float[Tensor, "P T"] | None = None,
) -> Rollouts:
    """Let policies act in a world model from given starts until it terminates or all is counted.

    Args:
        model: of S seeds, or of one that all share.
        policy: of S seeds.
        seeds, rollouts: S and K.
        limit: time limit in control steps, which ends a return and not a value.
        discount: per control step, below 1.
        box: states are kept within it, since errors feed on themselves outside the data; None
            lets them go.
        seen: the range of the data, beyond which steps are counted; None counts none. What never
            varies there, in either box, leaves it nowhere.
        lengths: steps that count from each start, and no more are taken than the longest; None
            for all.
        lasted: seconds of each step from each start, at least as many as are taken; None for
            nominal ones.
    """
    count = len(starts)
    obs = starts.repeat(rollouts, 1).expand(seeds, -1, -1)  # [S, K P, D]
    state = model.begin(obs)
    lead = obs.shape[:2]
    alive = torch.ones(lead, dtype=torch.bool, device=obs.device)
    values, returns = torch.zeros(2, *lead, dtype=torch.float64, device=obs.device)
    steps, broken, outside, beyond = torch.zeros(4, *lead, device=obs.device)
    taken = torch.zeros(lead, device=obs.device)
    horizon = value_steps(discount)
    last = None if lengths is None else lengths.to(obs.device).repeat(rollouts)  # [K P]
    longest = max(limit, horizon) if last is None else min(max(limit, horizon), int(last.max()))
    for elapsed in range(longest):
        if last is not None:
            alive = alive & (elapsed < last)
        with model.lasting(None if lasted is None else lasted[:, elapsed].repeat(rollouts)):
            step = model.advance(obs, policy(obs), 1, state)
        next_obs, reward = step.next_obs[0], step.reward[0]
        finite = next_obs.isfinite().all(-1) & reward.isfinite()
        broken += alive & ~finite
        alive = alive & finite
        earned = torch.where(alive, reward, 0.0).double()
        taken += alive
        if elapsed < horizon:
            values += discount**elapsed * earned
        if elapsed < limit:
            returns += earned
            steps += alive
        if seen is not None:
            beyond += alive & _leaves(next_obs, seen)
        if box is not None:
            outside += alive & _leaves(next_obs, box)
            next_obs = next_obs.clamp(box[0], box[1])
        alive = alive & ~step.terminated[0]
        obs = torch.where(alive.unsqueeze(-1), next_obs, obs)
        if step.state is not None and state is not None:
            state = torch.where(alive.unsqueeze(-1), step.state[0], state)
    return Rollouts(
        values=values.view(seeds, rollouts, count),
        returns=returns.view(seeds, rollouts, count),
        steps=steps.mean(1),
        broken=broken.mean(1),
        outside=outside.sum(1) / taken.sum(1).clamp(min=1),
        beyond=beyond.sum(1) / taken.sum(1).clamp(min=1),
    )


def _leaves(obs: Float[Tensor, "*lead D"], box: Float[Tensor, "2 D"]) -> Tensor:
    """Whether an observation `[*lead]` lies outside in any dimension that has a width."""
    return (((obs < box[0]) | (obs > box[1])) & (box[1] > box[0])).any(-1)


def fit_critics(
    learner: FittedQEvaluation,
    data: Dataset,
    *,
    updates: int,
    batch_size: int,
    log: Log,
    log_every: int,
    on_log: Callable[[int], None],
) -> None:
    """Fitted Q evaluation by the loop of all training, every seed on episodes drawn for it."""
    learner.prepare(data)
    device = next(learner.parameters()).device
    replay = ResampledReplay(
        data.transitions,
        episode_starts=data.first_rows,
        episode_lengths=data.first_rows.diff(append=torch.tensor([len(data)])),
        seeds=learner.seeds,
        mapped=data.mapped,
    )
    train(
        learner,
        Mixture({"real": replay}, {"real": batch_size}, seeds=learner.seeds).to(device),
        {},
        first=0,
        updates=updates,
        periods=Periods(log=log_every, evaluate=log_every, checkpoint=0),
        log=log,
        evaluate=on_log,
        checkpoint=lambda update: None,
        compile=lambda function: function,
        on_update=lambda update: None,
    )


def fit_values(
    learner: FittedQEvaluation,
    data: Dataset,
    starts: Float[Tensor, "P D"],
    *,
    updates: int,
    batch_size: int,
    console: Console,
) -> Fitted | None:
    """Fitted Q evaluation from new critics, watched at the starts; None where it diverges."""
    starts = starts.to(next(learner.parameters()).device)
    trace: list[Tensor] = []
    with (
        TemporaryDirectory() as folder,
        stage("fitted Q evaluation", updates, console) as shown,
    ):
        log = Log(Path(folder) / "metrics.csv", NoTracker(), learner.seeds)
        log.begin()

        def on_log(update: int) -> None:
            trace.append(learner.state_values(starts).mean((1, 2)))
            shown.advance_to(update)
            shown.report(update, log.readable(), pause=fitting.PAUSE)

        try:
            fit_critics(
                learner,
                data,
                updates=updates,
                batch_size=batch_size,
                log=log,
                log_every=max(updates // _MEASURED, 1),
                on_log=on_log,
            )
        except Mistake:  # the log refuses what is not finite
            if all(each.isfinite().all() for each in learner.parameters()):
                raise
            return None
    values = learner.state_values(starts)
    if not values.isfinite().all():
        return None
    going_on = 1 - data.transitions.terminated.double().mean().item()
    pace = -math.expm1(-learner.tau * (1 - learner.discount * going_on) * updates / 4)
    return Fitted(values.cpu(), torch.stack(trace).cpu(), pace)


def interval(table: Float[Tensor, "R P"], seed: int = 0) -> Interval:
    """Mean over replicas and starts with a bootstrap interval over both.

    A replicate is one replica's mean over starts drawn with replacement: the replicas are fits to
    data drawn anew, so their spread is that of one fit and does not shrink with their number.
    """
    values = table.double().cpu().numpy()
    rng = np.random.default_rng(seed)
    replicas = rng.integers(len(values), size=(REPLICATES, 1))
    starts = rng.integers(values.shape[1], size=(REPLICATES, values.shape[1]))
    means = values[replicas, starts].mean(1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(np.asarray(values.mean()), low, high)


def true_outcomes(
    spec: Spec, policy: Policy, *, seeds: int, episodes: int, seed: int, discount: float
) -> dict[str, Float[Tensor, "S P"]]:
    """Discounted values, which no time limit cuts, and returns, in the true environment."""

    def run(steps: int | None) -> Any:
        task = replace(spec, max_episode_steps=steps)
        with closing(Evaluator(spec=task, seeds=seeds, episodes=episodes)) as evaluator:
            return evaluator.run(policy, seed, discount)

    limit, horizon = spec.max_episode_steps, value_steps(discount)
    within = run(limit)
    beyond = within if limit is None or limit >= horizon else run(horizon)
    return {"values": beyond.discounted_returns, "returns": within.returns}
