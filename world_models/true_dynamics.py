"""The task itself in place of a learned model: exact next states, rewards and terminations.

The Edge-of-Reach Problem, arXiv:2402.12527, asks what remains wrong with short model rollouts when
the model is perfect. This is that model.
"""

import logging
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.envs.true_dynamics import MUJOCO_TASKS, TensorSimulator, simulator_for
from reverie.ranges import Count, Range
from reverie.world_models.base import FitProgress, Step, WorldModel
from reverie.world_models.copies import Copies

log = logging.getLogger(__name__)


class TrueDynamics(WorldModel):
    """Steps the task's own simulator; knows no uncertainty and learns nothing.

    Serves any number of seeds: the task is the same for all, so diagnostics measure it once.
    Start states come from observations alone, of a history from what is seen now. Where these hide
    a part of the state, the full state is carried along the rollout (`Step.state`).

    Args:
        spec: of a task in `envs.true_dynamics`, with its options and physics.
        seeds: not used, the same model serves all.
        seed: of the choice of replayed rows.
        threads: of MuJoCo, `auto` for as many as torch uses.
        rows: at most so many recorded transitions are replayed to see that this is the task
            that the data came from.
        tolerance: 90th percentile of the error of replayed observations, raw units, above which
            a warning says that it is not.

    Source: arXiv:2402.12527, experiment with true dynamics. Differs: the state is carried, where
    public oracles rebuild it from the observation at every step; see docs/world_models.md.
    """

    compiles = False  # physics runs outside of torch

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        threads: Count | Literal["auto"],
        rows: Count,
        tolerance: Annotated[float, Range(0, infinite=True)],
    ) -> None:
        super().__init__()
        self.spec, self.seed, self.rows, self.tolerance = spec, seed, rows, tolerance
        count = torch.get_num_threads() if threads == "auto" else int(threads)
        self.simulator = simulator_for(spec.newest, count)
        self.differentiable = isinstance(self.simulator, TensorSimulator)
        self.copies = Copies(spec if spec.has_history else replace(spec, copies=()))

    def signature(self) -> dict[str, Any]:
        libraries = ("gymnasium", "mujoco") if self.spec.env_id in MUJOCO_TASKS else ("gymnasium",)
        return {
            "model": type(self).__name__,
            "obs_dim": self.spec.obs_dim,
            "action_dim": self.spec.action_dim,
            "env_id": self.spec.env_id,
            "env_kwargs": dict(self.spec.env_kwargs),
            "physics": self.spec.physics,
            "seed": self.seed,
            "rows": self.rows,
            **({"obs": self.spec.stacked_obs} if self.spec.has_history else {}),
            **{name: version(name) for name in libraries},
        }

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Replay recorded transitions and say how well they agree.

        Returns:
            `rows` replayed; `clipped_fraction` of all observations, whose velocities beyond the
            clip are lost; and under `replay` errors of the one-step replay, once for `all` of
            these rows and once for those that are `rebuilt` in full (None if there is none):
            median, 90th percentile and maximum over rows of the largest error of any column of
            the observation and of the error of the reward, raw units, and the share of rows with
            another termination flag.

        Raises:
            Mistake: other spaces than the model's.
        """
        self.spec.require_same_spaces(data.spec, "the true dynamics", f"dataset {data.name}")
        known = data.valid_next.nonzero().flatten()
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(self.seed))
        replayed = data.transitions[known[order[: self.rows]]]
        rebuilt = ~self.simulator.clipped(self._seen(replayed.obs))
        found = {
            "all": self._replay(replayed),
            "rebuilt": self._replay(replayed[rebuilt]),
        }
        judged = found["rebuilt"] or found["all"]
        # Not "greater": an error that is not finite must warn as well.
        if judged is not None and not judged["next_obs_p90"] <= self.tolerance:
            log.warning(
                "stepping %s from observations of dataset %s misses the recorded next "
                "observations by %.3g (90th percentile; world_model.tolerance=%g): the data came "
                "from another version, option or physics of the task; correct dataset.env_id, "
                "dataset.env_kwargs or dataset.physics",
                self.spec.env_id,
                data.name,
                judged["next_obs_p90"],
                self.tolerance,
            )
        hidden = self.simulator.clipped(self._seen(data.transitions.obs))
        return {
            "rows": len(replayed.reward),
            "clipped_fraction": hidden.double().mean().item(),
            "replay": found,
        }

    def replay_exogenous(self, data: Dataset) -> None:
        """Nothing to replay: the task itself moves what no action moves."""

    def initial_state(self, obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead W"] | None:
        return self.simulator.initial_state(self._seen(obs))

    def step(
        self,
        obs: Float[Tensor, "*lead D"],
        action: Float[Tensor, "*lead A"],
        candidates: int = 1,
        state: Float[Tensor, "*lead W"] | None = None,
    ) -> Step:
        """The one outcome there is, `candidates` times over.

        Computed on the CPU for MuJoCo, on the device of `obs` otherwise, without gradients
        through MuJoCo. A row that is not finite, or on which MuJoCo gives up, is NaN and ends.
        """
        outcome = self.simulator.step(self._seen(obs), action, state)
        next_obs = outcome.next_obs
        if self.spec.has_history:
            rest = next_obs.new_zeros(*next_obs.shape[:-1], obs.shape[-1] - next_obs.shape[-1])
            next_obs = self.copies(obs, action, torch.cat([next_obs, rest], -1))

        def repeat(values: Tensor) -> Tensor:
            return values.expand(candidates, *values.shape)

        return Step(
            next_obs=repeat(next_obs),
            reward=repeat(outcome.reward),
            terminated=repeat(outcome.terminated),
            uncertainty=torch.zeros_like(outcome.reward),
            state=None if outcome.state is None else repeat(outcome.state),
        )

    def _seen(self, obs: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D1"]:
        """What is seen now, of observations that are histories."""
        return obs[..., : self.spec.newest_dim]

    def _replay(self, rows: Transition) -> dict[str, float] | None:
        if not len(rows.reward):
            return None
        outcome = self.simulator.step(self._seen(rows.obs), rows.action)
        state_error = (outcome.next_obs - self._seen(rows.next_obs)).abs().amax(-1)
        reward_error = (outcome.reward - rows.reward).abs()
        levels = torch.tensor([0.5, 0.9, 1.0])
        found = torch.stack([state_error, reward_error]).quantile(levels, 1)  # [3, 2]
        names = ("median", "p90", "max")
        return {
            **{f"next_obs_{name}": row[0].item() for name, row in zip(names, found, strict=True)},
            **{f"reward_{name}": row[1].item() for name, row in zip(names, found, strict=True)},
            "other_flags": (outcome.terminated != rows.terminated).double().mean().item(),
        }
