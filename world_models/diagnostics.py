"""Accuracy of a world model on recorded episodes: one step, uncertainty, many steps open loop.

Works for every `WorldModel.step`. What needs a predictive distribution (likelihood,
calibration) asks for a method `predict(obs, action) -> (mean, std)`, each `[S, E, B, D + 1]` over
(next_obs, reward), and is None where there is no such method.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake, writing
from reverie.temporary import replacing
from reverie.text import printable
from reverie.world_models.base import WorldModel
from reverie.world_models.fitting import held_out_episodes, rows_of
from reverie.world_models.measures import (
    auroc,
    calibration,
    gaussian_nll,
    plain,
    precision_and_recall,
    quantile,
    spearman,
    valid_steps,
)

HORIZONS = (1, 2, 5, 10, 25, 50, 100)
VALID = 0.4
"""Open-loop error in standard deviations up to which a prediction is called valid."""

Carried = Tensor | None
"""`Step.state` of the model, one outcome."""
OpenLoopStep = Callable[[Tensor, Tensor, Carried], tuple[Tensor, Tensor, Carried]]
"""(obs, action, state) to (next obs, reward, next state), each with leading [S, W]."""

# A state further from the middle of the data than this many half ranges counts as lost.
_BOX = 1.5
# A column whose std is below this is constant and has no unit to measure errors in.
_CONSTANT = 1e-6
# Columns of which a picture shows the error.
_NAMED = 16
# Rows judged at a time, which bounds what wide observations take.
_BLOCK = 2048


@torch.no_grad()
def measure(
    model: WorldModel,
    data: Dataset,
    *,
    episodes: Int[Tensor, " P"] | None = None,
    rows: int = 10_000,
    segments: int = 500,
    candidates: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a fitted model on whole episodes.

    Every leaf is a plain number or list, with None for what is undefined or not finite.
    Measurements are lists with one entry per seed. `columns` names the observations, of which
    `one_step.rmse` has one error each, where the data do. Where the model samples, it draws from
    torch's global generator.

    Args:
        model: fitted; its attribute `seeds` says S (1 if it has none).
        data: recorded episodes of the same task.
        episodes: which to use. By default those that the model's `held_out(data)` names, else a
            tenth of all, at most 100; `measured_on.held_out` says whether the fit saw them.
        rows: at most so many transitions for one-step measurements.
        segments: at most so many starts of open-loop rollouts.
        candidates: outcomes averaged where the model has no `predict`.
        seed: of the choice of rows and segments.

    Raises:
        Mistake: none of the episodes has a known next observation.

    Units: one-step errors and likelihoods are of (next_obs - obs, reward), each column divided by
    its std over the other episodes' rows; states several steps ahead are divided by the std of
    the state over the whole dataset. Columns that are constant, exogenous or copies are left out.
    """
    held_out = getattr(model, "held_out", None)
    if episodes is None and held_out is not None:
        episodes = held_out(data)
    unseen = episodes is not None and len(episodes) > 0
    if episodes is None or not len(episodes):
        episodes = held_out_episodes(data, 100, seed)
    if not len(episodes):
        episodes = torch.arange(1)
    generator = torch.Generator().manual_seed(seed)
    chosen = rows_of(data, episodes)
    index = (chosen & data.valid_next).nonzero().flatten()
    index = index[torch.randperm(len(index), generator=generator)[:rows]]
    if not len(index):
        raise Mistake(
            f"none of {len(episodes)} episodes of dataset {data.name} has a transition with a "
            "known next observation; measure the model on other data"
        )
    names = [printable(name) for name in data.spec.obs_names]
    rest = (~chosen & data.valid_next).nonzero().flatten()
    return {
        **({"columns": names} if names else {}),
        "measured_on": {"held_out": unseen, "episodes": len(episodes), "rows": len(index)},
        **_one_step(model, data, index, rest if len(rest) > 1 else index, candidates),
        "open_loop": _open_loop(model, data, episodes, segments, candidates, generator),
    }


def _one_step(
    model: WorldModel, data: Dataset, index: Tensor, rest: Tensor, candidates: int
) -> dict[str, Any]:
    seeds, device = _seeds_and_device(model)
    known = getattr(model, "reward_rule", None) is not None  # then it is nothing to predict
    given = [*_given(data.spec), *([data.spec.obs_dim] if known else [])]
    standard = _Standard.of(_changes(data, rest), device, given)
    whole = _judge(model, data, index, standard, candidates)
    of_state = standard.columns < data.spec.obs_dim
    error = whole["error"]
    state_error = error[..., of_state]
    rmse = state_error.square().mean(1).sqrt()  # [S, C]
    size = state_error.square().mean(-1).sqrt()  # [S, N]
    every_column = torch.full((seeds, data.spec.obs_dim), torch.nan, device=device)
    every_column[:, standard.columns[of_state]] = rmse
    measured: dict[str, Any] = {
        "one_step": {
            "rmse": plain(every_column),
            "rmse_median": plain(every_column.nanmedian(-1).values),
            "rmse_max": plain(every_column.nan_to_num(-torch.inf, torch.inf).amax(-1)),
            "r2_median": plain((1 - every_column.square()).nanmedian(-1).values),
            "reward_rmse": plain(error[..., ~of_state].square().mean((1, 2)).sqrt()),
        },
        "uncertainty": {
            "spearman": plain(spearman(whole["uncertainty"], size)),
            "auroc_worst_tenth": plain(auroc(whole["uncertainty"], size)),
        },
        "flags": precision_and_recall(
            whole["ended"], data.transitions.terminated[index].to(device)
        ),
        "likelihood": None,
        "calibration": None,
    }
    if "member" in whole:
        truth = standard(_changes(data, index).to(device))
        constant = gaussian_nll(torch.zeros_like(truth), torch.ones_like(truth), truth)
        measured["likelihood"] = {
            "per_column": plain(whole["member"].mean(1)),
            "member": plain(whole["member"].mean((1, 2))),
            "mixture": plain(whole["mixture"].mean(1)),
            "constant_gaussian": plain(constant.mean()),
        }
        measured["calibration"] = calibration(whole["z"]) | {
            "sharpness": plain(whole["spread"].mean((1, 2)))
        }
    return measured


def _judge(
    model: WorldModel, data: Dataset, index: Tensor, standard: "_Standard", candidates: int
) -> dict[str, Tensor]:
    """What one step of the model says of recorded rows, beside what followed them.

    `error` `[S, N, C]`, `uncertainty` and `ended` `[S, N]` always; of a model with `predict` also
    `z` and `spread` `[S, N, C]`, and negative log-likelihoods: `member` `[S, N, C]`, the mean over
    the members, and `mixture` `[S, N]`, of all columns jointly and divided by their number.
    """
    seeds, device = _seeds_and_device(model)
    predict = getattr(model, "predict", None)
    columns = standard.columns
    parts: dict[str, list[Tensor]] = {}
    for block in index.split(_BLOCK):
        here = data.transitions[block].to(device)
        obs, action = (x.expand(seeds, *x.shape) for x in (here.obs, here.action))
        origin = torch.cat([here.obs, torch.zeros_like(here.reward).unsqueeze(-1)], -1)
        truth = standard(_changes(data, block).to(device))
        past = model.recorded_state(data, block)
        past = None if past is None else past.expand(seeds, -1, -1)
        with model.lasting(None if data.dt is None else data.dt[block]):
            step = model.step(obs, action, candidates, past)
        found = {"uncertainty": step.uncertainty, "ended": step.terminated[0]}
        if predict is None:
            outcome = torch.cat([step.next_obs, step.reward.unsqueeze(-1)], -1)
            found["error"] = standard(outcome.mean(0) - origin) - truth
        else:
            with model.lasting(None if data.dt is None else data.dt[block]):
                known = (obs, action, past) if model.remembers else (obs, action)
                mean, std = predict(*known)
            mean, std = standard(mean - origin), std[..., columns] / standard.unit
            likelihood = gaussian_nll(mean, std, truth)  # [S, E, B, C]
            # Of the mixture: mean variance of its members plus variance of their means.
            spread = (std.square().mean(1) + mean.var(1, correction=0)).sqrt()
            found["error"] = mean.mean(1) - truth
            found["z"] = -found["error"] / spread
            found["spread"] = spread
            found["member"] = likelihood.mean(1)
            joint = torch.logsumexp(-likelihood.sum(-1), 1) - math.log(likelihood.shape[1])
            found["mixture"] = -joint / max(len(columns), 1)
        for name, value in found.items():
            parts.setdefault(name, []).append(value)
    return {name: torch.cat(values, 1) for name, values in parts.items()}


def _open_loop(
    model: WorldModel,
    data: Dataset,
    episodes: Tensor,
    limit: int,
    candidates: int,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Replay recorded actions from recorded states and compare where the model gets to.

    Segments lie inside one episode. Error of a segment at k: root mean square over columns of the
    difference to the recorded state, in units of the state's std. `median` and `p90` are over
    segments; `column_median` and `column_p90` over columns of each column's root mean square over
    segments. `reward` is the median over segments of |predicted - recorded| return, per step.
    `lost` is the share of segments whose state is not finite or out of 1.5 times the data's box.
    `valid_steps` is the valid prediction time: the first step with an error above `VALID`, median
    over segments by `measures.valid_steps`; the last horizon where it lies beyond.
    Later horizons use those segments whose episode is long enough: `segments` counts them.
    """
    seeds, device = _seeds_and_device(model)
    first, left = _draw_segments(data, episodes, limit, generator)
    horizons = [k for k in HORIZONS if bool((left >= k).any())]
    steps = horizons[-1]
    segment = first[:, None] + torch.minimum(torch.arange(steps), left[:, None] - 1)  # [W, steps]
    long_enough = [(left >= k).to(device) for k in horizons]

    states = data.transitions.obs
    unit = states.std(0, correction=0)
    columns = unit > _CONSTANT
    columns[_given(data.spec)] = False
    low = torch.minimum(states.amin(0), data.transitions.next_obs.amin(0))
    high = torch.maximum(states.amax(0), data.transitions.next_obs.amax(0))
    unit, low, high, columns = (x.to(device) for x in (unit, low, high, columns))
    recorded = data.transitions[segment].to(device)
    start = recorded.obs[:, 0].expand(seeds, -1, -1)
    paid = recorded.reward.cumsum(1)

    def run(advance: OpenLoopStep) -> dict[str, Any]:
        obs, earned = start, torch.zeros(start.shape[:-1], device=device)
        state = model.begin(start, first.expand(start.shape[:-1]))
        found: dict[str, list[Tensor]] = {}
        sizes = []
        for t in range(steps):
            action = recorded.action[:, t].expand(seeds, -1, -1)
            with model.lasting(None if data.dt is None else data.dt[segment[:, t]]):
                obs, reward, state = advance(obs, action, state)
            earned = earned + reward
            error = (obs - recorded.next_obs[:, t])[..., columns] / unit[columns]
            error = error.nan_to_num(torch.inf, torch.inf, -torch.inf)
            sizes.append(error.square().mean(-1).sqrt())
            if t + 1 not in horizons:
                continue
            enough = long_enough[horizons.index(t + 1)]
            size = sizes[-1][:, enough]
            column = error[:, enough].square().mean(1).sqrt()
            off = ((obs - (high + low) / 2).abs() > _BOX * (high - low) / 2)[..., columns]
            off = off.any(-1) | ~obs.isfinite().all(-1)
            row = {
                "median": quantile(size, 0.5),
                "p90": quantile(size, 0.9),
                "column_median": quantile(column, 0.5),
                "column_p90": quantile(column, 0.9),
                "reward": quantile((earned - paid[:, t]).abs()[:, enough] / (t + 1), 0.5),
                "lost": off[:, enough].float().mean(-1),
            }
            for name, value in row.items():
                found.setdefault(name, []).append(value)
        lengths = left.clamp(max=steps)
        return {
            **{name: plain(torch.stack(values, -1)) for name, values in found.items()},
            "valid_steps": plain(valid_steps(torch.stack(sizes, -1), lengths, VALID)),
        }

    predict = getattr(model, "predict", None)
    if model.initial_state(start) is not None:
        predict = None  # it would forget what the steps before left

    def mean_step(obs: Tensor, action: Tensor, state: Carried) -> tuple[Tensor, Tensor, Carried]:
        if predict is not None:
            mean = predict(obs, action)[0].mean(1)
            next_obs, state = model.replayed(obs, mean[..., :-1], state)
            return next_obs, mean[..., -1], state
        step = model.advance(obs, action, candidates, state, expected=True)
        following = None if step.state is None else step.state.mean(0)
        return step.next_obs.mean(0), step.reward.mean(0), following

    def sampled_step(obs: Tensor, action: Tensor, state: Carried) -> tuple[Tensor, Tensor, Carried]:
        step = model.advance(obs, action, 1, state)
        return step.next_obs[0], step.reward[0], None if step.state is None else step.state[0]

    return {
        "horizons": horizons,
        "segments": [int(enough.sum()) for enough in long_enough],
        "mean": run(mean_step),
        "sampled": run(sampled_step),
        "constant": run(lambda obs, action, state: (obs, torch.zeros_like(obs[..., 0]), None)),
    }


def _draw_segments(
    data: Dataset, episodes: Tensor, limit: int, generator: torch.Generator
) -> tuple[Int[Tensor, " W"], Int[Tensor, " W"]]:
    """Rows where segments start, at most `limit`, and how many known steps each has before it."""
    ends = data.episode_starts + data.episode_lengths
    ends = ends - (~data.valid_next[ends - 1]).long()
    spans = list(zip(data.episode_starts[episodes].tolist(), ends[episodes].tolist(), strict=True))
    first = torch.cat([torch.arange(start, end) for start, end in spans])
    left = torch.cat([torch.arange(end - start, 0, -1) for start, end in spans])
    picked = torch.randperm(len(first), generator=generator)[:limit]
    return first[picked], left[picked]


@dataclass(frozen=True)
class _Standard:
    """Changes in units of their std in some rows.

    Columns that are constant there, or `given`, are left out.
    """

    columns: Int[Tensor, " C"]
    centre: Float[Tensor, " C"]
    unit: Float[Tensor, " C"]

    @classmethod
    def of(
        cls, changes: Float[Tensor, "N Y"], device: torch.device, given: Sequence[int]
    ) -> "_Standard":
        centre, unit = changes.mean(0), changes.std(0, correction=0)
        judged = unit > _CONSTANT
        judged[list(given)] = False
        columns = judged.nonzero().flatten()
        return cls(columns.to(device), centre[columns].to(device), unit[columns].to(device))

    def __call__(self, changes: Float[Tensor, "*lead Y"]) -> Float[Tensor, "*lead C"]:
        return (changes[..., self.columns] - self.centre) / self.unit


def _changes(data: Dataset, index: Tensor) -> Float[Tensor, "N Y"]:
    """(next_obs - obs, reward) of some rows."""
    rows = data.transitions[index]
    return torch.cat([rows.next_obs - rows.obs, rows.reward.unsqueeze(-1)], -1)


def _given(spec: Spec) -> list[int]:
    """Columns that no model has to predict: exogenous ones, and copies."""
    return [*spec.exogenous, *(column for column, _ in spec.copies)]


def _seeds_and_device(model: WorldModel) -> tuple[int, torch.device]:
    tensors = itertools.chain(model.parameters(), model.buffers())
    first = next(tensors, torch.empty(0))
    return int(getattr(model, "seeds", 1)), first.device


def plot(diagnostics: Mapping[str, Any], path: Path | str) -> None:
    """Draw what `measure` and a fit returned, as one PNG written atomically.

    Left: error of open-loop predictions against the constant-state predictor. Middle: coverage
    of central intervals. Right: holdout error by epoch, if the fit's `holdout_loss` is there.
    Where the data name their columns, at the end: error of one step of each of them.
    """
    named = diagnostics.get("columns", [])
    figure = Figure(figsize=(13 + 4.3 * bool(named), 3.8), layout="constrained")
    left, middle, right, *last = figure.subplots(1, 3 + bool(named))
    _plot_open_loop(left, diagnostics["open_loop"])
    _plot_calibration(middle, diagnostics.get("calibration"))
    _plot_fit(right, diagnostics.get("holdout_loss"))
    if last:
        _plot_columns(last[0], named, diagnostics["one_step"]["rmse"])
    path = Path(path)
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _plot_open_loop(axes: Axes, curves: Mapping[str, Any]) -> None:
    steps = curves["horizons"]
    sampled = curves["sampled"]
    low, high = _over_seeds(sampled["median"]), _over_seeds(sampled["p90"])
    axes.plot(steps, low, "o-", color="tab:blue", label="sampled, median")
    axes.fill_between(steps, low, high, color="tab:blue", alpha=0.15, label="to 90th percentile")
    mean, constant = (_over_seeds(curves[kind]["median"]) for kind in ("mean", "constant"))
    axes.plot(steps, mean, "s-", color="tab:orange", label="mean, median")
    axes.plot(steps, constant, "--", color="grey", label="state stays as it is")
    axes.axhline(VALID, ls=":", lw=0.8, color="black")
    valid = curves["mean"].get("valid_steps")
    if valid:
        at = sum(valid) / len(valid)
        label = f"mean, valid for {at:.3g} steps"
        axes.axvline(at, ls=":", lw=0.8, color="tab:orange", label=label)
    if _any_positive(low):
        axes.set_yscale("log")
    axes.set_xscale("log")
    axes.set_xticks(steps, [str(k) for k in steps])
    axes.minorticks_off()
    axes.set(xlabel="steps ahead", ylabel="state error / state std", title="open-loop error")
    axes.legend(frameon=False, fontsize="small")


def _plot_calibration(axes: Axes, found: Mapping[str, Any] | None) -> None:
    axes.set(xlabel="nominal coverage", ylabel="observed coverage", title="calibration, one step")
    axes.plot([0, 1], [0, 1], "--", color="grey", label="calibrated")
    if found is None:
        axes.text(0.5, 0.5, "no predictive distribution", ha="center", va="center")
        return
    for seed, coverage in enumerate(found["coverage"]):
        axes.plot(
            found["levels"], coverage, color="tab:blue", label=None if seed else "model, each seed"
        )
    axes.legend(frameon=False, fontsize="small")


def _plot_fit(axes: Axes, losses: Sequence[Sequence[float]] | None) -> None:
    axes.set(xlabel="epoch", ylabel="mean squared error", title="holdout error")
    if not losses:
        axes.text(0.5, 0.5, "no fit recorded", ha="center", va="center")
        return
    for seed, curve in enumerate(losses):
        epochs = range(1, len(curve) + 1)
        axes.plot(epochs, curve, color="tab:blue", label=None if seed else "each seed")
    if _any_positive(losses[0]):
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize="small")


def _plot_columns(axes: Axes, names: Sequence[str], rmse: Sequence[Sequence[float | None]]) -> None:
    """The columns predicted worst, of many."""
    errors = _over_seeds(rmse)
    moving = [column for column in range(len(names)) if not math.isnan(errors[column])]
    worst = sorted(moving, key=lambda column: -errors[column])[:_NAMED]
    axes.barh(range(len(worst)), [errors[column] for column in worst], color="tab:blue", height=0.7)
    labels = [names[column] for column in worst]
    axes.set_yticks(range(len(worst)), labels, parse_math=False, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1.0, ls="--", color="grey", label="predicting the mean change")
    axes.set(xlabel="rms error / std of the change", title="one-step error by column")
    axes.legend(frameon=False, fontsize="small")


def _over_seeds(values: Sequence[Sequence[float | None]]) -> list[float]:
    """Mean over the seeds that have a finite value, NaN where none has."""
    means = []
    for column in zip(*values, strict=True):
        finite = [value for value in column if value is not None]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def _any_positive(values: Sequence[float | None]) -> bool:
    return any(value is not None and value > 0 for value in values)
