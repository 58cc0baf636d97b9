"""Rules for ordinary differential equations against closed forms and published orders."""

import math

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models import ode


def spiral(y: torch.Tensor) -> torch.Tensor:
    """dy/dt = (-y1 + 2 y2, -2 y1 - y2), whose solution turns by 2 t and shrinks by e^-t."""
    return torch.stack([-y[..., 0] + 2 * y[..., 1], -2 * y[..., 0] - y[..., 1]], -1)


def exact(y: torch.Tensor, t: float) -> torch.Tensor:
    turn = torch.tensor(
        [[math.cos(2 * t), math.sin(2 * t)], [-math.sin(2 * t), math.cos(2 * t)]], dtype=y.dtype
    )
    return math.exp(-t) * y @ turn.T


START = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)


def order(errors: list[float]) -> float:
    return math.log2(errors[0] / errors[1])


def test_runge_kutta_has_order_four_in_one_step():
    errors = []
    for h in (0.1, 0.05):
        after = START + ode.runge_kutta_step(spiral, START, h, spiral(START))
        errors.append((after - exact(START, h)).abs().max().item())
    assert order(errors) == pytest.approx(5, abs=0.2)  # local error: one more than the order


def test_dormand_prince_has_order_five_and_its_error_estimate_is_of_order_four():
    errors, estimates = [], []
    for h in (0.2, 0.1):
        after, error = ode.dormand_prince_step(spiral, START, h, spiral(START))
        errors.append((after - exact(START, h)).abs().max().item())
        estimates.append(error.abs().max().item())
    assert order(errors) == pytest.approx(6, abs=0.3)
    assert order(estimates) == pytest.approx(5, abs=0.3)


def test_each_row_steps_its_own_time():
    h = torch.tensor([[0.1], [0.4]], dtype=torch.float64)
    both = ode.runge_kutta_step(spiral, START, h, spiral(START))
    alone = ode.runge_kutta_step(spiral, START[1:], 0.4, spiral(START[1:]))
    assert torch.equal(both[1:], alone)


def test_first_steps_keep_the_error_near_the_tolerance():
    for tolerance in (1e-4, 1e-8):
        h = ode.first_step(spiral, START, spiral(START), tolerance)
        _, error = ode.dormand_prince_step(spiral, START, h, spiral(START))
        scaled = (error / (tolerance + tolerance * START.abs())).abs()
        assert h > 0
        assert (scaled < 1).all()
    # A field that stands still lets the solver go as far as it likes, within 100 tiny guesses.
    still = ode.first_step(torch.zeros_like, START, torch.zeros_like(START), 1e-6)
    assert torch.isfinite(still).all()


def test_the_local_error_of_a_field_without_bends_is_nearly_none():
    bent = ode.local_error(lambda y: torch.sin(30 * y), START, 1e-6, 1.0, first_stage=True)
    straight = ode.local_error(torch.ones_like, START, 1e-6, 1.0, first_stage=True)
    assert straight < 1e-3 * bent


def test_the_gradient_of_the_local_error_is_that_of_its_value():
    def error(rate: torch.Tensor) -> torch.Tensor:
        # A bound on the step, which has no gradient, keeps it the same for both rates.
        field = lambda y: torch.sin(rate * y)  # noqa: E731
        return ode.local_error(field, START, 1e-6, 1e-2, first_stage=True)

    rate = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(error(rate), rate)
    with torch.no_grad():
        difference = (error(rate + 1e-4) - error(rate - 1e-4)) / 2e-4
    assert slope == pytest.approx(difference.item(), rel=1e-3)
    assert slope > 0


def test_the_published_gradient_is_that_of_the_later_stages_alone():
    first, later, rate = (
        torch.tensor(8.0, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    calls = 0

    def apart(y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.sin((first if calls == 1 else later) * y)

    whole = ode.local_error(apart, START, 1e-6, 1e-2, first_stage=True)
    of_first, of_later = torch.autograd.grad(whole, (first, later))
    published = ode.local_error(lambda y: torch.sin(rate * y), START, 1e-6, 1e-2, first_stage=False)
    assert published.item() == whole.item()
    (slope,) = torch.autograd.grad(published, rate)
    assert slope.item() == pytest.approx(of_later.item())
    assert abs(of_first) > abs(of_first + of_later)  # which cancel for the most part


def test_the_gradient_does_not_reach_where_the_step_begins():
    y = START.clone().requires_grad_()
    rate = torch.ones((), dtype=torch.float64, requires_grad=True)
    field = lambda y: torch.sin(rate * y)  # noqa: E731
    ode.local_error(field, y.detach(), 1e-6, 1.0, first_stage=True).backward()
    assert rate.grad is not None
    assert y.grad is None


def test_adaptive_steps_meet_their_tolerance_and_cost_more_where_it_is_tighter():
    pytest.importorskip("torchdiffeq")
    cost = []
    for tolerance in (1e-4, 1e-9):
        after, evaluations = ode.solve(spiral, START, 2.0, tolerance)
        assert (after - exact(START, 2.0)).abs().max() < 10 * tolerance
        cost.append(evaluations)
    assert cost[0] < cost[1]


def test_adaptive_steps_that_would_be_none_are_refused_with_the_remedy():
    pytest.importorskip("torchdiffeq")
    with pytest.raises(Mistake, match=r"raise the tolerance .* or set world_model\.solver=rk4"):
        ode.solve(lambda y: y**2, torch.ones(1, 1), 2.0, 1e-6)  # 1 / (1 - t), which ends at 1
