"""Distributions whose denoisers are known in closed form, in double precision."""

import pytest
import torch


class Gaussian:
    """N(mean, std^2) in every coordinate; counts its calls."""

    def __init__(self, mean, std):
        self.mean, self.std, self.calls = mean, std, 0

    def __call__(self, x, sigma):
        self.calls += 1
        return self.mean + self.std**2 / (self.std**2 + sigma**2) * (x - self.mean)

    def carried(self, x, sigma, following):
        """Where the probability flow takes x from one level to another."""
        scale = ((self.std**2 + following**2) / (self.std**2 + sigma**2)) ** 0.5
        return self.mean + (x - self.mean) * scale


class Mixture:
    """Equal Gaussians of one width around `centres [M, d]`."""

    def __init__(self, centres, std):
        self.centres, self.std, self.calls = centres, std, 0

    def __call__(self, x, sigma):
        self.calls += 1
        total = self.std**2 + sigma**2
        distance = (x.unsqueeze(-2) - self.centres).square().sum(-1)
        share = torch.softmax(-distance / (2 * total), -1)
        centre = share @ self.centres
        return centre + self.std**2 / total * (x - centre)


@pytest.fixture
def gaussian():
    return Gaussian


@pytest.fixture
def mixture():
    return Mixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64), 0.3)
