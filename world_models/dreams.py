"""Recorded trajectories of each column beside those imagined by a world model from the same starts.

Twice: with the recorded actions, which shows the model's errors, and with the policy's own actions,
which shows what the agent expects.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.text import printable
from reverie.world_models.base import Policy, WorldModel
from reverie.world_models.fitting import held_out_episodes

STEPS = 200
"""Steps of a trace, at most."""
COLUMNS, ACTIONS = 8, 3
"""Observations and actions that are traced; of more the first ones that ever change."""
DREAMS = 32
"""From each start, of a model that samples; one of a model that is certain."""
BAND = (0.1, 0.9)
RETURN = "return so far"
_DIGITS = 5  # kept of a number, more than a picture shows
# Beyond what is recorded, in its range, that an axis follows a dream.
_ROOM, _ROOM_OF_RETURNS = 0.5, 5.0
_KINDS = {
    "replayed": ("imagined, the recorded actions replayed", "tab:blue"),
    "policy": ("imagined, the policy's own actions", "tab:orange"),
}

Paths = dict[str, list[list[float | None]]]
"""`median`, `low` and `high` of the dreams, `[C, T + 1]`; None where most of them have ended."""


@torch.no_grad()
def trace(
    model: WorldModel,
    data: Dataset,
    *,
    policy: Policy | None = None,
    seeds: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Recorded and imagined traces of up to three episodes, as plain values; of the first seed.

    The episodes are those of the lowest, the middle and the highest return that the fit did not
    see, where the model says which. Draws from torch's global generator.

    Args:
        model: fitted; how unsure it is comes from `WorldModel.sample`.
        policy: acts in the model from the same starts as well.
        seeds: S of the policy; without one, that of the model.
        seed: of the choice of episodes where the model names none.

    Returns:
        `panels`: labels of C traces: observations, actions in the units of `Spec.told`, and the
        return so far. Each of the `episodes` has `recorded` `[C, T + 1]`, and `replayed` and
        `policy` as `Paths`: values before each of T steps, and after the last one.
    """
    held_out = getattr(model, "held_out", None)
    unseen = held_out(data) if held_out is not None else torch.empty(0, dtype=torch.int64)
    episodes = unseen if len(unseen) else held_out_episodes(data, 100, seed)
    episodes = _spread(data, episodes if len(episodes) else torch.arange(1))
    first, lengths = data.episode_starts[episodes], data.episode_lengths[episodes]
    ends = first + lengths - 1  # of which the successor may be unknown
    lengths = (lengths - (~data.valid_next[ends]).long()).clamp(1, STEPS)
    steps = int(lengths.max())
    segments = first[:, None] + torch.minimum(torch.arange(steps), lengths[:, None] - 1)
    rows = data.transitions[segments]

    spec = data.spec
    moving = (data.transitions.obs != data.transitions.obs[:1]).any(0).nonzero().flatten()
    obs_dims = moving[:COLUMNS].tolist() or [0]
    action_dims = list(range(min(spec.action_dim, ACTIONS)))

    def panels(obs: Tensor, action: Tensor, reward: Tensor) -> Float[np.ndarray, "*lead C T1"]:
        """Of `obs [*, T + 1, D]`, and `action [*, T, A]` and `reward [*, T]` between them."""
        told = spec.told(action.double().cpu().numpy())[..., action_dims]
        so_far = reward.double().cpu().numpy().cumsum(-1)[..., None]
        shown = [
            spec.told_obs(obs.double().cpu().numpy())[..., obs_dims],
            np.concatenate([told, np.full_like(told[..., :1, :], np.nan)], -2),
            np.concatenate([np.zeros_like(so_far[..., :1, :]), so_far], -2),
        ]
        return np.concatenate(shown, -1).swapaxes(-1, -2)

    dreams = DREAMS if hasattr(model, "predict") else 1
    device = next(iter(model.state_dict().values()), torch.empty(0)).device
    start = rows.obs[:, 0].repeat_interleave(dreams, 0).to(device)
    start = start.expand(seeds or int(getattr(model, "seeds", 1)), -1, -1)
    actions = rows.action.repeat_interleave(dreams, 0).to(device)
    begun = first.repeat_interleave(dreams).expand(start.shape[:-1])
    lasted = None if data.dt is None else data.dt[segments].repeat_interleave(dreams, 0)
    imagined = {"replayed": panels(*_dream(model, start, begun, actions, lasted=lasted))}
    imagined["replayed"][:, len(obs_dims) : -1] = np.nan  # stand there already, as recorded
    if policy is not None:
        imagined["policy"] = panels(*_dream(model, start, begun, actions, policy))
    shown = []
    for index, length in enumerate(lengths.tolist()):
        own = rows[index, :length]
        obs = torch.cat([own.obs, own.next_obs[-1:]])
        until = {"replayed": length + 1, "policy": steps + 1}
        shown.append(
            {
                "episode": int(episodes[index]),
                "return": float(data.returns[episodes[index]]),
                "recorded": _plain(panels(obs, own.action, own.reward)),
                **{
                    kind: _paths(all_of[index * dreams : (index + 1) * dreams, :, : until[kind]])
                    for kind, all_of in imagined.items()
                },
            }
        )
    labels = [spec.obs_labels[dim] for dim in obs_dims]
    labels += [spec.action_labels[dim] for dim in action_dims]
    return {
        "panels": [*map(printable, labels), RETURN],
        "left_out": spec.obs_dim + spec.action_dim - len(labels),
        "held_out": len(unseen) > 0,
        "seeds": len(start),
        "dreams": dreams,
        "band": list(BAND),
        "episodes": shown,
    }


def _spread(data: Dataset, episodes: Int[Tensor, " P"]) -> Int[Tensor, " few"]:
    """Those of the lowest, the middle and the highest return."""
    order = episodes[data.returns[episodes].argsort(stable=True)]
    return order[torch.linspace(0, len(order) - 1, min(3, len(order))).round().long()]


def _dream(
    model: WorldModel,
    start: Float[Tensor, "S B D"],
    begun: Int[Tensor, "S B"],
    actions: Float[Tensor, "B T A"],
    policy: Policy | None = None,
    lasted: Float[Tensor, "B T"] | None = None,
) -> tuple[Float[Tensor, "B T1 D"], Float[Tensor, "B T A"], Float[Tensor, "B T"]]:
    """States, actions and rewards of the first seed, NaN after a dream has ended.

    Args:
        begun: the recorded rows that the starts are.
        actions: taken where there is no policy; then no termination ends a dream, as the recorded
            episode went on.
        lasted: seconds of each step; None for nominal ones.
    """
    obs, state = start, model.begin(start, begun)
    going = torch.ones(start.shape[:-1], dtype=torch.bool, device=start.device)
    seen, taken, paid = [obs], [], []
    for t in range(actions.shape[1]):
        action = actions[:, t].expand(len(start), -1, -1) if policy is None else policy(obs)
        with model.lasting(None if lasted is None else lasted[:, t]):
            step = model.advance(obs, action, 1, state, sampled=True)
        after, reward = step.next_obs[0], step.reward[0]
        taken.append(torch.where(going.unsqueeze(-1), action, torch.nan))
        going = going & after.isfinite().all(-1) & reward.isfinite()
        seen.append(torch.where(going.unsqueeze(-1), after, torch.nan))
        paid.append(torch.where(going, reward, torch.nan))
        obs = torch.where(going.unsqueeze(-1), after, obs)
        if step.state is not None and state is not None:
            state = torch.where(going.unsqueeze(-1), step.state[0], state)
        if policy is not None:
            going = going & ~step.terminated[0]
    return (
        torch.stack([each[0] for each in seen], 1),
        torch.stack([each[0] for each in taken], 1),
        torch.stack([each[0] for each in paid], 1),
    )


def _paths(dreams: Float[np.ndarray, "K C T1"]) -> Paths:
    """Median and band of those dreams that go on, where they are at least half of all."""
    low, high = BAND
    most = np.isfinite(dreams).mean(0) >= 0.5
    filled = np.where(most, dreams, 0.0)  # a quantile of nothing is a warning
    levels = {"median": 0.5, "low": low, "high": high}
    if len(dreams) == 1:
        levels = {"median": 0.5}
    return {
        name: _plain(np.where(most, np.nanquantile(filled, level, axis=0), np.nan))
        for name, level in levels.items()
    }


def _plain(values: Float[np.ndarray, "C T1"]) -> list[list[float | None]]:
    """Numbers for JSON, None for what is not finite."""
    return [
        [float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None for value in row]
        for row in values.tolist()
    ]


def plot(traces: Mapping[str, Any], title: str) -> Figure:
    """A column of panels for each episode: dark what was recorded, colours what was imagined.

    A line is the median of the dreams, a band holds those in the middle. A cross is where the
    imagined episode ends, or the model leaves what it can compute.
    """
    low, high = traces["band"]
    names, episodes = traces["panels"], traces["episodes"]
    figure = Figure(
        figsize=(1.5 + 4.2 * len(episodes), 1.3 + 1.45 * len(names)), layout="constrained"
    )
    axes = figure.subplots(len(names), len(episodes), sharex="col", sharey="row", squeeze=False)
    for column, episode in enumerate(episodes):
        for panel, own in enumerate(axes[:, column]):
            _plot_panel(own, episode, panel)
        seen = " (held out)" if traces["held_out"] else ""
        axes[0, column].set_title(
            f"episode {episode['episode']}{seen}, return {episode['return']:.4g}", fontsize=9
        )
        axes[-1, column].set_xlabel("step", fontsize=8)
    for panel, name in enumerate(names):
        axes[panel, 0].set_ylabel(fill(name, 22), fontsize=8, parse_math=False)
        room = _ROOM_OF_RETURNS if name == RETURN else _ROOM
        shown = [episode["recorded"][panel] for episode in episodes]
        # The policy's actions stay in their box, and are what one wants to see.
        if all(each is None for each in episodes[0]["replayed"]["median"][panel]):
            shown += [each["policy"]["median"][panel] for each in episodes if "policy" in each]
        _limit(axes[panel, 0], shown, room)
    figure.align_ylabels(axes[:, 0])
    title += ": recorded, and imagined from the same starts"
    title += f", first of {traces['seeds']} seeds" if traces["seeds"] > 1 else ""
    title += f" ({traces['left_out']} more columns are not drawn)" if traces["left_out"] else ""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, parse_math=False)
    lines, labels = axes[0, 0].get_legend_handles_labels()
    if traces["dreams"] > 1:
        labels = [
            label + f", median and middle {high - low:.0%} of {traces['dreams']}"
            if label != "recorded"
            else label
            for label in labels
        ]
    figure.legend(
        lines,
        labels,
        loc="outside lower left",
        ncols=len(lines) if len(episodes) > 1 else 1,
        fontsize=8,
    )
    return figure


def _plot_panel(axes: Axes, episode: Mapping[str, Any], panel: int) -> None:
    recorded = np.array(episode["recorded"][panel], float)
    # Broad, for a dream that comes true lies upon it.
    axes.plot(recorded, color="0.25", lw=2.4, label="recorded")
    for kind, (label, colour) in _KINDS.items():
        if kind not in episode:
            continue
        paths = {name: np.array(rows[panel], float) for name, rows in episode[kind].items()}
        median = paths["median"]
        axes.plot(median, color=colour, lw=1.2, label=label)
        if "low" in paths:
            steps = np.arange(len(median))
            axes.fill_between(steps, paths["low"], paths["high"], color=colour, alpha=0.2, lw=0)
        last = int(np.isfinite(median).sum()) - 1
        if 0 <= last < len(median) - 2:  # an action has no value behind the last step
            axes.plot(last, median[last], "x", color=colour, ms=6)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=7)


def _limit(axes: Axes, recorded: Sequence[Sequence[float | None]], room: float) -> None:
    """Keep an axis near what was recorded, for a dream that explodes would flatten all else."""
    values = np.concatenate([np.array(own, float) for own in recorded])
    low, high = np.nanmin(values), np.nanmax(values)
    margin = room * (high - low or max(abs(high), 1.0))
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, low - margin), min(top, high + margin))
