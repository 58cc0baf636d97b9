"""Fitted Q evaluation: the value of a given policy, learned from recorded data alone.

Le, Voloshin and Yue, arXiv:1903.08738, with networks as in arXiv:1911.06854 and resampled
episodes for every replica as in arXiv:2102.03607.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.losses import bellman_target, polyak_, squared_error, sum_bounds
from reverie.agents.networks import Critics
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Decay, Positive, Share, UnitInterval, Widths
from reverie.world_models.networks import ActivationName
from reverie.world_models.optimiser import Adam

Policy = Callable[[Float[Tensor, "P B D"]], Float[Tensor, "P B A"]]
"""Observations for each of P policies in, their actions in [-1, 1] out."""


class FittedQEvaluation(Agent):
    """R critics for each of P fixed policies; a seed is a policy and a replica of it.

    Seeds are ordered policy first: seed p R + r is replica r of policy p. A critic predicts
    (Q - offset) / scale, with statistics of the dataset that give a good initial guess; they
    do not change the solution of Q(s, a) = r + discount (1 - terminated) Q(s', pi(s')).

    A constant error decays slowest, by 1 - discount per step of the target, and it is the error of
    a policy whose returns differ from those of the data. So the offset is updated too: a Bellman
    error that is the same everywhere gives the error of the values, error / (1 - discount), which
    is the coarse correction of a two-level method (aggregation, Bertsekas and Castanon, IEEE TAC
    34(6), 1989). It vanishes where the equation holds.

    Args:
        spec: of the task.
        policy: the P policies that are evaluated.
        policies, replicas: P and R.
        hidden, activation: architecture of a critic.
        learning_rate: of Adam.
        discount: per control step.
        tau: Polyak step of the target critics; with it alone, constant errors take about
            1 / (tau (1 - discount)) updates to decay.
        offset_rate: share of a constant error that is corrected per update; 0 leaves it to `tau`.
        clip_targets: clip targets to the values that a policy can have, given the recorded rewards.
    """

    offset: Float[Tensor, " S"]
    scale: Tensor
    horizon: Tensor
    bounds: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        policy: Policy,
        policies: int,
        replicas: int,
        hidden: Widths,
        activation: ActivationName,
        learning_rate: Positive,
        discount: Decay,
        tau: Share,
        offset_rate: UnitInterval,
        clip_targets: bool,
    ) -> None:
        super().__init__(spec=spec, seeds=policies * replicas)
        if not 0 <= discount < 1:
            raise Mistake(f"fqe.discount={discount} must lie in [0, 1)")
        self.policy, self.policies = policy, policies
        self.discount, self.tau, self.clip_targets = discount, tau, clip_targets
        self.offset_rate = offset_rate
        self.critics = Critics(
            seeds=self.seeds,
            critics=1,
            obs_dim=spec.obs_dim,
            action_dim=spec.action_dim,
            hidden=hidden,
            activation=activation,
            normalise_obs=True,
        )
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.optimiser = Adam(self.critics.parameters(), learning_rate)
        self.register_buffer("offset", torch.zeros(self.seeds))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("horizon", torch.ones(()))
        self.register_buffer("bounds", torch.tensor([-torch.inf, torch.inf]))

    def prepare(self, data: Dataset) -> None:
        rows = data.transitions
        for critics in (self.critics, self.target_critics):
            critics.prepare(rows.obs)
        # Steps that count for a policy which terminates as often as the data does.
        going_on = 1 - rows.terminated.float().mean()
        self.horizon.copy_(1 / (1 - self.discount * going_on))
        std, mean = torch.std_mean(rows.reward, correction=0)
        self.offset.copy_(mean * self.horizon)
        self.scale.copy_((std * self.horizon).clamp(min=1e-6))
        low, high = (end.item() for end in rows.reward.aminmax())
        ends = bool(rows.terminated.any())
        self.bounds.copy_(torch.tensor(sum_bounds(low, high, 1 / (1 - self.discount), ends)))

    @torch.no_grad()
    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = True
    ) -> Float[Tensor, "S B A"]:
        """What the policies of all seeds do."""
        together = obs.reshape(self.policies, -1, obs.shape[-1])
        return self.policy(together).reshape(*obs.shape[:-1], -1)

    def values(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S 1 B"]:
        return self.offset.view(-1, 1, 1) + self.scale * self.critics(obs, action)

    @torch.no_grad()
    def state_values(self, obs: Float[Tensor, "B D"]) -> Float[Tensor, "P R B"]:
        """V(s) = Q(s, pi(s)) of every policy and replica."""
        obs = obs.expand(self.seeds, -1, -1)
        return self.values(obs, self.act(obs)).view(self.policies, -1, obs.shape[1])

    @torch.no_grad()
    def bellman_errors(self, batch: Transition) -> Float[Tensor, "P R B"]:
        """r + discount (1 - terminated) V(s') - Q(s, a) at rows `[B]`, by the fitted critics."""
        shared = batch.map(lambda column: column.expand(self.seeds, *column.shape))
        after = self.values(shared.next_obs, self.act(shared.next_obs))[:, 0]
        target = bellman_target(shared.reward, shared.terminated, after, self.discount)
        error = target - self.values(shared.obs, shared.action)[:, 0]
        return error.view(self.policies, -1, error.shape[1])

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        wanted = self.target(batch)
        target = (wanted - self.offset.unsqueeze(1)) / self.scale
        prediction = self.critics(batch.obs, batch.action)
        loss = squared_error(prediction, target)
        self.optimiser.step(loss)
        polyak_(self.target_critics.parameters(), self.critics.parameters(), self.tau)
        value = self.offset + self.scale * prediction.detach().mean((1, 2))
        if self.offset_rate:
            self._move_offset(batch, wanted)
        return {"critic_loss": loss.detach(), "value": value}

    @torch.no_grad()
    def _move_offset(self, batch: Transition, target: Float[Tensor, "S B"]) -> None:
        """Mend a share of the error that all values have in common.

        Both sides are of the target critics: the online ones follow them, whatever they are off by.
        """
        own = self._slow(batch.obs, batch.action)
        self.offset += self.offset_rate * self.horizon * (target - own).mean(1)

    def _slow(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S B"]:
        """Values by the target critics."""
        return self.offset.unsqueeze(1) + self.scale * self.target_critics(obs, action)[:, 0]

    @torch.no_grad()
    def target(self, batch: Transition) -> Float[Tensor, "S B"]:
        """y = r + discount (1 - terminated) Q'(s', pi(s'))."""
        obs = batch.next_obs
        value = self._slow(obs, self.act(obs))
        target = bellman_target(batch.reward, batch.terminated, value, self.discount)
        return target.clamp(*self.bounds) if self.clip_targets else target
