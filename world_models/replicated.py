"""What world models share that are fitted for S seeds at once: one for each, or one for all."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Whole
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.fitting import held_out_episodes, rows_of
from reverie.world_models.rewards import Choice, compare, resolve_reward, rewarded
from reverie.world_models.termination import LearnedTermination, resolve


class ReplicatedModel(WorldModel):
    """L fitted models as one batched network, with a termination rule.

    Args:
        spec: spaces and environment of the task.
        seeds: S, agents trained side by side.
        seed: of all random numbers of the fit, which depends on nothing else but data and settings.
        per_seed: one model per seed, or one shared by all seeds.
        termination: `auto`, `known`, `learned` or `none`, see `world_models.termination`.
        terminal_head: builds the classifier that `learned` needs, given `spec` and `seeds`.
        heldout_episodes: whole episodes kept out of the fit for open-loop diagnostics, at most a
            tenth of all; 0 for none.
        reward: `learned` with the next observation, or `known`, the task's rule of it; then it is
            not learned, and it is excluded from loss and uncertainty, see `world_models.rewards`.

    Attributes:
        replicas: L, S or 1.
        fitted: whether it is, as part of the state; `ready` as a Python value, because reading a
            tensor in `step` would make a GPU wait.
    """

    draws = True
    fitted: Tensor
    signed: Sequence[str]
    """What two models must agree on, besides spaces and termination, to be exchangeable."""

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        per_seed: bool,
        termination: str,
        terminal_head: Callable[..., LearnedTermination],
        heldout_episodes: Whole,
        reward: Choice,
    ) -> None:
        super().__init__()
        require_setting(heldout_episodes >= 0, "heldout_episodes >= 0", heldout_episodes)
        self.spec, self.seeds, self.seed = spec, seeds, seed
        self.per_seed, self.heldout_episodes = per_seed, heldout_episodes
        self.replicas = seeds if per_seed else 1
        self.termination = resolve(
            termination, spec, lambda: terminal_head(spec=spec, seeds=self.replicas)
        )
        self.reward_rule = resolve_reward(reward, spec)
        self._wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = lambda f: f

    def _begin_unfitted(self) -> None:
        """Keep whether there has been a fit; the last that a constructor does."""
        self.register_buffer("fitted", torch.tensor(False))
        self.ready = False
        self.register_load_state_dict_post_hook(_read_flag)

    def _set_fitted(self, fitted: bool) -> None:
        self.ready = fitted
        self.fitted.fill_(fitted)

    def signature(self) -> dict[str, Any]:
        fixed = {
            "model": type(self).__name__,
            "obs_dim": self.spec.obs_dim,
            "action_dim": self.spec.action_dim,
            "termination": self.termination.signature(),
            **{name: getattr(self, name) for name in self.signed},
        }
        if self.spec.exogenous:
            fixed["exogenous"] = list(self.spec.exogenous)
        if self.reward_rule is not None:
            fixed["reward"] = "known"
        return fixed

    def describe(self, data: Dataset, seen: Bool[Tensor, " N"]) -> dict[str, Any]:
        """The number of `heldout_episodes`, and what termination and a known reward say of a fit.

        Args:
            seen: rows of the fit.
        """
        described: dict[str, Any] = {
            "heldout_episodes": len(self.held_out(data)),
            "termination": self.termination.fit(data, seen),
        }
        if self.reward_rule is not None:
            described["reward"] = compare(self.reward_rule, data, seen)
        return described

    def held_out(self, data: Dataset) -> Int[Tensor, " P"]:
        """Episodes of this dataset that the fit does not see."""
        return held_out_episodes(data, self.heldout_episodes, self.seed)

    def _seen(self, data: Dataset) -> Bool[Tensor, " N"]:
        """Rows of the dataset that the fit may see."""
        return ~rows_of(data, self.held_out(data))

    def compile_update(
        self, wrapper: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
    ) -> None:
        """Pass the training step of later fits, a function of fixed shapes, through `wrapper`."""
        self._wrap = wrapper

    def _by_replica(self, values: Float[Tensor, "S B W"]) -> Float[Tensor, "L rows W"]:
        """Rows of all seeds, grouped by the model that serves them.

        Raises:
            RuntimeError: the model has not been fitted.
            ValueError: another shape, or another number of seeds than the model was built for.
        """
        if not self.ready:
            raise RuntimeError("the world model is not fitted; call fit or load a fitted one first")
        if values.ndim != 3 or (self.per_seed and values.shape[0] != self.seeds):
            raise ValueError(
                f"the world model was built for seeds={self.seeds} and takes observations and "
                f"actions [S, B, *], got shape {list(values.shape)}"
            )
        rows = values.shape[0] // self.replicas * values.shape[1]
        return values.reshape(self.replicas, rows, values.shape[-1])

    def _step_to(
        self,
        obs: Float[Tensor, "L rows D"],
        action: Float[Tensor, "L rows A"],
        next_obs: Float[Tensor, "K L rows D"],
        reward: Float[Tensor, "K L rows"],
        *,
        uncertainty: Float[Tensor, "L rows"],
        state: Float[Tensor, "K L rows W"] | None,
        shape: torch.Size,
    ) -> Step:
        """What predictions mean for rows of `shape`, `[S, B]`: ends, and a known reward."""
        candidates = len(next_obs)
        ended = self.termination(
            obs.expand_as(next_obs), action.expand(candidates, -1, -1, -1), next_obs
        )
        if self.reward_rule is not None:
            reward = rewarded(self.reward_rule, obs, action, next_obs)
        return Step(
            next_obs=next_obs.reshape(candidates, *shape, -1),
            reward=reward.reshape(candidates, *shape),
            terminated=ended.reshape(candidates, *shape),
            uncertainty=uncertainty.reshape(shape),
            state=None if state is None else state.reshape(candidates, *shape, -1),
        )


def require_setting(holds: bool, what: str, found: object) -> None:
    """Refuse a setting of a world model that a caller got wrong.

    Raises:
        Mistake: says what is needed, and what was found.
    """
    if not holds:
        raise Mistake(f"world_model needs {what}, got {found}")


def _read_flag(model: ReplicatedModel, _: object) -> None:
    model.ready = bool(model.fitted)
