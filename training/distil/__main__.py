"""Turn a trained policy into equations: `python -m training.distil run=runs/sindy_rl/x/0`.

The teacher acts in the true environment and labels the states it meets; the student is a sparse
polynomial fitted to them, acts itself, and the teacher labels what the student met (DAgger). Both
are then scored on the same starts, and the student is printed and written as JSON, Python and C.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from reverie.agents.base import Agent
from reverie.envs import extras
from reverie.envs.evaluation import Evaluator
from reverie.ranges import Count, NonNegative, Positive, Seed, Whole
from reverie.settings import require_declared
from reverie.training.distil.sparse_policy import SparsePolicy, fit_sparse_policy
from reverie.training.files import write_json, write_text
from reverie.training.launch import mistakes
from reverie.training.launch.options import CONF
from reverie.training.launch.restore import load_run
from reverie.training.run_directory import unless_read_only
from reverie.world_models.sindy.dictionary import circles, legend

Policy = Callable[[Tensor], Tensor]
SETTINGS = {
    "seed": Seed,
    "degrees": Sequence[Count],
    "thresholds": Sequence[NonNegative],
    "tolerance": NonNegative,
    "alpha": NonNegative,
    "members": Count,
    "label_bound": Positive,
    "rounds": Whole,
    "episodes": Count,
    "rows": Count,
    "copies": Whole,
    "noise": NonNegative,
    "evaluation_episodes": Count,
}
"""What the numbers of conf/distil.yaml may be."""


def distil(settings: DictConfig) -> float:
    """Distil the last checkpoint of a run; returns the mean return of the sparse policies."""
    extras.require("pysindy", "sindy", "distil")  # before anybody acts
    require_declared(OmegaConf.to_container(settings), SETTINGS)
    console = Console(markup=False, emoji=False)
    run_dir = Path(settings.run).expanduser()
    run = load_run(run_dir, settings.device, settings.seed, settings.allow)
    run.require_environment()
    agent, teacher = run.agent, run.policy
    sizes: dict[str, Any] = {"spec": run.spec, "seeds": agent.seeds}
    with closing(Evaluator(**sizes, episodes=settings.episodes)) as evaluator:
        student, chosen = teach(teacher, evaluator, settings)
    with closing(Evaluator(**sizes, episodes=settings.evaluation_episodes)) as evaluator:
        seed = settings.seed + (settings.rounds + 2) * settings.episodes
        returns = {
            name: evaluator.episode_returns(policy, seed)[0].mean(1).tolist()
            for name, policy in (("teacher", teacher), ("student", student.act))
        }

    columns = legend(run.spec)
    weights = actor_parameters(agent) // agent.seeds
    result = {
        "equations": student.equations(),
        "terms": student.terms(),
        **({"columns_of_equations": columns} if columns else {}),
        "chosen": chosen,
        "returns": returns,
        "actor_parameters": weights,
        "environment": run.spec.env_id,
    }
    for replica in range(agent.seeds):
        console.print(
            f"seed {replica}: return {returns['student'][replica]:.1f} of "
            f"{chosen[replica]['terms']} terms, {returns['teacher'][replica]:.1f} of its teacher's "
            f"{weights:,} parameters",
            highlight=False,
        )
        for line in student.equations()[replica]:
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    with unless_read_only(lambda line: console.print(line, highlight=False, soft_wrap=True)):
        write_json(run_dir / "sparse_policy.json", result)
        for replica in range(agent.seeds):
            write_text(run_dir / f"sparse_policy_{replica}.py", student.python(replica))
            write_text(run_dir / f"sparse_policy_{replica}.c", student.c(replica))
        console.print(f"written: {run_dir}/sparse_policy*", highlight=False, soft_wrap=True)
    return float(np.mean(returns["student"]))


def teach(
    teacher: Policy, evaluator: Evaluator, settings: DictConfig
) -> tuple[SparsePolicy, list[dict[str, Any]]]:
    """Each seed's best student of all rounds, and what was chosen for it.

    The best one has the highest return on `episodes` starts that no round has seen.
    """
    # One generator per seed: how far a teacher gets is no matter of another seed's noise.
    draws = [np.random.default_rng([settings.seed, seed]) for seed in range(evaluator.seeds)]
    met: list[np.ndarray] = [np.empty((0, evaluator.spec.obs_dim))] * evaluator.seeds
    acting, students = teacher, []
    for turn in range(settings.rounds + 1):
        new = visit_states(acting, evaluator, settings.seed + turn * settings.episodes)
        met = [
            _at_most(np.concatenate(pair), settings.rows, rng)
            for *pair, rng in zip(met, new, draws, strict=True)
        ]
        angles = circles(torch.from_numpy(np.concatenate(met)))
        around = [
            _around(rows, settings.copies, settings.noise, angles, rng)
            for rows, rng in zip(met, draws, strict=True)
        ]
        students.append(
            fit_sparse_policy(
                evaluator.spec,
                around,
                _ask(teacher, around),
                angles=angles,
                degrees=settings.degrees,
                thresholds=settings.thresholds,
                tolerance=settings.tolerance,
                alpha=settings.alpha,
                members=settings.members,
                library_ensemble=settings.library_ensemble,
                label_bound=settings.label_bound,
                seed=settings.seed,
            )
        )
        acting = students[-1][0].act
    trial = settings.seed + (settings.rounds + 1) * settings.episodes
    returns = [evaluator.episode_returns(each.act, trial)[0].mean(1) for each, _ in students]
    return best_of(students, np.stack([each.numpy() for each in returns]))


def best_of(
    students: Sequence[tuple[SparsePolicy, list[dict[str, Any]]]],
    returns: Float[np.ndarray, "rounds S"],
) -> tuple[SparsePolicy, list[dict[str, Any]]]:
    """The student of the round with the highest return, for each seed; of equals the last."""
    seeds = range(returns.shape[1])
    best = len(students) - 1 - np.nan_to_num(returns, nan=-np.inf)[::-1].argmax(0)
    policies = [students[turn][0] for turn in best]
    return (
        replace(
            students[-1][0],
            coefficients=np.stack([policies[seed].coefficients[seed] for seed in seeds]),
        ),
        [students[best[seed]][1][seed] | {"round": int(best[seed])} for seed in seeds],
    )


def visit_states(policy: Policy, evaluator: Evaluator, seed: int) -> list[np.ndarray]:
    """States `[N, D]` that a policy meets in the true environment, for every seed."""
    seen: list[Tensor] = []

    def watched(obs: Tensor) -> Tensor:
        seen.append(obs)
        return policy(obs)

    evaluator.run(watched, seed)
    path = torch.stack(seen, 2)  # [S, P, T, D]
    # Episodes that ended stand still until the last one did.
    moving = torch.ones(path.shape[:3], dtype=torch.bool)
    moving[:, :, 1:] = (path[:, :, 1:] != path[:, :, :-1]).any(-1)
    return [each[kept].double().numpy() for each, kept in zip(path, moving, strict=True)]


def _around(
    rows: np.ndarray,
    copies: int,
    noise: float,
    angles: Sequence[Sequence[int]],
    rng: np.random.Generator,
) -> np.ndarray:
    """Noisy copies; cosine and sine of an angle stay on the circle, where the teacher learned."""
    moved = np.concatenate(
        [rows + noise * rows.std(0) * rng.standard_normal(rows.shape) for _ in range(copies)]
    )
    for pair in angles:
        moved[:, pair] /= np.linalg.norm(moved[:, pair], axis=1, keepdims=True)
    return moved


def _ask(teacher: Policy, rows: list[np.ndarray]) -> list[np.ndarray]:
    """The teacher's actions for every seed's rows, all seeds at once."""
    longest = max(len(each) for each in rows)
    padded = np.stack([np.pad(each, ((0, longest - len(each)), (0, 0))) for each in rows])
    found = teacher(torch.from_numpy(padded).float()).double().numpy()
    return [each[: len(own)] for each, own in zip(found, rows, strict=True)]


def _at_most(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= count else rows[rng.permutation(len(rows))[:count]]


def actor_parameters(agent: Agent) -> int:
    """Numbers in the network that acts, of all seeds."""
    return sum(parameter.numel() for parameter in getattr(agent, "actor", agent).parameters())


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="distil")
def main(settings: DictConfig) -> float | None:
    with mistakes.one_line_errors():
        return distil(settings)


if __name__ == "__main__":
    mistakes.run(main)
