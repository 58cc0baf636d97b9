"""An imperfect simulator in which the current policy acts continuously (H2O, arXiv:2206.13464)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition, concatenate
from reverie.envs import snapshot
from reverie.envs.chunks import TAKEN
from reverie.envs.perturbed import Perturbation, make_perturbed
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import ArgumentsOf, Count, Whole
from reverie.world_models.base import Policy, WorldModel
from reverie.world_models.filters import FilterResult, TransitionFilter
from reverie.world_models.sources import RolloutSource, carry_state

Changes = Annotated[float | bool, ArgumentsOf(lambda _: Perturbation)]


class Moved(NamedTuple):
    """One step of S x n environments.

    Attributes:
        rows: `[S, n]`, with the policy's action and the next observation before any reset.
        keep: `[S, n]`, whether the transition is stored; one that is not finite is not.
        ended: `[S, n]`, whether the environment is reset before its next step.
    """

    rows: Transition
    keep: Bool[Tensor, "S B"]
    ended: Bool[Tensor, "S B"]


class Simulator(nn.Module, ABC):
    """S x n copies of a task or of a model of it; each continues from its current state.

    Attributes:
        environments: n, copies per seed.
        starts: start states from the dataset that one step may need, per seed; 0 for a simulator
            with resets of its own.
    """

    environments: int
    starts: int

    def prepare(self, data: Dataset, *, seeds: int, discount: float) -> str | None:
        """Let the filter see the dataset, where there is one: see `TransitionFilter.prepare`."""
        return None

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        """What the filter measured on the dataset, where there is one."""
        return {}

    @abstractmethod
    def move(self, policy: Policy, starts: Float[Tensor, "S B D"]) -> Moved:
        """Step every copy once."""

    @abstractmethod
    def contents(self) -> dict[str, Any]:
        """All that the next steps depend on, as tensors and plain values."""

    @abstractmethod
    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take back what `contents` gave."""


class PerturbedSimulator(Simulator):
    """The task itself with other physics.

    Args:
        spec: of the task.
        seeds: S.
        environments: n, copies per seed.
        perturbation: fields of `envs.perturbed.Perturbation`.

    Episodes end as in the task; at a time limit the transition is not terminal, so it bootstraps
    from its true next observation.
    """

    starts = 0

    def __init__(
        self, *, spec: Spec, seeds: int, environments: Count, **perturbation: Changes
    ) -> None:
        super().__init__()
        _require_positive("simulator.environments", environments)
        self.spec, self.seeds, self.environments = spec, seeds, environments
        changed = Perturbation(**perturbation)  # type: ignore[arg-type]
        copies = seeds * environments
        # No vector environment of Gymnasium's: collecting what we do not read, each step's info
        # above all, would take it a third of the time.
        self._envs = [make_perturbed(spec, changed) for _ in range(copies)]
        starts = torch.randint(2**31, (copies,)).tolist()
        resets = zip(self._envs, starts, strict=True)
        self._obs = np.stack([env.reset(seed=start)[0] for env, start in resets])

    @torch.no_grad()
    def move(self, policy: Policy, starts: Float[Tensor, "S B D"]) -> Moved:
        device, lead = starts.device, (self.seeds, self.environments)

        def on_device(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.reshape(*lead, *values.shape[1:])).to(device)

        obs = on_device(self._obs)
        action = policy(obs)
        commanded = action.float().cpu().numpy().reshape(-1, self.spec.action_dim)
        after, reward = np.empty_like(self._obs), np.empty(len(commanded))
        terminated, truncated, cut = np.empty((3, len(commanded)), bool)
        for copy, env in enumerate(self._envs):
            after[copy], reward[copy], terminated[copy], truncated[copy], info = env.step(
                commanded[copy]
            )
            cut[copy] = not terminated[copy] and info.get(TAKEN, self.spec.chunk) < self.spec.chunk
        finite = np.isfinite(after).all(1) & np.isfinite(reward) & np.isfinite(commanded).all(1)
        ended = terminated | truncated | ~finite
        rows = Transition(
            obs=obs,
            action=action,
            reward=on_device(reward.astype(np.float32)),
            next_obs=on_device(after),
            terminated=on_device(terminated),
            is_real=torch.zeros(lead, dtype=torch.bool, device=device),
        )
        self._obs = after.copy()  # the rows keep the last state of an episode
        for copy in np.flatnonzero(ended).tolist():
            self._obs[copy], _ = self._envs[copy].reset()
        # A chunk that a time limit cuts is no row: it would bootstrap as if it had been whole.
        return Moved(rows, on_device(finite & ~cut), on_device(ended))

    def contents(self) -> dict[str, Any]:
        return {
            "obs": torch.from_numpy(self._obs.copy()),
            "envs": [snapshot.take(env) for env in self._envs],
        }

    def restore(self, contents: Mapping[str, Any]) -> None:
        for env, held in zip(self._envs, contents["envs"], strict=True):
            snapshot.put_back(env, held)
        self._obs = contents["obs"].cpu().numpy().copy()


class ModelSimulator(Simulator):
    """A fitted world model used as the simulator.

    Args:
        seeds: S.
        model: a fitted world model.
        transition_filter: filters every step, as in rollouts from the data.
        spec: of the task.
        environments: n, rollouts per seed.
        horizon: steps after which a rollout restarts from a state of the dataset, not terminal.
    """

    obs: Tensor
    elapsed_steps: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        model: WorldModel,
        transition_filter: TransitionFilter,
        environments: Count,
        horizon: Count,
    ) -> None:
        super().__init__()
        _require_positive("simulator.environments", environments)
        _require_positive("simulator.horizon", horizon)
        self.model, self.filter = model, transition_filter
        self.environments = self.starts = environments
        self.horizon = horizon
        self.register_buffer("obs", torch.zeros(seeds, environments, spec.obs_dim))
        # The whole horizon behind them: every rollout begins with a start.
        self.register_buffer("elapsed_steps", torch.full((seeds, environments), horizon))
        self._state: Tensor | None = None  # [S, n, W], of models that need more than obs

    def prepare(self, data: Dataset, *, seeds: int, discount: float) -> str | None:
        if self._state is None:  # its place, before anything is compiled
            self._hold(self.model.begin(self.obs))
        return self.filter.prepare(data, self.model, seeds=seeds, discount=discount)

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        return self.filter.metrics()

    def _hold(self, state: Tensor | None) -> None:
        """Keep a state, where the one before was: compiled rollouts read it there."""
        if state is not None and self._state is not None:
            self._state.copy_(state)
        else:
            self._state = None if state is None else state.clone()

    @torch.no_grad()
    def move(self, policy: Policy, starts: Float[Tensor, "S B D"]) -> Moved:
        begins = self.elapsed_steps >= self.horizon
        obs = torch.where(begins.unsqueeze(-1), starts, self.obs)
        elapsed_steps = torch.where(begins, 0, self.elapsed_steps) + 1
        state = self.model.begin(obs)
        if state is not None and self._state is not None:
            state = torch.where(begins.unsqueeze(-1), state, self._state)
        action = policy(obs)
        proposal = self.model.advance(obs, action, self.filter.candidates, state)
        filtered: FilterResult = self.filter(obs, action, proposal, elapsed_steps - 1)
        rows = Transition(
            obs=obs,
            action=action,
            reward=filtered.step.reward[0],
            next_obs=filtered.step.next_obs[0],
            terminated=filtered.step.terminated[0],
            is_real=torch.zeros_like(begins),
        )
        finite = rows.next_obs.isfinite().all(-1) & rows.reward.isfinite()
        ended = rows.terminated | ~finite | ~filtered.goes_on | (elapsed_steps >= self.horizon)
        self.elapsed_steps.copy_(torch.where(ended, self.horizon, elapsed_steps))
        # What has ended begins anew, but it must not carry NaN until then.
        self.obs.copy_(torch.where(ended.unsqueeze(-1), obs, rows.next_obs))
        if state is not None:
            self._hold(carry_state(filtered, self.filter))
        return Moved(rows, filtered.keep & finite, ended)

    def contents(self) -> dict[str, Any]:
        return {
            "obs": self.obs.clone(),
            "elapsed_steps": self.elapsed_steps.clone(),
            "state": None if self._state is None else self._state.clone(),
        }

    def restore(self, contents: Mapping[str, Any]) -> None:
        self.obs.copy_(contents["obs"])
        self.elapsed_steps.copy_(contents["elapsed_steps"])
        self._hold(contents["state"])


class SimulatorRollouts(RolloutSource):
    """Whole episodes of the current stochastic policy in a simulator, a few steps per round.

    Args:
        simulator: S x n environments.
        steps: steps of every environment in a rollout round.
        every: gradient steps between rollout rounds.
        warmup: steps per seed before the first gradient step, rounded up to whole rounds of n.
        random_warmup: whether the actions of these are uniform in [-1, 1] instead of the policy's.
        capacity: transitions per seed in the replay.

    Source: H2O's training loop (section 5 and its code), which alternates 1000 simulator steps
    and 1000 updates: `steps=1000 every=1000 warmup=0`. Alternating
    single steps, as in SAC (arXiv:1812.05905), differs only in the age of the collecting policy.
    """

    stream = "simulator"
    # Physics runs outside of torch, and the first rollout round has more rows than the others.
    compiles = False

    def __init__(
        self,
        *,
        simulator: Simulator,
        steps: Count,
        every: Count,
        warmup: Whole,
        random_warmup: bool,
        capacity: Count,
    ) -> None:
        super().__init__()
        _require_positive("source.steps", steps)
        _require_positive("source.every", every)
        if warmup < 0:
            raise Mistake(f"source.warmup must be at least 0, got {warmup}")
        copies = simulator.environments
        self._warm_rounds = -(-warmup // copies)
        most = (steps + self._warm_rounds) * copies
        if capacity < most:
            raise Mistake(
                f"source.capacity={capacity} does not hold the {most} rows per seed of the first "
                "rollout round; raise it, or lower source.warmup"
            )
        self.simulator, self.steps, self.every = simulator, steps, every
        self.random_warmup, self.capacity = random_warmup, capacity
        self._set_rounds(self._warm_rounds + steps)
        self._total: Tensor | None = None  # [S, n], reward of the running episodes so far
        self._last: Tensor | None = None  # [S, n], return of the latest whole episodes, else NaN
        self._all_known = False  # whether every copy has had one

    def _set_rounds(self, rounds: int) -> None:
        self.rounds, self.starts = rounds, rounds * self.simulator.starts

    def prepare(self, data: Dataset, *, seeds: int, discount: float) -> str | None:
        return self.simulator.prepare(data, seeds=seeds, discount=discount)

    @torch.no_grad()
    def generate(
        self, policy: Policy, starts: Float[Tensor, "S B D"]
    ) -> tuple[Transition, Bool[Tensor, "S M"]]:
        random_rounds = self.rounds - self.steps if self.random_warmup else 0
        moves = []
        for number, begin in enumerate(starts.unflatten(1, (self.rounds, -1)).unbind(1)):
            moved = self.simulator.move(
                _uniform(policy) if number < random_rounds else policy, begin
            )
            self._count(moved)
            moves.append(moved)
        self._set_rounds(self.steps)
        rows = concatenate([moved.rows for moved in moves], 1)
        return rows, torch.cat([moved.keep for moved in moves], 1)

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        """Mean return of the latest whole episode of every copy, once all had one.

        Beside it what the simulator's filter measured.
        """
        measured = self.simulator.metrics()
        if self._last is None:
            return measured
        if not self._all_known:  # a GPU waits for this, so it is asked no longer than needed
            self._all_known = not bool(self._last.isnan().any())
        return measured | ({"return": self._last.mean(1)} if self._all_known else {})

    def _count(self, moved: Moved) -> None:
        if self._total is None or self._last is None:
            self._total = torch.zeros_like(moved.rows.reward)
            self._last = torch.full_like(self._total, float("nan"))
        total = self._total + moved.rows.reward
        # The return of an episode that broke down is not one.
        self._last = torch.where(moved.ended & moved.keep, total, self._last)
        self._total = torch.where(moved.ended, 0.0, total)

    def contents(self) -> dict[str, Any]:
        return {
            "simulator": self.simulator.contents(),
            "rounds": self.rounds,
            "total": self._total,
            "last": self._last,
        }

    def restore(self, contents: Mapping[str, Any]) -> None:
        self.simulator.restore(contents["simulator"])
        self._set_rounds(contents["rounds"])
        self._total, self._last = contents["total"], contents["last"]
        self._all_known = False


class Collection(SimulatorRollouts):
    """Steps of the current stochastic policy in the true environment: real transitions.

    Args:
        spec: of the task.
        seeds: S.
        environments: n, copies per seed.
        steps: steps of every copy in a collection round.
        every: gradient steps between rollout rounds.
        capacity: transitions per seed in the replay, besides the dataset.

    Raises:
        Mistake: the dataset names no environment.
    """

    stream = "real"

    def __init__(
        self, *, spec: Spec, seeds: int, environments: int, steps: int, every: int, capacity: int
    ) -> None:
        _require_positive("online.steps", steps)
        _require_positive("online.every", every)
        _require_positive("online.environments", environments)
        if capacity < steps * environments:
            raise Mistake(
                f"online.capacity={capacity} does not hold the {steps * environments} rows of one "
                "rollout round; raise it"
            )
        super().__init__(
            simulator=PerturbedSimulator(spec=spec, seeds=seeds, environments=environments),
            steps=steps,
            every=every,
            warmup=0,
            random_warmup=False,
            capacity=capacity,
        )
        self.taken = 0  # environment steps of each seed so far

    @torch.no_grad()
    def generate(
        self, policy: Policy, starts: Float[Tensor, "S B D"]
    ) -> tuple[Transition, Bool[Tensor, "S M"]]:
        rows, keep = super().generate(policy, starts)
        self.taken += keep.shape[1]
        return replace(rows, is_real=torch.ones_like(rows.is_real)), keep

    def contents(self) -> dict[str, Any]:
        return super().contents() | {"taken": self.taken}

    def restore(self, contents: Mapping[str, Any]) -> None:
        super().restore(contents)
        self.taken = contents["taken"]


def _uniform(policy: Policy) -> Policy:
    """Actions uniform in [-1, 1], as many as the policy gives."""
    return lambda obs: torch.rand_like(policy(obs)) * 2 - 1


def _require_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Mistake(f"{name} must be a whole number, at least 1, got {value}")
