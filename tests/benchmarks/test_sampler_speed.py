"""The comparison of samplers: its closed forms, its distance, and what it holds against whom."""

import pytest
import torch

from reverie.benchmarks.claims.judging import estimate
from reverie.benchmarks.speed.distance import (
    SlicedDistance,
    principal_axes,
    quantiles_of,
    scaled_directions,
)
from reverie.benchmarks.speed.sampler_report import (
    Point,
    fewest_steps,
    figure,
    not_worse,
    table,
    verdicts,
)
from reverie.benchmarks.speed.samplers import VARIANTS, build, draw
from reverie.benchmarks.speed.window_law import WindowMixture

LAW = WindowMixture(components=3, length=4, features=2, distance=2.0, seed=0)


def drawn(count, seed):
    return LAW.sample(count, torch.Generator().manual_seed(seed))


def test_the_denoiser_is_the_mean_of_what_was_noised():
    """Weighing exact windows by their likelihood gives the same mean, up to their number."""
    clean = drawn(200_000, 0).double()
    x, sigma = clean[:1] + 0.5, 0.8
    weight = torch.softmax(-(x - clean).square().sum((1, 2)) / (2 * sigma**2), 0)
    expected = (weight.view(-1, 1, 1) * clean).sum(0)
    found = LAW.denoise(x, torch.tensor(sigma).double())[0]
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_quantiles_are_those_of_projected_windows():
    directions = scaled_directions(LAW.axes, LAW.spread(), mixed=5, seed=0)
    exact = LAW.quantiles(directions, 200)
    assert exact.shape == (200, 13)
    assert (quantiles_of(drawn(20_000, 1), directions, 200) - exact).abs().mean() < 0.03
    along = drawn(20_000, 2).flatten(1).double() @ directions.T
    torch.testing.assert_close(along.std(0)[:8], torch.ones(8).double(), atol=0.03, rtol=0)


def test_the_distance_sees_a_law_that_is_too_wide_or_moved():
    directions = scaled_directions(LAW.axes, LAW.spread(), mixed=5, seed=0)
    distance = SlicedDistance(directions, LAW.quantiles(directions, 2000))
    windows = drawn(2000, 3)
    exact = distance(windows)
    assert exact < 0.04
    assert distance(windows * 1.1) > 1.5 * exact and distance(windows + 0.2) > 2 * exact
    samples = torch.randn(5000, 3).double() * torch.tensor([1.0, 3.0, 0.001])
    axes = principal_axes(samples)
    along = samples @ axes.T
    torch.testing.assert_close(along.T.corrcoef(), torch.eye(3).double(), atol=1e-6, rtol=0)
    assert len(scaled_directions(axes, along.std(0), mixed=0, seed=0)) == 2


@pytest.mark.parametrize(("name", "calls"), [("heun", 19), ("dpm_solver_2m", 10), ("flow_sde", 19)])
def test_calls_are_counted_and_the_noise_on_the_way_is_the_same(name, calls):
    sampler, noise = build(name, 10), torch.randn(2, 5, 4, 2)
    first, counted = draw(sampler, LAW.denoise, noise)
    assert counted == calls and torch.equal(first, draw(sampler, LAW.denoise, noise)[0])


def test_worse_is_what_lies_above_the_reference_by_more_than_noise():
    floor = [0.10, 0.11, 0.09, 0.10]  # of std 0.008
    reference = [0.10, 0.12, 0.08, 0.11]
    assert not_worse([e + 0.005 for e in reference], reference, floor)
    assert not not_worse([e + 0.01 for e in reference], reference, floor)
    assert not not_worse([e + s * 0.05 for e, s in zip(reference, (1, -1, 1, -1), strict=True)],
                         reference, floor)  # fmt: skip
    worse, same = [e + 0.1 for e in reference], reference
    points = [Point(steps, steps, errors) for steps, errors in ((4, same), (8, worse), (16, same))]
    assert fewest_steps(points, reference, floor) == 16
    assert fewest_steps(points[:2], reference, floor) is None


@pytest.mark.parametrize(("ours", "seconds", "holds"), [(0.1, 1.0, True), (0.2, 2.0, False)])
def test_the_verdict_wants_the_default_as_good_and_ten_times_cheaper(ours, seconds, holds):
    reference, floor = [0.10, 0.101, 0.099], [0.1, 0.102, 0.098]
    errors = [e - 0.1 + ours for e in reference]
    exact = {name: [Point(256, 256, reference)] for name in VARIANTS}
    exact["heun"] = [Point(256, 511, reference)]
    exact["dpm_solver_2m"] = [Point(32, 32, errors), Point(256, 256, reference)]
    fewest = {n: fewest_steps(points, reference, floor) for n, points in exact.items()}
    fitted = {
        "reference": {"steps": 256, "calls": 511, "errors": reference, "seconds_per_1000": 15.0},
        "shipped": {"steps": 32, "calls": 32, "errors": errors, "seconds_per_1000": seconds},
        "dpm_solver_2m": {"steps": 32, "calls": 32, "errors": errors, "seconds_per_1000": seconds},
    }
    claims = verdicts(exact, fewest, floor, fitted)
    assert [claim.holds for claim in claims if claim.holds is not None] == [holds] * 4
    assert len(claims) == 4 + len(VARIANTS)
    assert table(exact, fewest, floor, fitted).row_count == len(VARIANTS)
    axes = figure(exact, floor, fitted, 1000).axes
    assert len(axes[0].lines) == len(VARIANTS) + 1 and len(axes[1].lines) == 3
    assert estimate(reference).mean == pytest.approx(0.1)
