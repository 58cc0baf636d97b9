"""What a collection keeps of its training, and the datasets of graded skill made from it.

D4RL, arXiv:2004.07219, section 5: random, a policy of a third of the expert's skill (medium), all
that was met up to that policy (medium-replay), and the expert's episodes.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.sac import SAC
from reverie.datasets.dataset import Dataset
from reverie.datasets.recording import Arrays, record_episodes
from reverie.datasets.replay import GrowingReplay
from reverie.envs.evaluation import Evaluator
from reverie.envs.specs import Reference, Spec
from reverie.training.files import load_tensors, require_finite, save_tensors, write_atomically
from reverie.training.results.summary import read_metrics
from reverie.training.run_directory import CARRIED_OUT
from reverie.training.seeding import side_stream

Kind = Literal["random", "medium-replay", "medium", "expert"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KIND = "policy snapshot"
_REPAIR = "restore it, or start over with overwrite=true"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Snapshot:
    """A policy that was kept during training.

    Attributes:
        update: gradient steps behind it.
        rows: transitions that had been collected, the random ones at the start left out.
        evaluated: its mean return in the evaluation at that moment.
    """

    update: int
    rows: int
    evaluated: float


class Snapshots:
    """The policy of every evaluation, in files of their own."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device

    def keep(self, agent: SAC, snapshot: Snapshot) -> None:
        """Write the policy as it is now."""
        path = self.folder / f"{snapshot.update}.pt"
        save_tensors(path, KIND, {**vars(snapshot), "actor": agent.actor.state_dict()})

    def all(self) -> list[Snapshot]:
        """What was kept, in the order of training."""
        found = []
        for path in self.folder.glob("*.pt"):
            record = load_tensors(path, KIND, remedy=_REPAIR)
            found.append(Snapshot(record["update"], record["rows"], record["evaluated"]))
        return sorted(found, key=lambda snapshot: snapshot.update)

    def restore(self, agent: SAC, update: int) -> None:
        """Put the policy after so many updates back; the agent's critics stay as they are."""
        path = self.folder / f"{update}.pt"
        record = load_tensors(path, KIND, self.device, _REPAIR)
        require_finite(path, agent.actor, record["actor"], "start over with overwrite=true")
        agent.actor.load_state_dict(record["actor"])


def dataset_ids(settings: Mapping[str, Any]) -> dict[str, str]:
    """The ids of what is written, by kind."""
    task = re.sub(r"[^\w]+", "-", settings["env_id"]).strip("-").lower()
    namespace = settings["namespace"] or f"reverie/{task}"
    return {kind: f"{namespace}/{kind}-v0" for kind in settings["kinds"]}


def digest(settings: Mapping[str, Any]) -> str:
    """Of all settings that decide what is in the datasets."""
    free = (*CARRIED_OUT, "path", "namespace", "kinds", "license")
    kept = {name: value for name, value in settings.items() if name not in free}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def expert_of(snapshots: Sequence[Snapshot], choice: str) -> Snapshot:
    """The best of all evaluations, or the last policy."""
    if choice == "last":
        return snapshots[-1]
    return max(snapshots, key=lambda snapshot: snapshot.evaluated)


def medium_of(
    snapshots: Sequence[Snapshot], reference: Reference, shares: Sequence[float]
) -> tuple[Snapshot, bool]:
    """The earliest policy whose score lies in `shares` of the reference gap, and true.

    Where training jumped over that interval, the policy nearest to it, and false.
    """
    low, high = (100 * share for share in shares)

    def distance(snapshot: Snapshot) -> float:
        score = float(reference.normalise(snapshot.evaluated))
        return max(low - score, score - high, 0.0)

    nearest = min(snapshots, key=distance)  # the earliest of equals
    return nearest, distance(nearest) == 0.0


def collect_rows(start: Dataset, replay: GrowingReplay, rows: int) -> Arrays:
    """The random start and the first `rows` that the only seed collected, in order.

    Actions are those of the environment.
    """
    added = replay.added_rows()[0, :rows]
    spec, first = start.spec, start.transitions
    columns: Arrays = {
        name: torch.cat([getattr(first, name), getattr(added, name).cpu()]).numpy()
        for name in ("obs", "action", "reward", "next_obs", "terminated")
    }
    columns["action"] = to_box(spec, columns["action"])
    # The replay knows no time limits; the writer finds them where the next episode begins.
    columns["truncated"] = np.append(start.truncated.numpy(), np.zeros(len(added.reward), bool))
    return columns


def record_episodes_of(
    agent: Agent,
    spec: Spec,
    *,
    rows: int,
    seed: int,
    deterministic: bool,
    on_step: Callable[[int], None],
) -> Arrays:
    """Episodes of the agent's only seed as it is, cut after `rows` transitions."""
    device = next(agent.parameters()).device

    def behaviour(episode: int, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
        torch.manual_seed(int(rng.integers(2**62)))  # of the noise of this episode's actions

        def act(obs: np.ndarray) -> np.ndarray:
            action = agent.act(torch.from_numpy(obs).to(device).view(1, 1, -1), deterministic)
            return to_box(spec, action.cpu().numpy()[0, 0])

        return act

    with side_stream(seed, device):
        return record_episodes("recording", spec, rows, seed, behaviour, on_step)


def to_box(spec: Spec, action: np.ndarray) -> np.ndarray:
    """Actions in [-1, 1] in the units of the environment, float32."""
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    unit = np.clip(action.astype(np.float64), -1.0, 1.0)
    return ((high + low) / 2 + (high - low) / 2 * unit).astype(np.float32)


def uniform(spec: Spec, *, rows: int, seed: int, on_step: Callable[[int], None]) -> Arrays:
    """Episodes of uniformly random actions, cut after `rows` transitions."""
    low, high = np.array(spec.action_low), np.array(spec.action_high)

    def behaviour(episode: int, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
        return lambda obs: rng.uniform(low, high).astype(np.float32)

    return record_episodes("recording", spec, rows, seed, behaviour, on_step)


def uniform_policy(spec: Spec) -> Callable[[Tensor], Tensor]:
    """Uniformly random actions in [-1, 1]."""
    return lambda obs: torch.rand(*obs.shape[:-1], spec.action_dim) * 2 - 1


def measure_policy(
    policy: Callable[[Tensor], Tensor], evaluator: Evaluator, seed: int
) -> dict[str, Any]:
    """How well a policy does over whole episodes."""
    with side_stream(seed, CPU):
        returns = evaluator.episode_returns(policy, seed)[0][0]
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std(correction=0)),
        "episodes": len(returns),
        "seed": seed,
    }


def describe(arrays: Arrays, ends: np.ndarray, reference: Reference) -> Mapping[str, Any]:
    """Counts of a recording, and the returns of its episodes that were not cut by its end."""
    total = np.cumsum(arrays["reward"], dtype=np.float64)[np.flatnonzero(ends)]
    returns = np.diff(total, prepend=0.0)
    cut = not (arrays["terminated"][-1] or arrays["truncated"][-1])
    whole = returns[:-1] if cut and len(returns) > 1 else returns
    return {
        "rows": len(ends),
        "episodes": len(returns),
        "terminated": int(arrays["terminated"].sum()),
        "return_mean": float(whole.mean()),
        "return_best": float(whole.max()),
        "score_mean": float(reference.normalise(whole.mean())),
    }


def plot(metrics: Path, picture: Path, summary: Mapping[str, Any]) -> None:
    """Draw the learning curve and where the medium and the expert policy lie on it."""
    # Imported here: matplotlib takes a second to load, and only the end of a run needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = read_metrics(metrics)
    updates, returns = series["return"][0]
    steps = dict(zip(updates, series["env_steps"][0][1], strict=True))
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(list(steps.values()), returns, color="tab:blue", label="SAC, mean action")
    for name, mark in (("medium", "C1s"), ("expert", "C2o")):
        policy = summary["policies"][name]
        label = f"{name}: {policy['return_mean']:.4g} on {policy['episodes']} new starts"
        axes.plot(steps[policy["update"]], policy["evaluated"], mark, label=label)
    axes.axhline(summary["reference"]["low"], color="0.5", ls="--", label="random actions")
    axes.set_xlabel("steps in the environment")
    axes.set_ylabel("return of an episode")
    title = f"{summary['environment']}: where the datasets come from"
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write_atomically(picture, lambda file: figure.savefig(file, format="png", dpi=120))
