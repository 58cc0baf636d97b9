"""What was found about samplers: judged, as a table and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from rich.table import Table

from reverie.benchmarks.claims.judging import estimate, estimate_difference
from reverie.benchmarks.claims.report import Claim
from reverie.training.launch.options import load_option

DEFAULT, REFERENCE, REFERENCE_STEPS = "dpm_solver_2m", "heun", 256
CHEAPER = 10.0
"""How many times cheaper than the reference the default has to be."""
Fitted = Mapping[str, Mapping[str, Any]]
"""By sampler, `reference` and `shipped`: steps, calls, errors, seconds_per_1000."""


@dataclass(frozen=True)
class Point:
    """One sampler with one number of steps; `errors` one a batch."""

    steps: int
    calls: int
    errors: list[float]


def not_worse(errors: Sequence[float], reference: Sequence[float], floor: Sequence[float]) -> bool:
    """Whether errors are those of the reference, up to the noise of the measurement.

    The 95 % interval of the mean difference, batch by batch from the same noise, must end below
    the standard deviation that the error of exact samples has from batch to batch.
    """
    return estimate_difference(errors, reference).high <= noise_of(floor)


def noise_of(floor: Sequence[float]) -> float:
    """Standard deviation of the error from batch to batch."""
    return float(torch.tensor(floor, dtype=torch.float64).std())


def fewest_steps(
    points: Sequence[Point], reference: Sequence[float], floor: Sequence[float]
) -> int | None:
    """The fewest steps from which on the sampler is never worse; None where it always is."""
    found = None
    for point in reversed(points):
        if not not_worse(point.errors, reference, floor):
            break
        found = point.steps
    return found


def shipped_steps() -> int:
    """Steps of the default sampler as it is shipped."""
    return int(load_option("sampler", DEFAULT)["steps"])


def verdicts(
    exact: Mapping[str, Sequence[Point]],
    fewest: Mapping[str, int | None],
    floor: Sequence[float],
    fitted: Fitted,
) -> list[Claim]:
    """What is required of the default, and a line for every sampler."""
    reference, ours = fitted["reference"], fitted["shipped"]
    noise, base = noise_of(floor), exact[REFERENCE][-1]
    claims = []
    default = next((p for p in exact[DEFAULT] if p.steps == shipped_steps()), None)
    if default is not None:
        claims.append(
            Claim(
                f"closed form: {DEFAULT} as shipped, {default.calls} calls, is as near to the law "
                f"as {REFERENCE} with {base.calls}",
                f"error up to {estimate(base.errors)} + {noise:.2g}",
                f"{estimate(default.errors)}",
                not_worse(default.errors, base.errors, floor),
                "ours",
            )
        )
    least = calls_at(exact[DEFAULT], fewest[DEFAULT])
    claims += [
        Claim(
            "closed form: fewest calls at no worse error",
            f"{CHEAPER:g} times fewer than {base.calls}",
            "worse at every number"
            if least is None
            else f"{least}: {base.calls / least:.1f} times",
            least is not None and base.calls / least >= CHEAPER,
            "ours",
        ),
        Claim(
            f"fitted generator: {DEFAULT} as shipped is as near to the law as {REFERENCE}",
            f"error up to {estimate(reference['errors'])} + {noise_of(reference['errors']):.2g}",
            f"{estimate(ours['errors'])}",
            not_worse(ours["errors"], reference["errors"], reference["errors"]),
            "ours",
        ),
        Claim(
            "fitted generator: seconds per 1,000 windows",
            f"{CHEAPER:g} times less than {reference['seconds_per_1000']:.3g}",
            f"{ours['seconds_per_1000']:.3g}: "
            f"{reference['seconds_per_1000'] / ours['seconds_per_1000']:.1f} times",
            reference["seconds_per_1000"] / ours["seconds_per_1000"] >= CHEAPER,
            "ours",
        ),
    ]
    return claims + [
        ladder_claim(name, points, fewest[name], fitted) for name, points in exact.items()
    ]


def ladder_claim(name: str, points: Sequence[Point], steps: int | None, fitted: Fitted) -> Claim:
    """What was found about one sampler, of which nothing is required."""
    calls = calls_at(points, steps)
    measured = f"worse, or not told from it, with up to {points[-1].calls} calls"
    if calls is not None:
        measured = f"{calls} calls"
    if name in fitted:
        run, beside = fitted[name], fitted["reference"]["errors"][0]
        measured += f"; {run['errors'][0]:.3g} (reference {beside:.3g}), "
        measured += f"{run['seconds_per_1000']:.3g} s"
    return Claim(
        f"{name}: fewest calls at no worse error on the closed form; with these, one batch's error "
        "and seconds per 1,000 windows on the fitted generator",
        "-",
        measured,
        None,
        "ours",
    )


def calls_at(points: Sequence[Point], steps: int | None) -> int | None:
    """Calls of the point with so many steps; None without."""
    return next((point.calls for point in points if point.steps == steps), None)


def table(
    exact: Mapping[str, Sequence[Point]],
    fewest: Mapping[str, int | None],
    floor: Sequence[float],
    fitted: Fitted,
) -> Table:
    """Errors by network calls on the law that is known, and what was found on the fitted one."""
    shown = Table(
        title=f"sliced W1 error; exact samples have {estimate(floor)}", title_justify="left"
    )
    for column in (
        "sampler",
        "error @ calls",
        "fewest calls",
        "fitted: error @ calls",
        "s / 1,000",
    ):
        shown.add_column(column)
    for name, points in exact.items():
        run = fitted.get(name)
        shown.add_row(
            name,
            "  ".join(f"{estimate(p.errors).mean:.3g}@{p.calls}" for p in points),
            str(calls_at(points, fewest[name]) or "-"),
            "-" if run is None else f"{run['errors'][0]:.3g}@{run['calls']}",
            "-" if run is None else f"{run['seconds_per_1000']:.3g}",
        )
    return shown


def figure(
    exact: Mapping[str, Sequence[Point]],
    floor: Sequence[float],
    fitted: Fitted,
    windows: int,
) -> Figure:
    """Error against network calls, and against seconds on the fitted generator."""
    drawn = Figure(figsize=(12, 5), layout="constrained")
    left, right = drawn.subplots(1, 2)
    for place, (name, points) in enumerate(exact.items()):
        style = dict(color=f"C{place % 10}", marker="osD^v<>pX*"[place % 10], markersize=4)
        mean = [estimate(point.errors).mean for point in points]
        left.plot([point.calls for point in points], mean, label=name, linewidth=1, **style)
    labels: dict[tuple[int, str], tuple[str, tuple[float, float]]] = {}
    for place, (name, run) in enumerate(fitted.items()):
        at = (run["seconds_per_1000"], run["errors"][0])
        right.plot(*at, linestyle="none", color=f"C{place % 10}", marker="o")
        # Runs with as many calls and the same error lie upon each other and share a label.
        point = (run["calls"], f"{run['errors'][0]:.4g}")
        names, first = labels.get(point, ("", at))
        labels[point] = (f"{names}{name}, ", first)
    for (calls, _), (names, at) in labels.items():
        right.annotate(f"  {names}{calls}", at, fontsize=8, rotation=35, rotation_mode="anchor")
    left.axhline(estimate(floor).mean, color="black", linestyle="--", linewidth=1)
    left.annotate("exact samples", (5, estimate(floor).mean), fontsize=8, va="top")
    left.set(xscale="log", yscale="log", xlabel="network calls", ylabel="sliced W1 error")
    left.set_title(f"closed form, {windows} windows a batch")
    left.legend(fontsize=8)
    right.set(xscale="log", xlabel="seconds per 1,000 windows", ylabel="sliced W1 error, one batch")
    right.margins(x=0.2, y=0.45)
    right.xaxis.set_major_formatter(ScalarFormatter())
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_title("fitted generator, network calls beside the names")
    return drawn
