import math

import pytest
import torch

from reverie.datasets.transition import Transition


def linear_data(noise):
    """Actions a = M s + noise, well inside the box; another M for each of two seeds."""
    policy = torch.tensor([[[0.2, 0.0], [0.0, -0.1], [0.1, 0.1]], [[0.0, 0.1], [0.2, 0.0], [0, 0]]])
    obs = torch.rand(2, 4096, 3) * 2 - 1
    action = obs @ policy + noise * torch.randn(2, 4096, 2)
    nothing = torch.full((2, 4096), float("nan"))  # rewards and successors are not looked at
    return obs @ policy, Transition(
        obs=obs,
        action=action,
        reward=nothing,
        next_obs=torch.full_like(obs, float("nan")),
        terminated=torch.zeros(2, 4096, dtype=torch.bool),
        is_real=torch.ones(2, 4096, dtype=torch.bool),
    )


def test_a_linear_policy_and_its_noise_are_recovered(make_agent):
    mean, batch = linear_data(noise=0.1)
    agent = make_agent("bc", seeds=2, learning_rate=0.01)
    for _ in range(300):
        measured = agent.update(batch)
    error = (agent.act(batch.obs, deterministic=True) - mean).square().mean((1, 2)).sqrt()
    assert error.max() < 0.04
    assert agent.actor.free_log_std.detach().exp().flatten() == pytest.approx([0.1] * 4, rel=0.1)
    # The entropy of N(0, 0.1^2) in two dimensions is the least the loss can be on average.
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.1))
    assert measured["actor_loss"].tolist() == pytest.approx([entropy] * 2, abs=0.15)
    spread = (agent.act(batch.obs) - mean).std((1, 2))
    assert spread.tolist() == pytest.approx([0.1] * 2, rel=0.2)


def test_bounds_of_zero_make_it_a_squared_error(make_agent):
    _, batch = linear_data(noise=0.1)
    agent = make_agent("bc", seeds=2, log_std_bounds=[0.0, 0.0])
    mean = agent.act(batch.obs, deterministic=True)
    loss = agent.update(batch)["actor_loss"]
    squares = 0.5 * (mean - batch.action).square().sum(-1).mean(1) + math.log(2 * math.pi)
    assert torch.allclose(loss, squares, atol=1e-5)
    assert not agent.actor(batch.obs)[1].detach().any()  # the std stays one
