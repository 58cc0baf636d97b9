"""Estimate the policy of a run without acting: `python -m training.ope run=runs/mopo/x/0`.

Fitted Q evaluation on the run's dataset, or on another log (`dataset.path=later.csv`), and rollouts
of its world model from recorded start states, beside what was recorded and with a verdict. With
`true_return=true` the policy then acts, and the errors are printed too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from reverie.datasets.cache import cache_at, cache_root
from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.ranges import Count, EpisodeCount, Inside, Seed, Threads
from reverie.settings import require_declared
from reverie.training import fitting
from reverie.training.files import write_json
from reverie.training.launch import mistakes
from reverie.training.launch.compose import threads
from reverie.training.launch.judges import judge_by
from reverie.training.launch.options import CONF, is_chosen
from reverie.training.launch.other_data import read_other
from reverie.training.launch.parts import build_part
from reverie.training.launch.restore import SavedRun, load_run
from reverie.training.ope import estimates as value_estimates
from reverie.training.ope.plans import SAMPLE, refuse_fitted_q, tell_duration
from reverie.training.ope.table import print_verdict
from reverie.training.ope.verdict import RANGES
from reverie.training.ope.verdict import plain as plain_interval
from reverie.training.results.summary import versions
from reverie.training.run_directory import unless_read_only
from reverie.training.seeding import side_stream
from reverie.world_models.base import WorldModel

SETTINGS = RANGES | {
    "seed": Seed,
    "starts": Count,
    "episodes": EpisodeCount,
    "discount": Inside | None,
    "threads": Threads,
    "true_return": bool,
}
"""What the numbers of conf/ope.yaml may be that no class takes."""
FILE = "off_policy_evaluation.json"
OTHER_FILE = "off_policy_evaluation-{}.json"
"""Of another dataset, by its name."""
Estimates = dict[str, list[list[float]]]
"""One `[estimate, low, high]` a seed, by method and quantity."""


def evaluate(settings: DictConfig) -> None:
    """Estimate, compare where asked, print and write."""
    console = Console(markup=False, emoji=False)
    plain: Any = OmegaConf.to_container(settings, resolve=True)
    require_declared(plain, SETTINGS)
    torch.set_num_threads(threads(settings.threads))
    run_dir = expanded(settings.run)
    run = load_run(run_dir, settings.device, settings.seed, settings.allow)
    if run.agent.plans:
        left = "rollouts in its model"
        if run.spec.env_id is not None:
            left += ", or score it with evaluate.py"
        refuse_fitted_q(settings.fqe.updates, settings.fqe.batch_size, "fqe.updates", left)
    if not 0 < (run.agent.discount if settings.discount is None else settings.discount) < 1:
        raise Mistake(
            f"the agent of {run_dir} has no discount below 1, so its policy has no value without "
            "one; give one, such as discount=0.99"
        )
    discount = run.agent.discount
    if settings.discount is not None:
        discount = run.spec.per_action(settings.discount)
    judge = judge_by(plain | {"discount": discount})
    judge.require_settings(run.spec, run.policy, run.agent.seeds, judge.discount)
    changes = {key: value for key, value in plain["dataset"].items() if value is not None}
    data = read_other(run, changes) if changes else run.load_dataset()
    if changes:
        console.print(
            f"judged on {data.name}, {len(data):,} rows, and not on the data of the run",
            highlight=False,
        )
    if settings.true_return:
        require_truth(run)
    model = world_model(run, data, settings, console) if settings.model.rollouts else None
    if model is None and not settings.fqe.updates:
        raise Mistake(
            "nothing is left to estimate with: fqe.updates=0, and there is no world model or "
            "model.rollouts=0; choose world_model=ensemble, or raise fqe.updates"
        )
    if run.agent.plans:
        obs = data.transitions.obs[:SAMPLE].to(run.device)
        states = judge.single_states(data, judge.discount, settings.seed)
        tell_duration(run.agent, obs, states, "fewer starts", console)
    found = judge.judge(
        lambda obs: run.agent.act(obs, deterministic=True),
        data,
        model,
        seeds=run.agent.seeds,
        discount=judge.discount,
        seed=settings.seed,
        device=run.device,
        console=console,
    )
    print_verdict(found, console, run_dir)
    estimates = estimates_of(found)
    truth = true_values(run, settings, found["discount"]) if settings.true_return else None
    if truth is not None:
        for table in tables(run_dir, estimates, truth, found["discount"]):
            console.print(table)
    result = {
        "run": str(run_dir),
        "update": run.update,
        "environment": data.spec.env_id,
        "dataset": {"name": data.name, "fingerprint": data.fingerprint},
        "discount": found["discount"],
        "starts": found["starts"],
        "settings": plain,
        "estimates": estimates,
        "verdict": found,
        "truth": None
        if truth is None
        else {name: [estimate for estimate, _, _ in own] for name, own in truth.items()},
        "versions": versions(),
    }
    path = run_dir / (FILE if not changes else OTHER_FILE.format(data.name.replace("/", "-")))
    with unless_read_only(lambda line: console.print(line, highlight=False, soft_wrap=True)):
        write_json(path, result)
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


def world_model(
    run: SavedRun, data: Dataset, settings: DictConfig, console: Console
) -> WorldModel | None:
    """The model that is asked for, fitted or from the cache; else the run's, if it has one."""
    node = settings.world_model
    if not is_chosen(node):
        own = run.load_part("world_model")
        if isinstance(own, WorldModel):
            own.replay_exogenous(data)
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


def estimates_of(found: Mapping[str, Any]) -> Estimates:
    """The intervals of a verdict by method and quantity."""
    made: Estimates = {}
    if found["fqe"] is not None and not found["fqe"]["diverged"]:
        made["fqe/value"] = found["fqe"]["value"]
    if found["model"] is not None:
        made |= {f"model/{name}": found["model"][name] for name in ("value", "return")}
    return made


def require_truth(run: SavedRun) -> None:
    """Refuse to act in an environment that nobody knows, before anything is estimated.

    Raises:
        Mistake: there is none.
    """
    if run.spec.env_id is None:
        raise Mistake(
            "true_return=true, but the dataset names no environment; train with "
            "dataset.env_id=..., or leave true_return at false"
        )
    if run.spec.chunk > 1:
        raise Mistake(
            f"true_return=true compares returns, which those of chunks (dataset.chunks="
            f"{run.spec.chunk}) are not, for they discount within each chunk; leave it at false, "
            "and evaluate.py gives the true return"
        )


def true_values(run: SavedRun, settings: DictConfig, discount: float) -> Estimates:
    """What the policies earn in the true environment."""
    outcomes = value_estimates.true_outcomes(
        run.spec,
        run.policy,
        seeds=run.agent.seeds,
        episodes=settings.episodes,
        seed=settings.seed,
        discount=discount,
    )
    return {
        name: [plain_interval(value_estimates.interval(own[None])) for own in outcomes[f"{name}s"]]
        for name in ("value", "return")
    }


def tables(run_dir: Path, found: Estimates, truth: Estimates, discount: float) -> list[Table]:
    """Estimates beside the truth: one table a quantity, one row a seed."""
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
            shown.add_column("error", justify="right")
        shown.add_column("in truth", justify="right")
        for seed, true in enumerate(truth[quantity]):
            cells = [str(seed)]
            for per_seed in columns.values():
                cells += [_cell(per_seed[seed]), f"{per_seed[seed][0] - true[0]:+z.4g}"]
            shown.add_row(*cells, _cell(true))
        made.append(shown)
    return made


METHODS = {"fqe": "FQE", "model": "model rollouts"}


def _cell(found: Sequence[float]) -> str:
    estimate, low, high = found
    return f"{estimate:z.4g} [{low:z.4g}, {high:z.4g}]"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="ope")
def main(settings: DictConfig) -> None:
    with mistakes.one_line_errors(), cache_at(settings.cache):
        evaluate(settings)


if __name__ == "__main__":
    mistakes.run(main)
