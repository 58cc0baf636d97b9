"""What samplers cost at equal error: `python -m benchmarks.speed sampler`.

Two laws of windows. One is a mixture whose denoiser and whose projections are known exactly: there
every sampler climbs a ladder of steps, and the fewest network calls are sought at which it is no
worse than the reference, Heun's rule with 511 calls. The other is that of a small generator that is
fitted to the pendulum's recordings: there each sampler is run at the calls that were found, and
timed. Writes JSON and a picture, and ends with status 1 where the default sampler misses what is
required of it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from reverie import datasets
from reverie.benchmarks.claims.report import RESULTS, finish, save_figure
from reverie.benchmarks.speed.distance import (
    SlicedDistance,
    principal_axes,
    quantiles_of,
    scaled_directions,
)
from reverie.benchmarks.speed.hardware import cpu_name, slug
from reverie.benchmarks.speed.sampler_report import (
    DEFAULT,
    REFERENCE,
    REFERENCE_STEPS,
    Point,
    calls_at,
    fewest_steps,
    figure,
    shipped_steps,
    table,
    verdicts,
)
from reverie.benchmarks.speed.timing import finish as wait
from reverie.benchmarks.speed.window_law import WindowMixture
from reverie.training.launch.options import build_option, load_option
from reverie.training.loop import Wrapper
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.samplers import Denoiser, Sampler

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "heun": ("heun", {}),
    "heun_churned": ("heun_churned", {}),
    "euler": ("euler", {}),
    "ddim eta=1": ("ddim", {"eta": 1.0}),
    "dpm_solver_2m": ("dpm_solver_2m", {}),
    "dpm_solver_2m noisy": ("dpm_solver_2m", {"noisy": True}),
    "dpm_solver_v3": ("dpm_solver_v3", {}),
    "flow": ("flow", {}),
    "flow_sde": ("flow_sde", {}),
}
"""Options of the group `sampler`, and what is changed of them. DDIM without noise is Euler."""
LADDER = (5, 8, 12, 16, 24, 32, 48, 96)
DIRECTIONS = 64  # random ones, beside one for every cosine or principal axis


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        windows: n of a batch of the closed form; the error is that of so many trajectories.
        batches: R of them, each from noise of its own that all samplers share.
        fitted_windows: n of a batch of the fitted generator.
        judged: batches of it, for the reference and the default; the law it is from two more.
        ladder: steps that are tried; Heun is also given those of the reference.
        updates: of the generator's fit.
    """

    windows: int
    batches: int
    fitted_windows: int
    judged: int
    ladder: tuple[int, ...]
    updates: int


FULL = Effort(windows=1000, batches=4, fitted_windows=250, judged=3, ladder=LADDER, updates=800)
QUICK = Effort(windows=250, batches=4, fitted_windows=50, judged=3, ladder=LADDER[::2], updates=200)


def main(quick: bool, output: Path | None, device: torch.device, wrap: Wrapper) -> int:
    """Measure, print, write; returns the exit status.

    Args:
        device, wrap: of the fitted generator; the law in closed form stays on the processor.
    """
    begun = time.monotonic()
    effort, console = (QUICK if quick else FULL), Console()
    law = WindowMixture(components=4, length=16, features=4, distance=2.0, seed=0)
    floor, exact = climb(law, effort, console)
    reference = exact[REFERENCE][-1].errors
    fewest = {name: fewest_steps(points, reference, floor) for name, points in exact.items()}
    fitted = judge_fitted(exact, fewest, effort, console, device, wrap)
    console.print(table(exact, fewest, floor, fitted))
    name = f"samplers-{slug(cpu_name())}"
    folder, quickly = output or RESULTS, "-quick" if quick else ""
    save_figure(figure(exact, floor, fitted, effort.windows), folder / f"{name}{quickly}.png")
    return finish(
        name,
        "Samplers at equal error",
        verdicts(exact, fewest, floor, fitted),
        {
            "windows": effort.windows,
            "exact_samples": floor,
            "closed_form": {name: list(map(asdict, points)) for name, points in exact.items()},
            "fewest_steps": fewest,
            "fitted": fitted,
        },
        quick=quick,
        output=folder,
        seconds=time.monotonic() - begun,
    )


def climb(
    law: WindowMixture, effort: Effort, console: Console
) -> tuple[list[float], dict[str, list[Point]]]:
    """Errors of every sampler at every number of steps, on the law that is known exactly.

    Returns:
        The errors of samples of the law itself, which are the noise of the measurement, and those
        of each sampler.
    """
    directions = scaled_directions(law.axes, law.spread(), DIRECTIONS, seed=0)
    distance = SlicedDistance(directions, law.quantiles(directions, effort.windows))
    own = torch.Generator().manual_seed(1)
    noise = torch.randn(effort.batches, effort.windows, *law.event, generator=own)
    recorded = law.sample(1024, own)
    drawn = law.sample(effort.batches * effort.windows, own).unflatten(0, (effort.batches, -1))
    found: dict[str, list[Point]] = {}
    for name in VARIANTS:
        found[name] = []
        more = (REFERENCE_STEPS,) if name.startswith(REFERENCE) else ()
        for steps in (*effort.ladder, *more):
            sampler = build(name, steps)
            if sampler is None:
                continue
            torch.manual_seed(0)
            sampler.prepare(law.denoise, recorded, event_dims=2)
            samples, calls = draw(sampler, law.denoise, noise)
            found[name].append(Point(steps, calls, [distance(batch) for batch in samples]))
        console.print(f"measured: {name}", highlight=False)
    return [distance(batch) for batch in drawn], found


def build(name: str, steps: int) -> Sampler | None:
    """The option of the shipped configuration with other steps; None where it cannot take them."""
    option, changes = VARIANTS[name]
    try:
        return build_option("sampler", option, changes={"steps": steps, **changes})
    except Exception as error:
        if "too coarse" in str(error):
            return None
        raise


def draw(sampler: Sampler, denoiser: Denoiser, noise: Tensor) -> tuple[Tensor, int]:
    """Samples from noise, with the same noise on the way every time, and calls for each."""
    calls = 0

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return denoiser(x, sigma)

    torch.manual_seed(1)
    return sampler.sample(counted, noise), calls


def fitted_generator(updates: int, device: torch.device, wrap: Wrapper) -> DiffusionGenerator:
    """A small generator of the pendulum's windows."""
    data = datasets.load("builtin/pendulum-mixed")
    model: DiffusionGenerator = build_option(
        *("generator", "trajectory_small"),
        changes={
            "noise_law": load_option("noise_law", "log_normal"),
            "network": {"width": 16, "blocks": 2},
            "steps": updates,
            "learning_rate": 3e-3,
        },
        spec=data.spec,
        seeds=1,
        seed=0,
    )
    model.to(device).compile_update(wrap)
    model.fit(data)
    return model


def judge_fitted(
    exact: Mapping[str, Sequence[Point]],
    fewest: Mapping[str, int | None],
    effort: Effort,
    console: Console,
    device: torch.device,
    wrap: Wrapper,
) -> dict[str, dict[str, Any]]:
    """Errors and seconds of each sampler on a fitted generator, at the calls found before.

    The law is what the reference draws from noise of its own, looked at along the principal axes
    of recorded windows. `shipped` is the default with the
    steps of its YAML. The other samplers, which nothing is required of, get one batch, unless they
    took more calls than half of the reference's.
    """
    model = fitted_generator(effort.updates, device, wrap)
    console.print("fitted: a generator of the pendulum's windows", highlight=False)
    own = torch.Generator().manual_seed(2)
    shape = (effort.judged + 2, effort.fitted_windows, *model.records.event)
    noise, noise_of_law = torch.randn(shape, generator=own).to(device).split([effort.judged, 2])
    varying = model.records.varies.bool().cpu()

    def drawn(name: str, steps: int, noise: Tensor) -> tuple[Tensor, int, float]:
        """Windows by batch, calls of each, and seconds per 1,000."""
        sampler = build(name, steps)
        assert sampler is not None
        torch.manual_seed(0)
        sampler.prepare(partial(model.denoise, plain=True), model.examples, event_dims=2)
        parts, seconds, calls = [], [], 0
        for batch in noise:
            begun = time.perf_counter()
            samples, calls = draw(sampler, model.denoise, batch)
            wait(device)
            seconds.append(time.perf_counter() - begun)
            parts.append(samples.cpu()[..., varying])
        return torch.stack(parts), calls, median(seconds) * 1000 / effort.fitted_windows

    law = drawn(REFERENCE, REFERENCE_STEPS, noise_of_law)[0].flatten(0, 1)
    axes = principal_axes(model.examples.cpu()[..., varying])
    spread = (law.flatten(1).double() @ axes.T).std(0)
    directions = scaled_directions(axes, spread, DIRECTIONS, seed=0)
    distance = SlicedDistance(directions, quantiles_of(law, directions, effort.fitted_windows))
    runs = {"reference": (REFERENCE, REFERENCE_STEPS), "shipped": (DEFAULT, shipped_steps())}
    for name, steps in fewest.items():
        calls = calls_at(exact[name], steps)
        if calls is not None and steps is not None and 2 * calls <= exact[REFERENCE][-1].calls:
            runs[name] = (name, steps)
    found: dict[str, dict[str, Any]] = {}
    for label, (name, steps) in runs.items():
        samples, calls, seconds = drawn(name, steps, noise if len(found) < 2 else noise[:1])
        errors = [distance(batch) for batch in samples]
        found[label] = {
            "steps": steps,
            "calls": calls,
            "errors": errors,
            "seconds_per_1000": seconds,
        }
        console.print(f"timed: {label}", highlight=False)
    return found
