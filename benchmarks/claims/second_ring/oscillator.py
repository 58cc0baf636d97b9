"""A vector field fitted to a damped cubic oscillator, with and without the local error in its loss.

dy/dt = A y^3, element by element, with A = [[-0.1, 2], [-2, -0.1]].
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.world_models.networks import BatchedMLP
from reverie.world_models.ode import local_error, runge_kutta_step, solve
from reverie.world_models.optimiser import Adam

TOLERANCE = 1e-6
DURATION = 6.0
_POINTS, _SUBSTEPS, _BATCH = 12, 3, 256
_LEARNING_RATE = 3e-3
_MATRIX = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


def true_field(y: Tensor) -> Tensor:
    """dy/dt `[*, 2]`."""
    return y.pow(3) @ _MATRIX.T


def trajectories(count: int, generator: torch.Generator) -> Tensor:
    """`[points, count, 2]`, from starts in [-2, 2]^2."""
    states = [4 * torch.rand(count, 2, generator=generator) - 2]
    for _ in range(_POINTS):
        states.append(solve(true_field, states[-1], DURATION / _POINTS, 1e-8)[0])
    return torch.stack(states)


def fit_and_solve(
    weights: Sequence[float], updates: int, seed: int, *, first_stage: bool = True
) -> list[dict[str, Any]]:
    """Fit one network for each weight, side by side, and solve them adaptively.

    Each weight falls to a tenth over the fit; `first_stage`: see `ode.local_error`.

    Returns:
        For each: `mse` at the points of 64 other trajectories, each reached from the one before,
        `error` at their ends from their starts alone, and `evaluations` of the field for that.
    """
    generator = torch.Generator().manual_seed(seed)
    seen, other = trajectories(64, generator), trajectories(64, generator)
    start, end = seen[:-1].flatten(0, 1), seen[1:].flatten(0, 1)
    torch.manual_seed(seed)
    count, h = len(weights), DURATION / _POINTS / _SUBSTEPS
    # The same starting weights for all, so that nothing but the loss tells them apart.
    alone = BatchedMLP((1,), 2, [50, 50], 2, "tanh")
    network = BatchedMLP((count,), 2, [50, 50], 2, "tanh")
    network.load_state_dict(
        {k: v.expand(count, *v.shape[1:]) for k, v in alone.state_dict().items()}
    )
    optimiser = Adam(network.parameters(), _LEARNING_RATE, updates, 1)
    weight = torch.tensor(weights)

    def flow(y: Tensor, substeps: int) -> Tensor:
        for _ in range(substeps):
            y = y + runge_kutta_step(network, y, h, network(y))
        return y

    for update in range(updates):
        drawn = torch.randint(len(start), (_BATCH,))
        y, target = (each[drawn].expand(count, -1, -1) for each in (start, end))
        loss = (flow(y, _SUBSTEPS) - target).square().mean((1, 2))
        with torch.no_grad():
            part = _SUBSTEPS * h * torch.rand(1, _BATCH, 1)
            somewhere = y + runge_kutta_step(network, y, part, network(y))
        error = local_error(network, somewhere, TOLERANCE, DURATION, first_stage=first_stage)
        optimiser.step(loss + weight * 0.1 ** (update / updates) * error)

    found = []
    with torch.no_grad():
        reached = flow(other[:-1].reshape(1, -1, 2).expand(count, -1, -1), _SUBSTEPS)
        mse = (reached - other[1:].reshape(-1, 2)).square().mean((1, 2))
        for place in range(count):

            def field(y: Tensor, place: int = place) -> Tensor:
                return network(y.expand(count, -1, -1))[place]

            final, evaluations = solve(field, other[0], DURATION, TOLERANCE)
            off = float((final - other[-1]).square().mean())
            found.append({"mse": float(mse[place]), "error": off, "evaluations": evaluations})
    return found
