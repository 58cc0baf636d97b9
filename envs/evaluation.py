"""Returns of policies in the true environment, all seeds and episodes side by side."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from statistics import median

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jaxtyping import Float, Int
from torch import Tensor

from reverie.envs.chunks import OneAtATime
from reverie.envs.faults import stepped
from reverie.envs.make import make_env
from reverie.envs.specs import Spec
from reverie.mistake import Mistake

log = logging.getLogger(__name__)

Policy = Callable[[Float[Tensor, "S P D"]], Float[Tensor, "S P A"]]
"""Observations of S seeds and P episodes in, actions in [-1, 1] out, float32 on the CPU."""


@dataclass(frozen=True)
class Episodes:
    """Results of P episodes of each of S policies.

    Attributes:
        returns: `[S, P]` float64, undiscounted; NaN where the policy gave an action that is not
            finite.
        lengths: `[S, P]` int64, control steps.
        starts: `[S, P, D]` float32, first observations.
        discounted_returns: `[S, P]` float64; without the rewards beyond a time limit.
    """

    returns: Float[Tensor, "S P"]
    lengths: Int[Tensor, "S P"]
    starts: Float[Tensor, "S P D"]
    discounted_returns: Float[Tensor, "S P"]


class Evaluator:
    """S x P copies of an environment that score S policies on the same P starts, again and again.

    Every episode counts exactly once, from its start to its termination or time limit. Taking the
    first ones that finish would favour short episodes.
    """

    def __init__(self, *, spec: Spec, seeds: int, episodes: int) -> None:
        """Build the environments.

        Args:
            spec: of the task.
            seeds: S, policies side by side.
            episodes: P, episodes of each policy.

        Raises:
            Mistake: no such environment, other spaces, or no time limit; the environment cannot be
                created here.
        """
        if seeds < 1 or episodes < 1:
            raise Mistake(
                f"an evaluation needs at least one seed and one episode, got seeds={seeds} and "
                f"episodes={episodes}; correct the settings of the evaluation"
            )
        self.spec, self.seeds, self.episodes = spec, seeds, episodes
        # Chunks are played here, so that each control step counts, undiscounted and by itself.
        self._single = spec.single

        def one_copy() -> gymnasium.Env:
            return _HoldAfterEnd(make_env(self._single))

        self._envs = SyncVectorEnv(
            [one_copy] * (seeds * episodes), autoreset_mode=AutoresetMode.NEXT_STEP
        )
        inner = self._envs.envs[0].spec
        if spec.max_episode_steps is None and (inner is None or inner.max_episode_steps is None):
            self.close()
            raise Mistake(
                f"{spec.env_id} has no time limit, so an episode may never end; give one with "
                "dataset.max_episode_steps=..."
            )

    def episode_returns(
        self, policy: Policy, seed: int
    ) -> tuple[Float[Tensor, "S P"], Int[Tensor, "S P"]]:
        """Undiscounted returns and lengths of one episode in every copy; see `run`."""
        episodes = self.run(policy, seed)
        return episodes.returns, episodes.lengths

    def run(self, policy: Policy, seed: int, discount: float = 1.0) -> Episodes:
        """One episode in every copy.

        Args:
            policy: called once per action, that is per control step or chunk, with the
                observations of all copies; what it returns for finished ones is ignored.
            seed: episode p of every seed starts from seed + p, so all seeds meet the same starts.
            discount: per action, of the discounted returns.

        Raises:
            Mistake: the environment failed.
            ValueError: actions of the wrong shape.
        """
        lead = (self.seeds, self.episodes)
        copies, spec = self.seeds * self.episodes, self._single
        if self.spec.chunk > 1:
            policy = OneAtATime(self.spec, policy)
            discount = discount ** (1 / self.spec.chunk)
        starts: list[int | None] = [seed + episode for episode in range(self.episodes)]
        with stepped(spec.env_id):
            obs, _ = self._envs.reset(seed=starts * self.seeds)
        begun = torch.from_numpy(obs.copy()).reshape(*lead, spec.obs_dim)
        running = np.ones(copies, bool)
        returns, lengths = np.zeros(copies), np.zeros(copies, np.int64)
        discounted = np.zeros(copies)
        while running.any():
            with torch.no_grad():
                action = policy(torch.from_numpy(obs).reshape(*lead, spec.obs_dim))
            if action.shape != (*lead, spec.action_dim):
                raise ValueError(
                    f"the policy returned actions of shape {tuple(action.shape)}, expected "
                    f"{(*lead, spec.action_dim)} for {spec.env_id}; it belongs to another task or "
                    "another number of seeds"
                )
            act = action.detach().float().cpu().numpy().reshape(copies, spec.action_dim)
            finite = np.isfinite(act).all(axis=1)
            returns[running & ~finite] = discounted[running & ~finite] = np.nan
            with stepped(spec.env_id):
                obs, reward, terminated, truncated, _ = self._envs.step(
                    np.where(finite[:, None], act, 0.0).astype(np.float32)
                )
            returns[running] += reward[running]
            discounted[running] += discount ** lengths[running] * reward[running]
            lengths[running] += 1
            # Copies that ended earlier report a reset or stand still: neither ends them again.
            running &= finite & ~(terminated | truncated)
        seeds = np.flatnonzero(np.isnan(returns).reshape(lead).any(axis=1)).tolist()
        if seeds:
            log.warning(
                "in %s the policies of seeds %s gave actions that are not finite; the returns "
                "of those episodes are NaN",
                spec.env_id,
                seeds,
            )
        return Episodes(
            returns=torch.from_numpy(returns).reshape(lead),
            lengths=torch.from_numpy(lengths).reshape(lead),
            starts=begun,
            discounted_returns=torch.from_numpy(discounted).reshape(lead),
        )

    def close(self) -> None:
        """Release the environments."""
        self._envs.close()


def episode_returns(
    spec: Spec, policy: Policy, seeds: int, episodes: int, seed: int
) -> tuple[Float[Tensor, "S P"], Int[Tensor, "S P"]]:
    """Returns and lengths of one evaluation; see `Evaluator` for many of the same task."""
    with closing(Evaluator(spec=spec, seeds=seeds, episodes=episodes)) as evaluator:
        return evaluator.episode_returns(policy, seed)


@torch.no_grad()
def time_decisions(policy: Policy, spec: Spec, seeds: int, calls: int = 20) -> float:
    """Milliseconds of one decision in one episode of each seed: the median of so many calls."""
    obs = torch.zeros(seeds, 1, spec.obs_dim)
    seconds = []
    for _ in range(calls + 1):
        begun = time.perf_counter()
        policy(obs)
        seconds.append(time.perf_counter() - begun)
    return median(seconds[1:]) * 1e3  # the first one makes ready


class _HoldAfterEnd(gymnasium.Wrapper):
    """Stand still once the episode ended, until a reset with a seed.

    A vector environment resets a finished copy by itself and steps it on until the last one is
    done. Here neither costs a simulation step: with one long episode among short ones, most of
    the work.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._ended = False
        self._last = None

    def reset(self, *, seed=None, options=None):
        if seed is None and self._ended:
            return self._last, {}
        self._ended = False
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        if self._ended:
            return self._last, 0.0, False, False, {}
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._ended = bool(terminated or truncated)
        self._last = obs
        return obs, reward, terminated, truncated, info
