"""What models take of a run's time beside ensembles: filter, equations, generators, planner.

There are no references for them: what is compiled on a GPU is measured against itself as it is.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from reverie import datasets
from reverie.benchmarks.speed.agents import random_dataset
from reverie.benchmarks.speed.quantities import (
    ACTION_DIM,
    OBS_DIM,
    SPEC,
    Quantity,
    Sizes,
    allowance_on,
    make_model,
)
from reverie.benchmarks.speed.timing import Contender
from reverie.training.compilation import wrapper
from reverie.training.launch.options import build_option, load_option
from reverie.world_models.diffusion.generator import DiffusionGenerator

FIT_UPDATES = 10
RECORDS = 64
FITTED_ROWS = 5_000


def _quantity(
    key: str,
    unit: str,
    units: float,
    calls: dict[str, Callable[[], Any]],
    device: torch.device,
    slow: bool,
) -> Quantity:
    with FlopCounterMode(display=False) as counter:
        calls["eager"]()
    return Quantity(
        key=key,
        unit=unit,
        contenders={name: Contender(call, units) for name, call in calls.items()},
        operations=round(counter.get_total_flops() / units),
        required=None,
        allowance=allowance_on(device),
        slow=slow,
    )


def filtered_rows(sizes: Sizes, device: torch.device, compiling: bool) -> Quantity:
    """MOREC's choice among the candidates of every row, which is never compiled."""
    reward = build_option("dynamics_reward", "adversarial", spec=SPEC, seeds=1, seed=0).to(device)
    reward.expert.fill_(1.0)  # every snapshot counts; the random networks are as good as any
    reward.ready = True
    selection = build_option("filter", "morec", dynamics_reward=reward)
    rows = sizes.starts // 10
    obs = torch.randn(1, rows, OBS_DIM, device=device)
    action = torch.rand(1, rows, ACTION_DIM, device=device) * 2 - 1
    step = make_model(device).step(obs, action, candidates=selection.candidates)
    calls = {"eager": lambda: selection(obs, action, step)}
    return _quantity("MOREC's filter", "rows/s", rows, calls, device, slow=True)


def fitted_equations(sizes: Sizes, device: torch.device, compiling: bool) -> Quantity:
    """A whole fit of SINDy to the pendulum's recordings, pysindy's work on the host."""
    data = datasets.load("builtin/pendulum-mixed")

    def fit() -> None:
        model = build_option(
            *("world_model", "sindy"),
            changes={"termination": "none", "members": 5, "fit_rows": 2000},
            spec=data.spec,
            seeds=1,
            seed=0,
        )
        model.fit(data)

    return _quantity("SINDy fits, 5 members", "fits/s", 1, {"eager": fit}, device, slow=True)


def make_generator(device: torch.device) -> DiffusionGenerator:
    """The small generator of segments, for a fit of few updates."""
    generator: DiffusionGenerator = build_option(
        *("generator", "trajectory_small"),
        changes={
            "noise_distribution": load_option("noise_distribution", "log_normal"),
            **{"steps": FIT_UPDATES, "measure_every": FIT_UPDATES, "checkpoint_every": 0},
            "heldout_records": RECORDS,
        },
        spec=SPEC,
        seeds=1,
        seed=0,
    )
    return generator.to(device)


def fitted_generator(device: torch.device) -> DiffusionGenerator:
    """The same, fitted a little to random rows."""
    generator = make_generator(device)
    generator.fit(random_dataset(FITTED_ROWS, device))
    return generator


def diffusion_updates(sizes: Sizes, device: torch.device, compiling: bool) -> Quantity:
    """Updates of a generator's fit, its preparation and its measurement included.

    A fit compiles its update anew, so only the update as it is can be measured this way.
    """
    data = random_dataset(FITTED_ROWS, device)
    calls = {"eager": lambda: make_generator(device).fit(data)}
    return _quantity("diffusion fit", "updates/s", FIT_UPDATES, calls, device, slow=True)


def diffusion_records(sizes: Sizes, device: torch.device, compiling: bool) -> Quantity:
    """A rollout round of a generator, not guided."""

    def refresh(wrap: Callable[..., Any] | None) -> Callable[[], Any]:
        generator = fitted_generator(device)
        if wrap is not None:
            generator.compile_update(wrap)
        source = build_option(
            *("source", "trajectories"),
            changes={"records": RECORDS, "chunk": RECORDS},
            generator=generator,
            seeds=1,
            sampler=build_option("sampler", "dpm_solver_2m"),
            guidance=None,
            behaviour=None,
        ).to(device)
        nothing = torch.zeros(1, 0, OBS_DIM, device=device)
        return lambda: source.generate(lambda obs: obs[..., :ACTION_DIM], nothing)

    calls = {"eager": refresh(None)}
    if compiling and device.type != "cpu":  # where no denoiser is compiled
        calls["compiled"] = refresh(wrapper(True, device))
    return _quantity("diffusion refresh", "segments/s", RECORDS, calls, device, slow=True)


def planned_actions(sizes: Sizes, device: torch.device, compiling: bool) -> Quantity:
    """Actions of a diffusion planner in one episode, each of a plan of its own."""

    def plan(wrap: Callable[..., Any] | None) -> Callable[[], Any]:
        generator = fitted_generator(device)
        if wrap is not None:
            generator.compile_update(wrap)
        planner = build_option(
            *("planner", "diffusion"),
            changes={"guidance": None},
            generator=generator,
            sampler=build_option("sampler", "dpm_solver_2m"),
            moments=None,
            critics=None,
        )
        obs = torch.randn(1, 1, OBS_DIM)
        planner(obs)  # the first plan has none to begin with
        return lambda: planner(obs)

    calls = {"eager": plan(None)}
    if compiling and device.type != "cpu":
        calls["compiled"] = plan(wrapper(True, device))
    return _quantity("planner", "actions/s", 1, calls, device, slow=False)


def builders(
    sizes: Sizes, device: torch.device, compiling: bool
) -> Mapping[str, Callable[[], Quantity]]:
    """Every quantity of models by a short name."""
    found = {
        "morec": filtered_rows,
        "sindy": fitted_equations,
        "diffusion-fit": diffusion_updates,
        "diffusion-refresh": diffusion_records,
        "planner": planned_actions,
    }
    return {name: partial(build, sizes, device, compiling) for name, build in found.items()}
