"""A probabilistic ensemble and its rollouts the plain way, the reference for ours.

A Python list of members, each a stack of `nn.Linear` with a `torch.optim.Adam` of its own that
walks its parameters one by one; rollouts loop over steps and members, choose an elite per row by
indexing and collect rows in lists. It computes what `world_models.gaussian.GaussianMembers.update`
and `world_models.sources.BranchedRollouts.generate` compute for one seed without terminations
(a test compares them) and draws its random numbers in the same order.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.benchmarks.speed.plain_sac import perceptron


class PlainEnsemble:
    """One ensemble. The arguments are hyperparameters of `conf/world_model/ensemble.yaml`."""

    def __init__(
        self,
        *,
        inputs: int,
        outputs: int,
        members: int,
        hidden: Sequence[int],
        activation: str,
        learning_rate: float,
        weight_decay: Sequence[float],
        log_variance_bounds: Sequence[float],
        bound_coefficient: float,
        device: torch.device,
    ) -> None:
        self.members = [
            perceptron(inputs, hidden, 2 * outputs, activation).to(device) for _ in range(members)
        ]
        low, high = log_variance_bounds
        self.low = torch.full((outputs,), low, device=device, requires_grad=True)
        self.high = torch.full((outputs,), high, device=device, requires_grad=True)
        self.input_mean = torch.zeros(inputs, device=device)
        self.input_std = torch.ones(inputs, device=device)
        self.elites = list(range(members))
        self.weight_decay, self.bound_coefficient = list(weight_decay), bound_coefficient
        self.optimisers = [
            torch.optim.Adam(member.parameters(), learning_rate, foreach=False)
            for member in self.members
        ]
        self.bounds_optimiser = torch.optim.Adam(
            [self.low, self.high], learning_rate, foreach=False
        )

    def predict(self, member: nn.Sequential, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance `[B, Y]` of one member for raw inputs `[B, X]`."""
        mean, log_variance = member((inputs - self.input_mean) / self.input_std).chunk(2, -1)
        log_variance = self.high - F.softplus(self.high - log_variance)
        return mean, self.low + F.softplus(log_variance - self.low)

    def update(self, batches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """One step of every member on its own (inputs, targets); returns the summed loss."""
        total = self.bound_coefficient * (self.high - self.low).sum()
        self.bounds_optimiser.zero_grad()
        total.backward()
        total = total.detach()
        for member, optimiser, (inputs, targets) in zip(
            self.members, self.optimisers, batches, strict=True
        ):
            mean, log_variance = self.predict(member, inputs)
            loss = ((mean - targets).pow(2) * torch.exp(-log_variance) + log_variance).mean()
            total = total + loss.detach()
            layers = [part for part in member if isinstance(part, nn.Linear)]
            for layer, decay in zip(layers, self.weight_decay, strict=True):
                loss = loss + 0.5 * decay * layer.weight.pow(2).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        self.bounds_optimiser.step()
        return total

    @torch.no_grad()
    def step(self, obs: Tensor, action: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """Next observations `[B, D]` and penalised rewards `[B]` of one imagined step."""
        inputs = torch.cat([obs, action], -1)
        means, stds = [], []
        for member in self.members:
            mean, log_variance = self.predict(member, inputs)
            means.append(mean)
            stds.append(torch.sqrt(torch.exp(log_variance)))
        mean, std = torch.stack(means), torch.stack(stds)  # [E, B, Y]
        rows = torch.arange(len(obs), device=obs.device)
        drawn = torch.randint(len(self.elites), (len(obs),), device=obs.device)
        chosen = torch.tensor(self.elites, device=obs.device)[drawn]
        sample = mean[chosen, rows]
        sample = sample + std[chosen, rows] * torch.randn_like(sample)
        uncertainty = torch.linalg.norm(std, dim=-1).amax(0)
        return obs + sample[:, :-1], sample[:, -1] - penalty * uncertainty


@torch.no_grad()
def plain_rollouts(
    model: PlainEnsemble,
    policy: Callable[[Tensor], Tensor],
    obs: Tensor,
    horizon: int,
    penalty: float,
) -> dict[str, Tensor]:
    """`horizon` steps from every `obs [B, D]`, as columns of `[horizon * B, ...]`."""
    rows: dict[str, list[Tensor]] = {}
    for _ in range(horizon):
        action = policy(obs)
        next_obs, reward = model.step(obs, action, penalty)
        row = {
            "obs": obs,
            "action": action,
            "reward": reward,
            "next_obs": next_obs,
            "terminated": torch.zeros(len(obs), dtype=torch.bool, device=obs.device),
        }
        for name, column in row.items():
            rows.setdefault(name, []).append(column)
        obs = next_obs
    return {name: torch.cat(columns) for name, columns in rows.items()}
