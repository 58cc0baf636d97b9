"""Score a run in its true environment: `python evaluate.py run=runs/mopo/pendulum-mixed/0`."""

from collections.abc import Callable

import hydra
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from reverie.envs.evaluation import Policy, episode_returns, time_decisions
from reverie.envs.specs import Reference
from reverie.envs.video import record, record_beside, require_encoder
from reverie.mistake import Mistake
from reverie.paths import expanded
from reverie.ranges import Count, EpisodeCount, Seed
from reverie.settings import require_declared
from reverie.text import printable
from reverie.training.files import write_json
from reverie.training.launch import mistakes
from reverie.training.launch.options import CONF, is_chosen
from reverie.training.launch.restore import SavedRun, build_planner, load_run
from reverie.training.results.shape import complaint_of_measurements
from reverie.training.results.summary import versions
from reverie.training.run_directory import unless_read_only
from reverie.training.stored import read_optional
from reverie.world_models.base import WorldModel

SETTINGS = {"episodes": EpisodeCount, "seed": Seed, "video": bool, "video_steps": Count}
"""What the numbers of conf/evaluate.yaml may be that no class takes."""


def score(settings: DictConfig) -> float | None:
    """Evaluate the last checkpoint of a run; returns its mean score, or mean return."""
    require_declared(OmegaConf.to_container(settings, resolve=True), SETTINGS)
    if settings.video:
        require_encoder()  # before anybody acts
    console = Console(markup=False, emoji=False)
    run_dir = expanded(settings.run)
    run = load_run(run_dir, settings.device, settings.seed, settings.allow)
    run.require_environment()
    agent, facts = run.agent, run.facts
    begin: Callable[[], Policy] = run.begin
    name, planned = "evaluation", is_chosen(settings.planner)
    if planned:
        name, begin = "planning", build_planner(run, settings.planner).restart
    returns, lengths = episode_returns(
        facts.spec, begin(), agent.seeds, settings.episodes, settings.seed
    )
    milliseconds = None
    if planned or agent.plans:
        milliseconds = time_decisions(begin(), facts.spec, agent.seeds)
    reference = facts.reference
    result = {
        "run": str(run_dir),
        "update": run.update,
        "environment": facts.spec.env_id,
        "physics": facts.spec.physics,
        "episodes_per_seed": settings.episodes,
        "evaluation_seed": settings.seed,
        "planner": OmegaConf.to_container(settings.planner) if planned else None,
        "milliseconds_per_decision": milliseconds,
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
        "reference": None if reference is None else vars(reference),
        "scores": None if reference is None else reference.normalise(returns).tolist(),
        "versions": versions(),
    }
    console.print(table(result, returns, lengths, reference))
    if milliseconds is not None:
        told = f"{milliseconds:.3g} ms per decision on {run.device}, of {agent.seeds} x 1 episodes"
        told += told_error(
            run, run.config.planner if agent.plans and not planned else settings.planner
        )
        console.print(told, highlight=False, soft_wrap=True)
    with unless_read_only(lambda line: console.print(line, highlight=False, soft_wrap=True)):
        write_json(run_dir / f"{name}.json", result)
        console.print(f"written: {run_dir / name}.json", highlight=False, soft_wrap=True)
    if settings.video:
        for seed in range(agent.seeds):
            path = run_dir / f"{'planned' if planned else 'video'}-seed{seed}.mp4"
            record(facts.spec, policy_of_seed(begin(), seed, agent.seeds), path, settings.seed)
            console.print(f"written: {path}", highlight=False, soft_wrap=True)
        if not planned:
            record_imagined_videos(run, settings, console)
    mean = returns.mean()
    return float(mean if reference is None else reference.normalise(mean))


def told_error(run: SavedRun, planner: DictConfig) -> str:
    """How far the run's world model is off some steps ahead, none further than plans look."""
    known = read_optional(run.directory / "world_model.json", complaint_of_measurements)
    if "horizon" not in planner or "open_loop" not in known:
        return ""
    measured = known["open_loop"]
    near = [at for at, steps in enumerate(measured["horizons"]) if steps <= planner.horizon]
    errors = [own[near[-1]] for own in measured["mean"]["median"]]
    shown = ", ".join("none" if each is None else f"{each:.2g}" for each in errors)
    steps = measured["horizons"][near[-1]]
    return f"; error of the world model after {steps} steps: {shown} standard deviations"


def record_imagined_videos(run: SavedRun, settings: DictConfig, console: Console) -> None:
    """Record what the run's world model imagines beside the truth, where it has a model."""
    model, seeds = run.load_part("world_model"), run.agent.seeds
    if not isinstance(model, WorldModel):
        return
    for seed in range(seeds):
        path = run.directory / f"imagined-seed{seed}.mp4"

        def imagine(obs: np.ndarray, seed: int = seed) -> tuple[np.ndarray, np.ndarray]:
            start = torch.from_numpy(obs).expand(seeds, 1, -1)
            return imagine_episodes(model, run.begin(), start, settings.video_steps)[seed]

        own = policy_of_seed(run.begin(), seed, seeds)
        try:
            record_beside(run.spec, own, imagine, path, settings.seed, settings.video_steps)
        except Mistake as error:  # there is nothing to draw, for any seed
            console.print(f"no imagined video: {error}", highlight=False, soft_wrap=True)
            return
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


@torch.no_grad()
def imagine_episodes(
    model: WorldModel, policy: Policy, start: torch.Tensor, steps: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Observations `[T, D]` and rewards `[T]` of every seed that follow `start [S, 1, D]`.

    A seed's path ends where the model says that its episode does, or is not finite.
    """
    device = next(iter(model.state_dict().values())).device
    obs = start.to(device)
    state, path, paid, terminated = model.begin(obs), [], [], []
    for _ in range(steps):
        step = model.advance(obs, policy(obs.cpu()).to(device), 1, state)
        obs = step.next_obs[0]
        state = None if step.state is None else step.state[0]
        path.append(obs[:, 0].cpu())
        paid.append(step.reward[0, :, 0].cpu())
        terminated.append(step.terminated[0, :, 0].cpu())
    whole, ends = torch.stack(path, 1), torch.stack(terminated, 1)  # [S, T, D], [S, T]
    seeds = []
    for own, reward, end in zip(whole, torch.stack(paid, 1), ends, strict=True):
        finite = own.isfinite().all(1)
        broken = (~finite).nonzero()[:, 0].tolist()[:1]
        ended = [step + 1 for step in end.nonzero()[:, 0].tolist()[:1]]
        length = min([*broken, *ended, steps])
        seeds.append((own[:length].numpy(), reward[:length].numpy()))
    return seeds


def policy_of_seed(policy, seed: int, seeds: int):
    """The policy of one seed as a function of `[1, 1, D]`."""
    return lambda obs: policy(obs.expand(seeds, -1, -1))[seed : seed + 1]


def table(result, returns: torch.Tensor, lengths: torch.Tensor, reference: Reference | None):
    """One row a seed, and their mean."""
    title = printable(f"{result['run']} in {result['environment']}")
    shown = Table(title=title, title_justify="left")
    for column in ("seed", "return", "std of episodes", "episode length", "score"):
        shown.add_column(column, justify="right")
    for seed, (row, length) in enumerate(zip(returns, lengths.double(), strict=True)):
        shown.add_row(*_cells(str(seed), row, length, reference))
    if len(returns) > 1:
        shown.add_section()
        shown.add_row(*_cells("all", returns.flatten(), lengths.double().flatten(), reference))
    return shown


def _cells(label: str, returns, lengths, reference: Reference | None) -> list[str]:
    score = "-" if reference is None else f"{reference.normalise(float(returns.mean())):z.1f}"
    spread = f"{returns.std(correction=0):.1f}"
    return [label, f"{float(returns.mean()):z.1f}", spread, f"{lengths.mean():.0f}", score]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def main(settings: DictConfig) -> float | None:
    with mistakes.one_line_errors():
        return score(settings)


if __name__ == "__main__":
    mistakes.run(main)
