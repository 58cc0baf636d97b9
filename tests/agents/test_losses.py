import math

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from reverie.agents.losses import (
    bellman_target,
    polyak_,
    squared_error,
    sum_bounds,
    tanh_normal_log_prob,
)


def test_terminals_cut_the_bootstrap_and_nothing_else_does():
    target = bellman_target(
        reward=torch.tensor([[1.0, 2.0]]),
        terminated=torch.tensor([[False, True]]),
        next_value=torch.tensor([[10.0, 10.0]]),
        discount=0.9,
    )
    assert target.tolist() == [[10.0, 2.0]]


def test_a_masked_value_may_be_infinite():
    target = bellman_target(
        torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.full((1, 1), math.inf), 0.99
    )
    assert target.item() == 0


def test_squared_error_means_over_rows_and_sums_over_critics():
    prediction = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]])  # [S=1, N=2, B=2]
    target = torch.tensor([[0.0, 1.0]])
    # Critic 1: (1 + 4) / 2, critic 2: (0 + 1) / 2.
    assert squared_error(prediction, target).tolist() == [3.0]


def test_tanh_normal_density_equals_the_change_of_variables():
    mean, log_std = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    noise = torch.randn(5, 2, dtype=torch.float64)
    pre = mean + log_std.exp() * noise
    reference = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    expected = reference.log_prob(reference.transforms[0](pre)).sum(-1)
    assert torch.allclose(tanh_normal_log_prob(noise, log_std, pre), expected)


def test_tanh_normal_density_stays_exact_where_actions_saturate():
    # log(1 - tanh(u)^2) -> log 4 - 2u, far beyond where 1 - tanh^2 rounds to zero.
    u = torch.tensor([[20.0]])
    log_prob = tanh_normal_log_prob(torch.zeros(1, 1), torch.zeros(1, 1), u)
    assert log_prob.item() == pytest.approx(
        -0.5 * math.log(2 * math.pi) - (math.log(4) - 40), rel=1e-6
    )


def test_polyak_moves_by_the_rate():
    target, online = torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0])
    polyak_([target], [online], 0.25)
    assert target.tolist() == [0.25, 3.0]


def test_costs_are_paid_at_every_step_unless_an_episode_may_end():
    assert sum_bounds(-3.0, -1.0, 10, ends=False) == (-30, -10)
    assert sum_bounds(-3.0, -1.0, 10, ends=True) == (-30, -1)
    assert sum_bounds(1.0, 3.0, 10, ends=False) == (10, 30)
    assert sum_bounds(1.0, 3.0, 10, ends=True) == (1, 30)
    assert (
        sum_bounds(-3.0, 1.0, 10, ends=True) == sum_bounds(-3.0, 1.0, 10, ends=False) == (-30, 10)
    )
