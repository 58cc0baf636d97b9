"""Estimate the policy of a run without acting: `python -m training.ope run=runs/mopo/x/0`.

Fitted Q evaluation on the run's dataset, and rollouts of its world model from recorded start
states. With `true_return=true` the policy then acts, and the errors are printed beside.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from reverie.agents.fitted_q_evaluation import FittedQEvaluation
from reverie.datasets.cache import cache_at, cache_root
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.ranges import Count, Inside, Positive, Seed, Share, Whole, Widths
from reverie.settings import require_declared
from reverie.training import fitting
from reverie.training.files import write_json
from reverie.training.launch import mistakes
from reverie.training.launch.compose import build_part, is_chosen, threads
from reverie.training.launch.options import CONF
from reverie.training.launch.restore import SavedRun, load_run
from reverie.training.logging import Log, NoTracker
from reverie.training.ope import estimates as value_estimates
from reverie.training.progress import stage
from reverie.training.results.statistics import Interval
from reverie.training.results.summary import versions
from reverie.training.run_directory import unless_read_only
from reverie.training.seeding import side_stream
from reverie.world_models.base import WorldModel

SETTINGS = {
    "seed": Seed,
    "starts": Count,
    "episodes": Count,
    "discount": Inside | None,
    "fqe.updates": Whole,
    "fqe.batch_size": Count,
    "fqe.replicas": Count,
    "fqe.hidden": Widths,
    "fqe.learning_rate": Positive,
    "fqe.tau": Share,
    "model.rollouts": Whole,
    "model.box": Positive | None,
    "threads": Literal["auto"] | Count,
}
"""What the numbers of conf/ope.yaml may be that no class takes."""
FILE = "off_policy_evaluation.json"
Estimates = dict[str, list[Interval]]
"""One interval a seed, by method and quantity."""


def evaluate(settings: DictConfig) -> None:
    """Estimate, compare where asked, print and write."""
    console = Console(markup=False, emoji=False)
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    require_declared(plain, SETTINGS)
    torch.set_num_threads(threads(settings.threads))
    run_dir = Path(settings.run).expanduser()
    run = load_run(run_dir, settings.device, settings.seed, settings.allow)
    data = run.load_dataset()
    model = world_model(run, data, settings, console) if settings.model.rollouts else None
    if model is None and not settings.fqe.updates:
        raise Mistake(
            "nothing is left to estimate with: fqe.updates=0, and there is no world model or "
            "model.rollouts=0; choose world_model=ensemble, or raise fqe.updates"
        )
    discount = run.agent.discount if settings.discount is None else settings.discount
    if not 0 < discount < 1:
        raise Mistake(
            f"the discount of the agent is {discount:g}; give one between 0 and 1 as discount=..."
        )
    starts = value_estimates.start_states(data, settings.starts, settings.seed)
    found: Estimates = {}
    diagnosed: dict[str, Any] = {}
    if settings.fqe.updates:
        found["fqe/value"] = fitted_values(run, data, starts, plain["fqe"], discount, console)
    if model is not None:
        simulated = roll_out_in_model(model, run, data, starts, settings, discount)
        for name in ("value", "return"):
            table = getattr(simulated, f"{name}s").mean(1, keepdim=True)  # [S, 1, P]
            found[f"model/{name}"] = [value_estimates.interval(own) for own in table]
        diagnosed = {
            name: getattr(simulated, name).tolist() for name in ("steps", "broken", "outside")
        }
    truth = true_values(run, settings, discount) if settings.true_return else None
    for table in tables(run_dir, found, truth, discount):
        console.print(table)
    result = {
        "run": str(run_dir),
        "update": run.update,
        "environment": data.spec.env_id,
        "dataset": {"name": data.name, "fingerprint": data.fingerprint},
        "discount": discount,
        "starts": len(starts),
        "settings": plain,
        "estimates": {
            name: [[float(each.estimate), float(each.low), float(each.high)] for each in per_seed]
            for name, per_seed in found.items()
        },
        "model": diagnosed,
        "truth": None
        if truth is None
        else {name: [float(each.estimate) for each in own] for name, own in truth.items()},
        "versions": versions(),
    }
    with unless_read_only(lambda line: console.print(line, highlight=False, soft_wrap=True)):
        write_json(run_dir / FILE, result)
        console.print(f"written: {run_dir / FILE}", highlight=False, soft_wrap=True)


def world_model(
    run: SavedRun, data: Dataset, settings: DictConfig, console: Console
) -> WorldModel | None:
    """The model that is asked for, fitted or from the cache; else the run's, if it has one."""
    node = settings.world_model
    if not is_chosen(node):
        own = run.load_part("world_model")
        if isinstance(own, WorldModel):
            return own
        node = run.config.get("world_model")
    if not is_chosen(node):
        console.print(
            "the run has no world model, so there are no rollouts; world_model=ensemble fits one",
            soft_wrap=True,
            highlight=False,
        )
        return None
    seed = run.config.seed
    config = OmegaConf.create({"world_model": node, "seed": seed, "seeds": run.config.seeds})
    part = build_part(config, "world_model", data.spec, run.device)
    with side_stream(seed, run.device):
        fitting.fit(
            *("world_model", part, data),
            cache=cache_root(),
            directory=None,
            device=run.device,
            compile=lambda function: function,
            console=console,
        )
    assert isinstance(part.model, WorldModel)
    return part.model


def fitted_values(
    run: SavedRun,
    data: Dataset,
    starts: Tensor,
    hyperparameters: Mapping[str, Any],
    discount: float,
    console: Console,
) -> list[Interval]:
    """Values by fitted Q evaluation, one a seed."""
    learning = {
        name: hyperparameters[name]
        for name in hyperparameters
        if name not in ("updates", "batch_size")
    }
    learner: FittedQEvaluation = mistakes.build(
        "fqe",
        FittedQEvaluation,
        spec=data.spec,
        policy=lambda obs: run.agent.act(obs, deterministic=True),
        policies=run.agent.seeds,
        discount=discount,
        **learning,
    ).to(run.device)
    updates = hyperparameters["updates"]
    with (
        TemporaryDirectory() as folder,
        stage("fitted Q evaluation", updates, console) as shown,
    ):
        log = Log(Path(folder) / "metrics.csv", NoTracker(), learner.seeds)
        log.begin()

        def on_log(update: int) -> None:
            shown.advance_to(update)
            shown.report(update, log.readable(), pause=fitting.PAUSE)

        value_estimates.fit_critics(
            learner,
            data,
            updates=updates,
            batch_size=hyperparameters["batch_size"],
            log=log,
            log_every=max(updates // 100, 1),
            on_log=on_log,
        )
    return [value_estimates.interval(each) for each in learner.state_values(starts.to(run.device))]


def roll_out_in_model(
    model: WorldModel,
    run: SavedRun,
    data: Dataset,
    starts: Tensor,
    settings: DictConfig,
    discount: float,
) -> value_estimates.Rollouts:
    """Rollouts of the run's policies in the model.

    Raises:
        ValueError: the task has no time limit.
    """
    limit = data.spec.max_episode_steps
    if limit is None:
        raise Mistake(
            f"dataset {data.name} knows no time limit, so a return has no end; train with "
            "dataset.env_id=... or dataset.max_episode_steps=..., or set model.rollouts=0"
        )
    box = settings.model.box
    return value_estimates.model_rollouts(
        model,
        lambda obs: run.agent.act(obs, deterministic=True),
        starts.to(run.device),
        seeds=run.agent.seeds,
        rollouts=settings.model.rollouts,
        limit=limit,
        discount=discount,
        box=None if box is None else value_estimates.box_of(data, box).to(run.device),
    )


def true_values(run: SavedRun, settings: DictConfig, discount: float) -> Estimates:
    """What the policies earn in the true environment.

    Raises:
        ValueError: there is none.
    """
    spec = run.facts.spec
    if spec.env_id is None:
        raise Mistake(
            "true_return=true, but the dataset names no environment; train with "
            "dataset.env_id=..., or leave true_return at false"
        )
    outcomes = value_estimates.true_outcomes(
        spec,
        run.policy,
        seeds=run.agent.seeds,
        episodes=settings.episodes,
        seed=settings.seed,
        discount=discount,
    )
    return {
        name: [value_estimates.interval(each[None]) for each in outcomes[f"{name}s"]]
        for name in ("value", "return")
    }


def tables(
    run_dir: Path, found: Estimates, truth: Estimates | None, discount: float
) -> list[Table]:
    """One table a quantity, one row a seed."""
    titles = {
        "value": f"{run_dir}: value, discounted by {discount:g}, without time limit",
        "return": f"{run_dir}: return up to the time limit",
    }
    made = []
    for quantity, title in titles.items():
        columns = {
            name.split("/")[0]: per_seed
            for name, per_seed in found.items()
            if name.endswith(quantity)
        }
        if not columns:
            continue
        shown = Table(title=title, title_justify="left")
        shown.add_column("seed", justify="right")
        for method in columns:
            shown.add_column(METHODS[method], justify="right")
            if truth is not None:
                shown.add_column("error", justify="right")
        if truth is not None:
            shown.add_column("in truth", justify="right")
        for seed in range(len(next(iter(columns.values())))):
            cells = [str(seed)]
            for per_seed in columns.values():
                cells.append(_cell(per_seed[seed]))
                if truth is not None:
                    error = float(per_seed[seed].estimate - truth[quantity][seed].estimate)
                    cells.append(f"{error:+.4g}")
            if truth is not None:
                cells.append(_cell(truth[quantity][seed]))
            shown.add_row(*cells)
        made.append(shown)
    return made


METHODS = {"fqe": "FQE", "model": "model rollouts"}


def _cell(found: Interval) -> str:
    return f"{float(found.estimate):.4g} [{float(found.low):.4g}, {float(found.high):.4g}]"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="ope")
def main(settings: DictConfig) -> None:
    with mistakes.one_line_errors(), cache_at(settings.cache):
        evaluate(settings)


if __name__ == "__main__":
    mistakes.run(main)
