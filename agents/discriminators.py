"""The ratio of true to simulated dynamics, from two classifiers of real and simulated transitions.

Source: DARC, arXiv:2006.13916; networks and hyperparameters of H2O, arXiv:2206.13464.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reverie.agents.losses import origin_loss
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import ArgumentsOf, NonNegative, Positive, Whole, Widths
from reverie.world_models.networks import ActivationName, BatchedMLP
from reverie.world_models.optimiser import Adam


class Discriminators(nn.Module):
    """D(s, a) and D(s, a, s') for each seed, class 0 real and class 1 simulated.

    D(s, a, s') is the softmax of l_sas + l_sa, so l_sas models only what s' adds, and

        log M(s'|s, a) - log Mhat(s'|s, a) = l_sas[0] - l_sas[1],  within +-2 logit_bound.

    The next state of a termination is unknown or arbitrary, so both networks get s instead:
    s' = s marks the end of an episode in real and simulated data alike.

    Args:
        spec, seeds: as for an `Agent`.
        hidden, activation: architecture of both.
        learning_rate: of Adam, one step an update.
        logit_bound: logits are bound * tanh of the network's output.
        pair_logit_bound: bound of D(s, a); None: the same. If states separate real from simulated
            transitions more clearly than D(s, a) can express, D(s, a, s') compensates, and the
            ratio reflects states instead of dynamics.
        noise: std of Gaussian noise on s, a and s' in training.
        relative_noise: that std is in units of each dimension's std in the dataset; false: in raw
            units.
        fresh_rows: transitions of a batch used only for the discriminators, per transition of the
            agent; 0 shares all of them.
    """

    obs_scale: Tensor
    action_scale: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        hidden: Widths,
        activation: ActivationName,
        learning_rate: Positive,
        logit_bound: Positive,
        pair_logit_bound: Positive | None,
        noise: NonNegative,
        relative_noise: bool,
        fresh_rows: Whole,
    ) -> None:
        super().__init__()
        for name, bound in (("logit_bound", logit_bound), ("pair_logit_bound", pair_logit_bound)):
            if bound is not None and bound <= 0:
                raise Mistake(
                    f"agent.discriminators.{name}={bound} must be positive, for example 2"
                )
        if noise < 0 or fresh_rows < 0:
            raise Mistake(
                f"agent.discriminators.noise={noise} and agent.discriminators.fresh_rows="
                f"{fresh_rows} must not be negative; 0 switches either off"
            )
        pair = spec.obs_dim + spec.action_dim
        self.of_pairs = BatchedMLP((seeds,), pair, hidden, 2, activation)
        self.of_successors = BatchedMLP((seeds,), pair + spec.obs_dim, hidden, 2, activation)
        self.optimiser = Adam(
            [*self.of_pairs.parameters(), *self.of_successors.parameters()], learning_rate
        )
        self.logit_bound = logit_bound
        self.pair_logit_bound = logit_bound if pair_logit_bound is None else pair_logit_bound
        self.noise, self.relative_noise, self.fresh_rows = noise, relative_noise, fresh_rows
        self.register_buffer("obs_scale", torch.ones(spec.obs_dim))
        self.register_buffer("action_scale", torch.ones(spec.action_dim))

    def prepare(self, data: Dataset) -> None:
        """Take the spread of the dataset's columns, the unit of a relative noise."""
        if self.relative_noise:
            self.obs_scale.copy_(data.transitions.obs.std(0, correction=0))
            self.action_scale.copy_(data.transitions.action.std(0, correction=0))

    def learn(self, batch: Transition) -> tuple[Transition, dict[str, Float[Tensor, " S"]]]:
        """One step of both networks; the rows left to the agent, and the losses.

        Raises:
            Mistake: the batch cannot be split as `fresh_rows` says.
        """
        rows, fresh = self._split(batch)
        obs = self._noisy(fresh.obs, self.obs_scale)
        action = self._noisy(fresh.action, self.action_scale)
        next_obs = self._noisy(successor(fresh), self.obs_scale)
        pairs = self._pair_logits(obs, action)
        successors = self._successor_logits(obs, action, next_obs)
        of_pairs = origin_loss(pairs, fresh.is_real)
        of_successors = origin_loss(successors + pairs, fresh.is_real)
        # The second loss reaches D(s, a) too, as in H2O's code.
        self.optimiser.step(of_pairs + of_successors)
        return rows, {
            "discriminator_loss_sa": of_pairs.detach(),
            "discriminator_loss_sas": of_successors.detach(),
        }

    @torch.no_grad()
    def log_ratio(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        next_obs: Float[Tensor, "S B D"],
    ) -> Float[Tensor, "S B"]:
        """log M(s'|s, a) / Mhat(s'|s, a), M true and Mhat simulated; no gradient."""
        logits = self._successor_logits(obs, action, next_obs)
        return logits[..., 0] - logits[..., 1]

    def _pair_logits(self, *pair: Tensor) -> Float[Tensor, "S B 2"]:
        return self.pair_logit_bound * torch.tanh(self.of_pairs(torch.cat(pair, -1)))

    def _successor_logits(self, *triple: Tensor) -> Float[Tensor, "S B 2"]:
        return self.logit_bound * torch.tanh(self.of_successors(torch.cat(triple, -1)))

    def _noisy(self, column: Tensor, scale: Tensor) -> Tensor:
        return column + self.noise * scale * torch.randn_like(column) if self.noise else column

    def _split(self, batch: Transition) -> tuple[Transition, Transition]:
        """Rows for the agent and rows for the discriminators, in equal shares of every stream."""
        group = self.fresh_rows + 1
        if group == 1:
            return batch, batch
        if batch.shape[1] % group:
            raise Mistake(
                f"batch_size={batch.shape[1]} does not split into groups of one row for the agent "
                f"and agent.discriminators.fresh_rows={self.fresh_rows}; make it a multiple of "
                f"{group}"
            )
        # Rows of a stream are exchangeable, so every `group`-th one is as good as any other.
        grouped = batch.map(lambda column: column.unflatten(1, (-1, group)))
        return grouped[:, :, 0], grouped[:, :, 1:].map(lambda column: column.flatten(1, 2))


def simulated_weight(
    log_ratio: Float[Tensor, "S B"], is_real: Bool[Tensor, "S B"], bounds: Sequence[float]
) -> Float[Tensor, "S B"]:
    """w = clip(M/Mhat, bounds) at simulated rows, 1 at real ones."""
    return torch.where(is_real, 1.0, log_ratio.exp().clamp(*bounds))


def successor(batch: Transition) -> Float[Tensor, "S B D"]:
    """s', or s where the episode terminated."""
    return torch.where(batch.terminated.unsqueeze(-1), batch.obs, batch.next_obs)


DiscriminatorSettings = Annotated[Mapping[str, Any], ArgumentsOf(lambda _: Discriminators)]
"""Settings of an agent that has discriminators: what lacks nothing but `spec` and `seeds`."""
