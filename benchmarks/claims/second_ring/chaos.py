"""Chaotic systems as recorded data, and how faithfully a model goes on for ever.

D_stsp and D_H are the measures of arXiv:2306.04406 and arXiv:2410.14240; the driven Duffing
oscillator has its drive as the action.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from reverie.benchmarks.claims.open_loop import errors_ahead
from reverie.datasets.build import build
from reverie.datasets.dataset import Dataset
from reverie.envs import duffing, lorenz
from reverie.envs.specs import Spec
from reverie.world_models.base import WorldModel
from reverie.world_models.diagnostics import VALID
from reverie.world_models.measures import plain, valid_steps

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""ds/dt `[N, D]` of states `[N, D]` under actions `[N, 1]`."""

_BINS, _SMOOTHING, _SPECTRUM = 30, 1e-5, 20.0


@dataclass(frozen=True)
class System:
    """A flow, sampled every `dt`, from starts around `start`.

    Attributes:
        drive: gives actions by time; None for zeros.
        substeps: of Runge-Kutta's rule in each sample.
        spread: standard deviation of starts.
        settle: samples before a record begins.
    """

    flow: Flow
    dt: float
    start: tuple[float, ...]
    drive: Callable[[np.ndarray], np.ndarray] | None = None
    substeps: int = 1
    spread: float = 1.0
    settle: int = 500


def _lorenz(s: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.stack(lorenz.slopes(*s.T), -1)


def _rossler(s: np.ndarray, _: np.ndarray) -> np.ndarray:
    x, y, z = s.T
    return np.stack([-y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)], -1)


def _duffing(s: np.ndarray, action: np.ndarray) -> np.ndarray:
    x, v = s.T
    return np.stack(duffing.slopes(x, v, action[:, 0]), -1)


SYSTEMS = {
    "Lorenz": System(_lorenz, 0.03, (0.0, 0.0, 25.0)),
    "Rossler": System(_rossler, 0.2, (1.0, 1.0, 1.0)),
    "Duffing": System(
        _duffing, 0.2, (0.0, 0.0), lambda t: duffing.DRIVE * np.cos(duffing.FREQUENCY * t)
    ),
}


def _simulate(
    system: System, state: np.ndarray, phase: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """States `[N, steps + 1, D]` and the actions `[N, steps, 1]` that are held in between."""
    states, actions, h = [state], [], system.dt / system.substeps
    for step in range(steps):
        time = phase + step * system.dt
        drive = np.zeros_like(time) if system.drive is None else system.drive(time)
        action = drive[:, None]
        for _ in range(system.substeps):
            one = system.flow(state, action)
            two = system.flow(state + h / 2 * one, action)
            three = system.flow(state + h / 2 * two, action)
            four = system.flow(state + h * three, action)
            state = state + h / 6 * (one + 2 * two + 2 * three + four)
        states.append(state)
        actions.append(action)
    return np.stack(states, 1), np.stack(actions, 1)


def paths(system: System, episodes: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """States `[N, T + 1, D]` on the attractor, from different starts and phases, and actions."""
    generator = np.random.default_rng(seed)
    start = generator.normal(system.start, system.spread, (episodes, len(system.start)))
    phase = generator.uniform(0, 100, episodes)
    states, actions = _simulate(system, start, phase, system.settle + length)
    return states[:, system.settle :], actions[:, system.settle :]


def record(system: System, episodes: int, length: int, seed: int) -> Dataset:
    """Episodes of `paths`."""
    return as_dataset(*paths(system, episodes, length, seed))


def as_dataset(states: np.ndarray, actions: np.ndarray) -> Dataset:
    """Episodes `[N, T + 1, D]` and `[N, T, 1]` without a reward; no episode terminates."""
    episodes, length, dim = states.shape[0], states.shape[1] - 1, states.shape[2]
    count = episodes * length
    last = np.zeros((episodes, length), bool)
    last[:, -1] = True
    return build(
        name="chaos",
        spec=Spec(env_id=None, obs_dim=dim, action_dim=1, action_low=(-1.0,), action_high=(1.0,)),
        obs=states[:, :-1].reshape(count, dim).astype(np.float32),
        next_obs=states[:, 1:].reshape(count, dim).astype(np.float32),
        action=actions.reshape(count, 1).astype(np.float32),
        reward=np.zeros(count, np.float32),
        terminated=np.zeros(count, bool),
        truncated=last.reshape(count),
        reference=None,
        origin={"source": "chaos"},
        clip_actions=False,
    )


@cache
def lyapunov_exponent(system: System) -> float:
    """The largest, per unit of time: how fast 50 pairs of neighbours part on average.

    Benettin's method, distances set back to 1e-7 after every step.
    """
    pairs, steps, close = 50, 4000, 1e-7
    generator = np.random.default_rng(0)
    state = generator.normal(system.start, system.spread, (pairs, len(system.start)))
    phase = generator.uniform(0, 100, pairs)
    state = _simulate(system, state, phase, system.settle)[0][:, -1]
    phase = phase + system.settle * system.dt
    aside = generator.normal(size=state.shape)
    aside *= close / np.linalg.norm(aside, axis=1, keepdims=True)
    grown = 0.0
    for _ in range(steps):
        both = np.concatenate([state, state + aside])
        after = _simulate(system, both, np.tile(phase, 2), 1)[0][:, 1]
        state, apart = after[:pairs], after[pairs:] - after[:pairs]
        norm = np.linalg.norm(apart, axis=1, keepdims=True)
        grown += float(np.log(norm / close).mean())
        aside, phase = apart * close / norm, phase + system.dt
    return grown / (steps * system.dt)


def occupancy_divergence(truth: np.ndarray, other: np.ndarray) -> float:
    """D_stsp: KL(truth || other) in nats, of histograms of states `[N, D]`.

    30 bins a dimension over the truth's range and a tenth of a standard deviation beyond; 1e-5 is
    added to every count. States outside, or not finite, count for no bin.

    Source: arXiv:2306.04406. Differs: the range is that of the truth.
    """
    margin = 0.1 * truth.std(0)
    low, high = truth.min(0) - margin, truth.max(0) + margin

    def histogram(states: np.ndarray) -> np.ndarray:
        inside = states[((states >= low) & (states <= high)).all(1)]  # NaN is not
        cell = ((inside - low) / (high - low) * _BINS).astype(int).clip(max=_BINS - 1)
        flat = np.ravel_multi_index(tuple(cell.T), (_BINS,) * len(low))
        counts = np.bincount(flat, minlength=_BINS ** len(low)) + _SMOOTHING
        shares: np.ndarray = counts / counts.sum()
        return shares

    p, q = histogram(truth), histogram(other)
    return float((p * np.log(p / q)).sum())


def spectral_distance(truth: np.ndarray, other: np.ndarray) -> float:
    """D_H: mean over dimensions of the Hellinger distance of power spectra, of `[N, T, D]`.

    Means over N series, smoothed by a Gaussian of 20 frequencies. 1 where a series is not finite.

    Source: arXiv:2306.04406. Differs: the mean over several series.
    """
    if not np.isfinite(other).all():
        return 1.0
    at = np.arange(-int(4 * _SPECTRUM), int(4 * _SPECTRUM) + 1)
    kernel = np.exp(-0.5 * (at / _SPECTRUM) ** 2)

    def spectrum(series: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(series - series.mean(1, keepdims=True), axis=1)) ** 2
        smooth = np.stack([np.convolve(each, kernel, "same") for each in power.mean(0).T])
        shares: np.ndarray = smooth / smooth.sum(1, keepdims=True).clip(min=1e-30)
        return shares

    overlap = np.sqrt(spectrum(truth) * spectrum(other)).sum(1)
    return float(np.sqrt((1 - overlap).clip(min=0)).mean())


@torch.no_grad()
def run_freely(model: WorldModel, truth: Dataset, steps: int, seeds: int) -> np.ndarray:
    """States `[S, N, steps, D]` from the start of every episode, under its recorded actions."""
    rows = truth.episode_starts
    obs = truth.transitions.obs[rows].expand(seeds, -1, -1)
    state, found = model.begin(obs), []
    for step in range(steps):
        action = truth.transitions.action[rows + step].expand(seeds, -1, -1)
        after = model.advance(obs, action, 1, state, expected=True)
        obs, state = after.next_obs[0], None if after.state is None else after.state[0]
        found.append(obs)
    return torch.stack(found, 2).numpy().astype(np.float64)


def distances(truth: Dataset, other: Dataset, discard: int) -> dict[str, float]:
    """`D_stsp` and `D_H` of two datasets of episodes of one length."""
    one, two = (_states(data)[:, discard:] for data in (truth, other))
    return _distances(one, two)


def _states(data: Dataset) -> np.ndarray:
    episodes = len(data.episode_starts)
    states: np.ndarray = data.transitions.next_obs.double().numpy()
    return states.reshape(episodes, -1, states.shape[-1])


def _distances(true: np.ndarray, other: np.ndarray) -> dict[str, float]:
    flat = (each.reshape(-1, each.shape[-1]) for each in (true, other))
    return {"D_stsp": occupancy_divergence(*flat), "D_H": spectral_distance(true, other)}


def judge(
    model: WorldModel, truth: Dataset, lyapunov_time: float, seeds: int, discard: int
) -> dict[str, Any]:
    """`D_stsp`, `D_H` and valid time in Lyapunov times, one number a seed.

    Args:
        truth: episodes of one length that the fit has not seen, without noise.
        lyapunov_time: in steps.
        discard: first steps that long-term measures leave out.
    """
    steps = int(truth.episode_lengths[0])
    true = _states(truth)[:, discard:]
    free = run_freely(model, truth, steps, seeds)[:, :, discard:]
    ahead = min(steps // 2, int(12 * lyapunov_time))
    starts = (truth.episode_starts[:, None] + torch.arange(20, steps - ahead, 50)).flatten()
    errors = errors_ahead(model, truth, truth, starts, ahead)
    valid = valid_steps(errors, torch.full((len(starts),), ahead), VALID)
    found = [_distances(true, each) for each in free]
    return {
        **{name: [each[name] for each in found] for name in ("D_stsp", "D_H")},
        "valid": plain(valid / lyapunov_time),
    }
