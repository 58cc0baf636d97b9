"""How well a dynamics reward chooses among a model's candidates, and its effect on rollouts.

MOREC, arXiv:2310.05422. The filter needs only the order of the candidates of one state and action,
so besides the correlation over all candidates there are the rank correlation within each group and
the share of groups whose best candidate is chosen.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.true_dynamics import Simulator
from reverie.mistake import Mistake
from reverie.world_models.base import Policy, WorldModel
from reverie.world_models.filters import KeepAll, TransitionFilter
from reverie.world_models.fitting import held_out_episodes, rows_of
from reverie.world_models.measures import plain, quantile, spearman
from reverie.world_models.morec.dynamics_reward import DynamicsReward

Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(obs [S, B, D], action [S, B, A], next_obs [K, S, B, D]) -> [K, S, B]`, see `DynamicsReward`."""

_CONSTANT = 1e-6  # a column whose std is below it has no unit to measure errors in
_TINY = 1e-9  # keeps the logarithm of an error finite
_SHOWN = 20_000  # points of the scatter


@dataclass(frozen=True)
class Ruler:
    """Units of errors.

    Attributes:
        columns: `[C]` of the observation that are not constant in the data.
        unit: `[C]` their standard deviation.
    """

    columns: Int[Tensor, " C"]
    unit: Float[Tensor, " C"]

    @classmethod
    def of(cls, data: Dataset) -> "Ruler":
        """One std of each column of the recorded observations."""
        std = data.transitions.obs.std(0, correction=0)
        columns = (std > _CONSTANT).nonzero().flatten()
        return cls(columns, std[columns])

    def error(
        self, found: Float[Tensor, "*lead D"], true: Float[Tensor, "*tail D"]
    ) -> Float[Tensor, "*lead"]:
        """Mean over columns of |found - true|, in units; infinite where it is not finite."""
        off = (found - true)[..., self.columns].abs() / self.unit
        return off.mean(-1).nan_to_num(torch.inf, torch.inf)


def true_rows(simulator: Simulator, obs: Tensor, action: Tensor) -> Transition:
    """What truly follows `obs [B, D]` and `action [B, A]`, recorded or not."""
    after = simulator.step(obs, action, simulator.initial_state(obs))
    real = torch.ones_like(after.terminated)
    return Transition(obs, action, after.reward, after.next_obs, after.terminated, real)


@torch.no_grad()
def one_step(
    model: WorldModel,
    score_of: Score,
    rows: Transition,
    ruler: Ruler,
    *,
    candidates: int,
) -> dict[str, Any]:
    """Score K candidates for each of B transitions `rows` and compare with their true errors.

    Returns:
        Per seed: `pearson` of log(error + 1e-9) and reward over all candidates; `rank`, mean over
        transitions of the rank correlation of error and reward within the K, without those
        whose K rewards are all equal, which have no order; `hit`, share of
        transitions whose candidate of highest reward has the lowest error, 1/K by chance; mean
        error of a `random` candidate, of the `chosen` and of the `best`; mean reward of true and
        of proposed next observations. And the `points` (error, reward) of some candidates of the
        first seed, for a plot.
    """
    seeds = int(getattr(model, "seeds", 1))
    obs, action, true = (x.expand(seeds, *x.shape) for x in (rows.obs, rows.action, rows.next_obs))
    proposed = model.advance(obs, action, candidates, model.begin(obs)).next_obs
    error = ruler.error(proposed, true)  # [K, S, B]
    scored = score_of(obs, action, proposed)
    # What has no score is never chosen and has no order among the rest.
    score = scored.nan_to_num(-math.inf)
    picked = score.argmax(0, keepdim=True)
    sound = (error.isfinite() & score.isfinite()).all(0)  # [S, B] groups with an order

    ranked = torch.where(
        sound,
        spearman(*(x.permute(1, 2, 0).flatten(0, 1).contiguous() for x in (error, score))).view(
            sound.shape
        ),
        torch.nan,
    )
    found: dict[str, Any] = {
        "candidates": candidates,
        "transitions": len(rows.reward),
        "pearson": plain(_pearson((error + _TINY).log(), score, sound)),
        "rank": plain(ranked.nanmean(1)),
        "hit": plain((picked[0] == error.argmin(0)).double().mean(1)),
        "error_random": plain(error.mean((0, 2))),
        "error_chosen": plain(error.gather(0, picked)[0].mean(1)),
        "error_best": plain(error.amin(0).mean(1)),
        "reward_true": plain(score_of(obs, action, true.unsqueeze(0))[0].mean(1)),
        "reward_proposed": plain(scored.nanmean((0, 2))),
    }
    points = torch.stack([error[:, 0].flatten(), score[:, 0].flatten()])
    points = points[:, points.isfinite().all(0)][:, :_SHOWN]
    return {**found, "points": points.tolist()}


@torch.no_grad()
def rollouts(
    model: WorldModel,
    transition_filter: TransitionFilter,
    obs: Float[Tensor, "W T1 D"],
    action: Float[Tensor, "W T A"],
    ruler: Ruler,
    *,
    seed: int,
    policy: Policy | None = None,
) -> dict[str, Any]:
    """Replay the actions of W true segments of T steps in the model, with and without the filter.

    Both get the same proposals' noise at every step, whatever a filter draws in between: without
    the filter the first of its K candidates goes on.
    A cut rollout is followed to the end all the same, so that errors are over the same segments.

    Args:
        obs: `T + 1` true observations of each segment.
        seed: of the model's draws.
        policy: acts on what the model shows, in the place of the recorded actions; then the truth
            is the same policy's.

    Returns:
        Per arm and seed, by step: `mean` and `median` error over segments; for the filter `alive`,
        the share of rollouts that it has not cut before or at that step, and `cut`, the share of
        those alive before the step that it cuts there; and `length`, mean steps until the cut.
    """
    found: dict[str, Any] = {"steps": action.shape[1], "segments": action.shape[0]}
    for name, judge in (("unfiltered", KeepAll()), ("filtered", transition_filter)):
        states, goes_on = replay(
            model, judge, transition_filter.candidates, obs[:, 0], action, seed=seed, policy=policy
        )
        found[name] = _summary(ruler.error(states, obs[:, 1:].transpose(0, 1)), goes_on)
    return found


@torch.no_grad()
def replay(
    model: WorldModel,
    judge: TransitionFilter,
    candidates: int,
    obs: Float[Tensor, "W D"],
    action: Float[Tensor, "W T A"],
    *,
    seed: int,
    policy: Policy | None = None,
) -> tuple[Float[Tensor, "S T W D"], Bool[Tensor, "S T W"]]:
    """Follow given actions, or a policy, in the model through T steps, past every cut.

    Args:
        obs: where the W rollouts begin.
        seed: of the model's draws, which are the same whatever the filter draws in between.
        policy: acts on what the model shows, in the place of `action`.

    Returns:
        The observations after each step, and whether the filter lets the rollout go on there.
    """
    seeds = int(getattr(model, "seeds", 1))
    generator = torch.Generator().manual_seed(seed)
    seed_of = torch.randint(2**62, (action.shape[1],), generator=generator).tolist()
    obs = obs.expand(seeds, -1, -1)
    state = model.begin(obs)
    visited, goes_on = [], []
    with torch.random.fork_rng(devices=[obs.device] if obs.is_cuda else []):
        for elapsed_steps, act in enumerate(action.unbind(1)):
            act = act.expand(seeds, -1, -1) if policy is None else policy(obs)
            torch.manual_seed(seed_of[elapsed_steps])
            filtered = judge(obs, act, model.advance(obs, act, candidates, state), elapsed_steps)
            obs = filtered.step.next_obs[0]
            state = None if filtered.step.state is None else filtered.step.state[0]
            visited.append(obs)
            goes_on.append(filtered.goes_on)
    return torch.stack(visited, 1), torch.stack(goes_on, 1)


def _summary(error: Float[Tensor, "S T W"], goes_on: Bool[Tensor, "S T W"]) -> dict[str, Any]:
    alive = goes_on.int().cumprod(1)
    before = torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)
    median = quantile(error.flatten(0, 1), 0.5).view(error.shape[:2])
    return {
        "mean": plain(error.mean(-1)),
        "median": plain(median),
        "alive": plain(alive.float().mean(-1)),
        "cut": plain((before - alive).sum(-1) / before.sum(-1)),
        "length": plain(alive.float().sum(1).mean(-1)),
    }


def segments(
    data: Dataset, episodes: Int[Tensor, " P"], *, steps: int, limit: int, seed: int
) -> tuple[Float[Tensor, "W T1 D"], Float[Tensor, "W T A"]]:
    """At most `limit` segments of recorded episodes, as long as `steps` or as the longest episode.

    Raises:
        Mistake: no episode has a single known step.
    """
    starts, lengths = data.episode_starts[episodes], data.episode_lengths[episodes]
    known = lengths - (~data.valid_next[starts + lengths - 1]).long()
    steps = min(steps, int(known.max()) if len(known) else 0)
    if steps < 1:
        raise Mistake(f"no episode of dataset {data.name} has a known next observation")
    first = torch.cat(
        [
            torch.arange(int(start), int(start + count) - steps + 1)
            for start, count in zip(starts, known, strict=True)
            if count >= steps
        ]
    )
    generator = torch.Generator().manual_seed(seed)
    first = first[torch.randperm(len(first), generator=generator)[:limit]]
    rows = data.transitions[first[:, None] + torch.arange(steps)]
    return torch.cat([rows.obs, rows.next_obs[:, -1:]], 1), rows.action


def measure(
    model: WorldModel,
    reward: DynamicsReward,
    transition_filter: TransitionFilter,
    data: Dataset,
    *,
    rows: int = 1_000,
    limit: int = 100,
    steps: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """`one_step` and `rollouts` on recorded episodes, if possible on those that no fit saw.

    Args:
        rows: at most so many transitions for `one_step`.
        limit, steps: segments of `rollouts`, and their length.
        seed: of the choice of both, and of the model's draws.
    """
    episodes = unseen(model, reward, data)
    if not len(episodes):
        episodes = held_out_episodes(data, 100, seed)
    if not len(episodes):
        episodes = torch.arange(1)
    chosen = (rows_of(data, episodes) & data.valid_next).nonzero().flatten()
    generator = torch.Generator().manual_seed(seed)
    chosen = chosen[torch.randperm(len(chosen), generator=generator)[:rows]]
    device = next(reward.buffers()).device
    ruler = Ruler.of(data)
    ruler = Ruler(ruler.columns.to(device), ruler.unit.to(device))
    obs, action = segments(data, episodes, steps=steps, limit=limit, seed=seed)
    candidates = transition_filter.candidates
    return {
        "one_step": one_step(
            model, reward.score, data.transitions[chosen].to(device), ruler, candidates=candidates
        ),
        "rollouts": rollouts(
            model, transition_filter, obs.to(device), action.to(device), ruler, seed=seed
        ),
    }


def unseen(model: WorldModel, reward: DynamicsReward, data: Dataset) -> Int[Tensor, " P"]:
    """Episodes that neither fit saw; where there is none, those that the reward's did not see."""
    episodes, held_out = reward.held_out(data), getattr(model, "held_out", None)
    if held_out is None:
        return episodes
    both = episodes[torch.isin(episodes, held_out(data))]
    return both if len(both) else episodes


def figure(measured: Mapping[str, Any]) -> Figure:
    """Reward against error, error of rollouts by step, and how many the filter has not cut."""
    drawn = Figure(figsize=(13, 3.8), layout="constrained")
    left, middle, right = drawn.subplots(1, 3)
    one, rolled = measured["one_step"], measured["rollouts"]
    error, score = one["points"]
    if error:
        left.hist2d([math.log10(e + _TINY) for e in error], score, bins=60, cmin=1)
    left.set(
        xlabel="log10 error of a candidate / std",
        ylabel="dynamics reward",
        title=f"first seed, correlation {_first(one['pearson'])}, hit rate {_first(one['hit'])}",
    )
    steps = range(1, rolled["steps"] + 1)
    for arm, colour in (("unfiltered", "tab:red"), ("filtered", "tab:blue")):
        middle.plot(steps, _over_seeds(rolled[arm]["median"]), color=colour, label=arm)
    middle.set(xlabel="step", ylabel="median error / std", title="rollouts, recorded actions")
    middle.set_yscale("log")
    middle.legend(frameon=False, fontsize="small")
    right.plot(steps, _over_seeds(rolled["filtered"]["alive"]), color="tab:blue", label="not cut")
    right.plot(
        steps, _over_seeds(rolled["filtered"]["cut"]), color="tab:orange", label="cut at this step"
    )
    right.set(xlabel="step", ylabel="share of rollouts", title="filter", ylim=(0, 1.05))
    right.legend(frameon=False, fontsize="small")
    return drawn


def _pearson(
    x: Float[Tensor, "K S B"], y: Float[Tensor, "K S B"], sound: Tensor
) -> Float[Tensor, " S"]:
    """Correlation over the candidates of sound groups, NaN where one side is constant."""
    weight = sound.expand_as(x).double()
    count = weight.sum((0, 2))

    def centred(values: Tensor) -> Tensor:
        values = torch.where(weight > 0, values.double(), 0.0)
        mean = values.sum((0, 2)) / count
        return torch.where(weight > 0, values - mean[:, None], 0.0)

    a, b = centred(x), centred(y)
    return (a * b).sum((0, 2)) / (a.square().sum((0, 2)) * b.square().sum((0, 2))).sqrt()


def _over_seeds(values: list[list[float | None]]) -> list[float]:
    """Mean over the seeds that have a finite value, NaN where none has."""
    means = []
    for column in zip(*values, strict=True):
        finite = [value for value in column if value is not None]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def _first(values: list[float | None]) -> str:
    return "undefined" if values[0] is None else f"{values[0]:.2f}"
