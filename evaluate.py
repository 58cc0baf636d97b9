"""Score a run in its true environment: `python evaluate.py run=runs/mopo/pendulum-mixed/0`."""

from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from envs.evaluation import episode_returns
from envs.specs import Reference
from envs.video import record
from training import entry
from training.composition import trained
from training.files import write_json
from training.reports import versions


def score(settings: DictConfig) -> float | None:
    """Evaluate the last checkpoint of a run; returns its mean score, or mean return."""
    console = Console()
    run_dir = Path(settings.run)
    agent, facts, update, policy = trained(run_dir, settings.device, settings.seed)
    returns, lengths = episode_returns(
        facts.spec, policy, agent.seeds, settings.episodes, settings.seed
    )
    reference = facts.reference
    result = {
        "run": str(run_dir),
        "update": update,
        "environment": facts.spec.env_id,
        "physics": facts.spec.physics,
        "episodes_per_seed": settings.episodes,
        "evaluation_seed": settings.seed,
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
        "reference": None if reference is None else vars(reference),
        "scores": None if reference is None else reference.normalise(returns).tolist(),
        "versions": versions(),
    }
    write_json(run_dir / "evaluation.json", result)
    console.print(table(result, returns, lengths, reference))
    console.print(f"written: {run_dir / 'evaluation.json'}", highlight=False, soft_wrap=True)
    if settings.video:
        for lane in range(agent.seeds):
            path = run_dir / f"video-seed{lane}.mp4"
            record(facts.spec, lane_of(policy, lane, agent.seeds), path, settings.seed)
            console.print(f"written: {path}", highlight=False, soft_wrap=True)
    mean = returns.mean()
    return float(mean if reference is None else reference.normalise(mean))


def lane_of(policy, lane: int, seeds: int):
    """The policy of one seed as a function of `[1, 1, D]`."""
    return lambda obs: policy(obs.expand(seeds, -1, -1))[lane : lane + 1]


def table(result, returns: torch.Tensor, lengths: torch.Tensor, reference: Reference | None):
    """One row a seed, and their mean."""
    shown = Table(title=f"{result['run']} in {result['environment']}", title_justify="left")
    for column in ("seed lane", "return", "std of episodes", "episode length", "score"):
        shown.add_column(column, justify="right")
    for lane, (row, length) in enumerate(zip(returns, lengths.double(), strict=True)):
        shown.add_row(*_cells(str(lane), row, length, reference))
    if len(returns) > 1:
        shown.add_section()
        shown.add_row(*_cells("all", returns.flatten(), lengths.double().flatten(), reference))
    return shown


def _cells(label: str, returns, lengths, reference: Reference | None) -> list[str]:
    score = "-" if reference is None else f"{reference.normalise(float(returns.mean())):.1f}"
    spread = f"{returns.std(correction=0):.1f}"
    return [label, f"{returns.mean():.1f}", spread, f"{lengths.mean():.0f}", score]


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(settings: DictConfig) -> float | None:
    with entry.one_line_errors():
        return score(settings)


if __name__ == "__main__":
    entry.run(main)
