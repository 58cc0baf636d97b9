"""Piecewise linear recurrent networks: almost-linear RNN and shallow PLRNN.

Almost-linear RNN, arXiv:2410.14240: it has few ReLU units, so there are few linear regions, whose
fixed points and stability follow from linear algebra. Shallow PLRNN, arXiv:2306.04406. Here they
are members of an ensemble, with actions, a reward and noise.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.ranges import Count, Whole, Widths
from reverie.world_models.base import FitProgress
from reverie.world_models.gaussian import soft_clamp
from reverie.world_models.linear_regions import describe_regions, in_words, log
from reverie.world_models.networks import BatchedLinear, BatchedMLP
from reverie.world_models.recurrent import MemoryNetwork
from reverie.world_models.recurrent_ensemble import RecurrentEnsemble

_SMALL = 0.01
"""Standard deviation of the first weights, that of arXiv:2410.14240."""


class PiecewiseLinear(MemoryNetwork):
    """z' = f(z) + C a with f piecewise linear; a state z is (obs, hidden units), M in all.

    Observations and actions are standardised. Hidden units begin as a linear map of the
    observation. The reward is an MLP of (z, a); ln variances of change and reward are linear
    in them.

    Args:
        lead: shape of the independent networks, `(L, E)`.
        dims: D and A.
        hidden_units: M - D.
        reward_hidden: widths of the reward's MLP.
        others: see `MemoryNetwork`.
    """

    def __init__(
        self,
        *,
        lead: Sequence[int],
        dims: tuple[int, int],
        hidden_units: int,
        reward_hidden: Sequence[int],
        **others: Any,
    ) -> None:
        obs_dim, action_dim = dims
        inputs, outputs = sum(dims), obs_dim + 1
        super().__init__(lead=lead, inputs=inputs, outputs=outputs, memory=hidden_units, **others)
        self.obs_dim, self.units = obs_dim, obs_dim + hidden_units
        self.diagonal = nn.Parameter(_first_diagonal(lead, self.units))
        self.offset = nn.Parameter(torch.zeros(*lead, 1, self.units))
        self.of_action = nn.Parameter(_SMALL * torch.randn(*lead, action_dim, self.units))
        if hidden_units:
            self.of_obs = nn.Parameter(_SMALL * torch.randn(*lead, obs_dim, hidden_units))
        told = self.units + action_dim
        self.reward = BatchedMLP(lead, told, reward_hidden, 1, "relu")
        self.noise = BatchedLinear(lead, told, outputs)
        nn.init.zeros_(self.noise.weight)
        nn.init.zeros_(self.noise.bias)

    @abstractmethod
    def bend(self, z: Float[Tensor, "*lead B M"]) -> Float[Tensor, "*lead B M"]:
        """What f adds to the diagonal's share of z and the offset."""

    @abstractmethod
    def pattern(self, z: Float[Tensor, "*lead B M"]) -> Bool[Tensor, "*lead B P"]:
        """Which side of every kink z lies on; equal patterns are one linear region."""

    def move(
        self, z: Float[Tensor, "*lead B M"], action: Float[Tensor, "*lead B A"]
    ) -> Float[Tensor, "*lead B M"]:
        """The next state, all standardised."""
        return z * self.diagonal + self.bend(z) + self.offset + action @ self.of_action

    def begin(self, obs: Float[Tensor, "*lead B D"]) -> Float[Tensor, "*lead B H"]:
        if not self.memory:
            return super().begin(obs)
        return ((obs - self.input_mean[: self.obs_dim]) / self._unit()) @ self.of_obs

    def advance(
        self,
        raw: Float[Tensor, "*lead B X"],
        hidden: Float[Tensor, "*lead B H"],
        dropout: float = 0.0,
    ) -> tuple[Float[Tensor, "*lead B Y"], Float[Tensor, "*lead B Y"], Float[Tensor, "*lead B H"]]:
        inputs = (raw - self.input_mean) / self.input_std
        obs, action = inputs.tensor_split([self.obs_dim], -1)
        z = torch.cat([obs, hidden], -1)
        next_obs, hidden = self.move(z, action).tensor_split([self.obs_dim], -1)
        change = (next_obs - obs) * self._unit() - self.output_mean[:-1]
        told = torch.cat([z, action], -1)
        mean = torch.cat([change / self.output_std[:-1], self.reward(told)], -1)
        return mean, soft_clamp(self.noise(told), self.low, self.high), hidden

    def _unit(self) -> Float[Tensor, " D"]:
        return self.input_std[: self.obs_dim]


class AlmostLinear(PiecewiseLinear):
    """z' = A z + W phi(z) + h + C a: phi is max(0, z) of the last P units, z of the others.

    Args:
        relu_units: P; 0 is a linear model, M a PLRNN.
        others: see `PiecewiseLinear`.

    Source: arXiv:2410.14240, with its first weights. Differs: C a.
    """

    def __init__(self, *, relu_units: int, lead: Sequence[int], **others: Any) -> None:
        super().__init__(lead=lead, **others)
        if relu_units > self.units:
            raise Mistake(
                f"world_model.relu_units={relu_units} are more than all {self.units} units, "
                f"{self.obs_dim} observed ones and world_model.hidden_units={self.memory}; "
                "lower the first or raise the last"
            )
        self.relu_units = relu_units
        self.weight = nn.Parameter(_SMALL * torch.randn(*lead, self.units, self.units))

    def bend(self, z: Float[Tensor, "*lead B M"]) -> Float[Tensor, "*lead B M"]:
        straight, bent = z.tensor_split([self.units - self.relu_units], -1)
        return torch.cat([straight, F.relu(bent)], -1) @ self.weight

    def pattern(self, z: Float[Tensor, "*lead B M"]) -> Bool[Tensor, "*lead B P"]:
        return z[..., self.units - self.relu_units :] > 0


class ShallowPLRNN(PiecewiseLinear):
    """z' = A z + W1 max(0, W2 z + h2) + h1 + C a.

    Args:
        width: of W2 z.
        clipped: whether - W1 max(0, W2 z) is added, which bounds orbits if |A| < 1.
        others: see `PiecewiseLinear`.

    Source: arXiv:2306.04406. Differs: W1 and W2 start as `nn.Linear` does.
    """

    def __init__(self, *, width: int, clipped: bool, lead: Sequence[int], **others: Any) -> None:
        super().__init__(lead=lead, **others)
        self.clipped = clipped
        self.inner = BatchedLinear(lead, self.units, width)  # W2 and h2
        self.outer = nn.Parameter(BatchedLinear(lead, width, self.units).weight.data)

    def bend(self, z: Float[Tensor, "*lead B M"]) -> Float[Tensor, "*lead B M"]:
        seen = z @ self.inner.weight
        bent = F.relu(seen + self.inner.bias)
        return (bent - F.relu(seen) if self.clipped else bent) @ self.outer

    def pattern(self, z: Float[Tensor, "*lead B M"]) -> Bool[Tensor, "*lead B P"]:
        seen = z @ self.inner.weight
        sides = seen + self.inner.bias > 0
        return torch.cat([sides, seen > 0], -1) if self.clipped else sides


class PiecewiseLinearEnsemble(RecurrentEnsemble):
    """Piecewise linear networks as the members of a recurrent ensemble.

    Args:
        hidden_units: M - D, dimensions of the state in addition to the observation.
        reward_hidden: widths of the reward's MLP.
        others: see `RecurrentEnsemble`; width, layers, blocks and dropout are another network's.
    """

    network: PiecewiseLinear

    def __init__(self, *, hidden_units: Whole, reward_hidden: Widths, **others: Any) -> None:
        self.hidden_units, self.reward_hidden = hidden_units, list(reward_hidden)
        super().__init__(width=hidden_units, layers=1, blocks=0, dropout=0.0, **others)

    @abstractmethod
    def make_network(self, **shared: Any) -> PiecewiseLinear:
        """The members, given what all kinds share."""

    def _build(self) -> PiecewiseLinear:
        spec = self.spec
        return self.make_network(
            lead=(self.replicas, self.members),
            dims=(spec.obs_dim, spec.action_dim),
            hidden_units=self.hidden_units,
            reward_hidden=self.reward_hidden,
            log_variance_bounds=self.log_variance_bounds,
            bound_coefficient=self.bound_coefficient,
            left_out=self.not_learned,
        )

    def signature(self) -> dict[str, Any]:
        return super().signature() | {"reward_hidden": self.reward_hidden}

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """As `RecurrentEnsemble.fit`, with the linear `regions` of each seed's best member."""
        said = super().fit(data, progress)
        regions = self.regions(data)
        log.info("world model of seed 0:\n  %s", "\n  ".join(in_words(regions[0])))
        return said | {"regions": regions}

    def regions(self, data: Dataset) -> list[dict[str, Any]]:
        """Of every seed's best member, see `linear_regions.describe_regions`."""
        return [
            describe_regions(self.network, self.copies, self.spec, (replica, member), z)
            for replica, (member, z) in enumerate(self._visited(data))
        ]

    def _visited(self, data: Dataset) -> list[tuple[int, Float[Tensor, "R M"]]]:
        """The best member of each ensemble, and its states at recorded rows."""
        rows = torch.linspace(0, len(data) - 1, min(len(data), _LOOKED_AT)).long()
        dim = self.spec.obs_dim
        obs = data.transitions.obs[rows].to(self.fitted.device) - self.network.input_mean[:dim]
        obs = obs / self.network.input_std[:dim]
        memory = self.recorded_state(data, rows).unflatten(-1, (self.members, self.hidden_units))
        return [
            (member, torch.cat([obs, memory[replica, :, member].to(obs.dtype)], -1))
            for replica, member in enumerate(self.elite_members[:, 0].tolist())
        ]

    def initial_state(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B W"]:
        """What the members make of the observation."""
        lanes = self._by_replica(obs).unsqueeze(1).expand(-1, self.members, -1, -1)
        hidden = self.network.begin(lanes).transpose(1, 2).reshape(*obs.shape[:-1], -1)
        return hidden.double() if self.spec.exogenous else hidden


class AlmostLinearEnsemble(PiecewiseLinearEnsemble):
    """Almost-linear RNNs as world models.

    Args:
        relu_units: P, number of ReLU units; 2^P linear regions at most.
        others: see `PiecewiseLinearEnsemble`.

    Source: arXiv:2410.14240. Differs: generalised teacher forcing, where `forcing.alpha=1` with
    `forcing.interval` is the paper's sparse one; members, likelihood, reward and actions are ours.
    """

    def __init__(self, *, relu_units: Whole, **others: Any) -> None:
        self.relu_units = relu_units
        super().__init__(**others)

    def make_network(self, **shared: Any) -> AlmostLinear:
        return AlmostLinear(relu_units=self.relu_units, **shared)

    def signature(self) -> dict[str, Any]:
        return super().signature() | {"relu_units": self.relu_units}


class ShallowEnsemble(PiecewiseLinearEnsemble):
    """Shallow PLRNNs as world models.

    Args:
        bends: number of ReLU units.
        clipped: whether orbits are bounded, see `ShallowPLRNN`.
        others: see `PiecewiseLinearEnsemble`.

    Source: arXiv:2306.04406. Differs: members, likelihood, reward and actions are ours.
    """

    def __init__(self, *, bends: Count, clipped: bool, **others: Any) -> None:
        self.bends, self.clipped = bends, clipped
        super().__init__(**others)

    def make_network(self, **shared: Any) -> ShallowPLRNN:
        return ShallowPLRNN(width=self.bends, clipped=self.clipped, **shared)

    def signature(self) -> dict[str, Any]:
        return super().signature() | {"bends": self.bends, "clipped": self.clipped}


_LOOKED_AT = 2000
"""Recorded rows at which regions are looked for, at most."""


def _first_diagonal(lead: Sequence[int], units: int) -> Float[Tensor, "*lead 1 M"]:
    """The diagonal of (R'R / M + 1) / its largest eigenvalue, R standard normal.

    Source: the code of arXiv:2410.14240. Differs: none.
    """
    normal = torch.randn(*lead, units, units)
    positive = normal.mT @ normal / units + torch.eye(units)
    largest = torch.linalg.eigvalsh(positive)[..., -1:]
    return (positive.diagonal(dim1=-2, dim2=-1) / largest).unsqueeze(-2)
