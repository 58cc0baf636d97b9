"""Turn a trained policy into equations: `python -m training.distil run=runs/sindy_rl/x/0`.

The teacher acts in the true environment and labels the states it meets; the student is a sparse
polynomial fitted to them, acts itself, and the teacher labels what the student met (DAgger). Both
are then scored on the same starts, and the student is printed and written as JSON, Python and C.
Without an environment the states are those of the records and of rollouts in the run's world model,
and the scores are estimates.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Annotated, Any

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
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.ranges import Count, EpisodeCount, Filled, NonNegative, Positive, Range, Seed, Whole
from reverie.settings import require_declared
from reverie.training.distil.sparse_policy import SparsePolicy, fit_sparse_policy
from reverie.training.distil.without_environment import InModel, InRecords, Place, Policy
from reverie.training.files import write_json, write_text
from reverie.training.launch import mistakes
from reverie.training.launch.judges import judge_by
from reverie.training.launch.options import CONF
from reverie.training.launch.restore import SavedRun, load_run
from reverie.training.ope.plans import SAMPLE, refuse_fitted_q, tell_duration
from reverie.training.ope.table import print_verdict
from reverie.training.ope.verdict import RANGES
from reverie.training.run_directory import unless_read_only
from reverie.training.seeding import side_stream
from reverie.world_models.base import WorldModel
from reverie.world_models.sindy.dictionary import circles, legend

SETTINGS = {
    "seed": Seed,
    "degrees": Annotated[Sequence[Annotated[int, Range(1, 10)]], Filled()],
    "thresholds": Annotated[Sequence[NonNegative], Filled()],
    "tolerance": NonNegative,
    "alpha": NonNegative,
    "members": Count,
    "label_bound": Positive,
    "rounds": Whole,
    "episodes": EpisodeCount,
    "rows": Count,
    "copies": Whole,
    "noise": NonNegative,
    "evaluation_episodes": EpisodeCount,
    "library_ensemble": bool,
    "verdict.starts": Count,
    **{f"verdict.{name}": kind for name, kind in RANGES.items()},
}
"""What the numbers of conf/distil.yaml may be."""


def distil(settings: DictConfig) -> float:
    """Distil the last checkpoint of a run; returns the mean score of the sparse policies.

    That is their return in the environment, or where nobody knows one their value by the data.
    """
    extras.require("pysindy", "sindy", "distil")  # before anybody acts
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    require_declared(plain, SETTINGS)
    console = Console(markup=False, emoji=False)
    run_dir = expanded(settings.run)
    run = load_run(run_dir, settings.device, settings.seed, settings.allow)
    known = run.spec.env_id is not None
    student, chosen, scores = (_in_environment if known else _by_records)(run, settings, console)
    weights = actor_parameters(run.agent) // run.agent.seeds
    columns = legend(run.spec)
    result = {
        "equations": student.equations(),
        "terms": student.terms(),
        **({"columns_of_equations": columns} if columns else {}),
        "chosen": chosen,
        **scores,
        "actor_parameters": weights,
        "environment": run.spec.env_id,
    }
    kind, table = ("return", scores["returns"]) if known else ("value", scores["values"])
    for replica in range(run.agent.seeds):
        console.print(
            f"seed {replica}: {kind} {table['student'][replica]:z.4g} of "
            f"{chosen[replica]['terms']} terms, {table['teacher'][replica]:z.4g} of its teacher's "
            f"{weights:,} parameters",
            highlight=False,
        )
        for line in student.equations()[replica]:
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    with unless_read_only(lambda line: console.print(line, highlight=False, soft_wrap=True)):
        write_json(run_dir / "sparse_policy.json", result, with_digest=True)
        for replica in range(run.agent.seeds):
            write_text(run_dir / f"sparse_policy_{replica}.py", student.python(replica))
            write_text(run_dir / f"sparse_policy_{replica}.c", student.c(replica))
        console.print(f"written: {run_dir}/sparse_policy*", highlight=False, soft_wrap=True)
    return float(np.mean(table["student"]))


Distilled = tuple[SparsePolicy, list[dict[str, Any]], dict[str, Any]]
"""The students, what was chosen for each, and scores of them and their teachers by name."""


def _in_environment(run: SavedRun, settings: DictConfig, console: Console) -> Distilled:
    """Teach and score in the true environment."""
    sizes: dict[str, Any] = {"spec": run.spec, "seeds": run.agent.seeds}
    with closing(Evaluator(**sizes, episodes=settings.episodes)) as evaluator:
        student, chosen = teach(run.policy, evaluator, settings)
    with closing(Evaluator(**sizes, episodes=settings.evaluation_episodes)) as evaluator:
        seed = settings.seed + (settings.rounds + 2) * settings.episodes
        returns = {
            name: evaluator.episode_returns(policy, seed)[0].mean(1).tolist()
            for name, policy in (("teacher", run.policy), ("student", student.act))
        }
    return student, chosen, {"returns": returns}


def _by_records(run: SavedRun, settings: DictConfig, console: Console) -> Distilled:
    """Teach by recorded states and by those met in the world model; score by data and model.

    Raises:
        Mistake: the dataset cannot be read again.
    """
    plain: Any = OmegaConf.to_container(settings.verdict, resolve=True)
    plain["discount"] = run.spec.per_action(plain["discount"])
    judge, seeds, discount = judge_by(plain), run.agent.seeds, run.agent.discount
    judge.require_settings(run.spec, run.policy, seeds, discount)
    if run.agent.plans:
        refuse_fitted_q(
            *(judge.updates, judge.fqe["batch_size"], "verdict.fqe.updates"),
            "the rollouts in its model to score by",
        )
    data, model = run.load_dataset(), run.load_part("world_model")
    records = InRecords(data, seeds=seeds, rows=settings.rows)
    if not isinstance(model, WorldModel):
        model = None
    if not judge.updates and (model is None or not judge.rollouts):
        raise Mistake(
            "no environment is known, and nothing is left to score by: verdict.fqe.updates=0, and "
            "there is no world model or verdict.model.rollouts=0; raise verdict.fqe.updates"
        )
    told = "states from the records alone, scored by fitted Q evaluation"
    if model is not None:
        told = (
            "states from the records and the world model, scored by fitted Q evaluation and by "
            "rollouts of that model"
        )
    console.print(f"no environment is known: {told}", highlight=False, soft_wrap=True)
    if run.agent.plans:
        states = judge.single_states(data, discount, settings.seed)
        states += settings.rows * settings.copies * (settings.rounds + 1)
        obs = data.transitions.obs[:SAMPLE].to(run.device)
        tell_duration(
            run.agent, obs, states, "fewer rows, copies, rounds and verdict.starts", console
        )
    if model is None:
        student, chosen = teach(run.policy, records, OmegaConf.create({**settings, "rounds": 0}))
    else:
        place = InModel(
            model,
            data,
            seeds=seeds,
            episodes=settings.episodes,
            box=judge.box,
            device=run.device,
        )
        known = records.states(settings.seed).double().numpy()
        student, chosen = teach(run.policy, place, settings, known)
    found = {}

    def teacher(obs: Tensor) -> Tensor:
        return run.agent.act(obs, deterministic=True)

    for name, policy in (("teacher", teacher), ("student", student.act)):
        with side_stream(settings.seed, run.device):
            found[name] = judge.judge(
                policy,
                data,
                model,
                seeds=seeds,
                discount=discount,
                seed=settings.seed,
                device=run.device,
                console=console,
            )
        console.print(f"the {name}:", highlight=False)
        print_verdict(found[name], console, expanded(settings.run))
    values = {name: score_of(verdict) for name, verdict in found.items()}
    return student, chosen, {"values": values, "verdict": found}


def score_of(verdict: Mapping[str, Any]) -> list[float]:
    """The value of every seed by fitted Q evaluation, else by the model; NaN for neither."""
    fitted, model = verdict["fqe"], verdict["model"]
    if fitted is not None and not fitted["diverged"]:
        return [estimate for estimate, _, _ in fitted["value"]]
    if model is not None:
        return [estimate for estimate, _, _ in model["value"]]
    return [float("nan")] * verdict["seeds"]


def teach(
    teacher: Policy,
    evaluator: Place,
    settings: DictConfig,
    known: Float[np.ndarray, "N D"] | None = None,
) -> tuple[SparsePolicy, list[dict[str, Any]]]:
    """Each seed's best student of all rounds, and what was chosen for it.

    The best one has the highest return on `episodes` starts that no round has seen.

    Args:
        known: states that count beside those that are met.
    """
    # One generator per seed: how far a teacher gets is no matter of another seed's noise.
    draws = [np.random.default_rng([settings.seed, seed]) for seed in range(evaluator.seeds)]
    none = np.empty((0, evaluator.spec.obs_dim))
    met: list[np.ndarray] = [none if known is None else known] * evaluator.seeds
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


def visit_states(policy: Policy, evaluator: Place, seed: int) -> list[np.ndarray]:
    """States `[N, D]` that a policy meets where it acts, for every seed."""
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
