"""Lower expectile Q-learning, arXiv:2407.00699: a critic of the low lambda-returns of a model."""

import copy
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.imagination import Imagine, Imagined, imagination_of
from reverie.agents.layers import Activation, Layer, Standardise
from reverie.agents.losses import (
    bellman_target,
    critic_metrics,
    expectile_error,
    lambda_returns,
    lambda_terms,
    lambda_weights,
    masked_mean,
    polyak_,
)
from reverie.agents.networks import Critics, DeterministicActor, Standardiser, SymlogStandardiser
from reverie.agents.regularisers import BuildRegulariser, Regulariser, endings
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import (
    Count,
    Finite,
    NonNegative,
    Positive,
    Range,
    Share,
    UnitInterval,
    Widths,
)
from reverie.world_models.base import WorldModel
from reverie.world_models.networks import ActivationName, orthogonal_start_
from reverie.world_models.optimiser import Adam
from reverie.world_models.per_seed import PerSeed, set_per_seed

RETURN_RANGE = 1000.0
"""Best minus worst recorded return where rewards are scaled by `auto`, from the authors' code."""
GAIN = 2**0.5
"""Of the orthogonal weights that all networks start from, from the authors' code."""


class LEQ(Agent):
    """S policies a = tanh(f(s)), each with one critic, that learn in a world model and from data.

    Args:
        spec, seeds: see `Agent`.
        updates: length of the run in gradient steps, for the actor's cosine schedule.
        hidden, activation: architecture of policy and critic.
        actor_learning_rate, critic_learning_rate: of Adam.
        actor_cosine: decay the actor's step size to zero over the run.
        discount: per control step.
        tau: Polyak step of the average critic, every update.
        expectile: the paper's tau; below 0.5 low returns count more. A list gives each seed its
            own.
        horizon: H, imagined steps.
        decay: lambda of the returns.
        model_weight: beta, weight of imagined steps in the critic's loss; 1 - beta of recorded.
        average_weight: weight of the distance to the average critic.
        start_share: share of a batch, from its end, used as start states of imagined rollouts;
            auto: the synthetic transitions, which come last, or all if there are none.
        shared_dreams: actor and critic learn from the same rollouts; off: each from its own.
        exploration_std: std of the noise before tanh in actions that are not deterministic; it is
            not trained.
        reward_scale: what rewards are multiplied by, recorded and imagined; auto: the returns of
            the dataset span 1000.
        reward_offset: added to every reward, after that.
        symlog: inputs of the networks are symlog of standardised observations and actions.
        critic_layer_norm: layer normalisation in the critic, before its activations.
        regulariser: builds the regulariser of the critic, see `Regulariser`; null: none.
    """

    imagine: Imagine | None = None
    expectile: float | Tensor
    reward_scale: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        updates: int,
        hidden: Widths,
        activation: ActivationName,
        actor_learning_rate: Positive,
        critic_learning_rate: Positive,
        actor_cosine: bool,
        discount: UnitInterval,
        tau: Share,
        expectile: Annotated[PerSeed, Range(above=0, below=1)],
        horizon: Count,
        decay: UnitInterval,
        model_weight: UnitInterval,
        average_weight: NonNegative,
        start_share: Share | Literal["auto"],
        shared_dreams: bool,
        exploration_std: NonNegative,
        reward_scale: Positive | Literal["auto"],
        reward_offset: Finite,
        symlog: bool,
        critic_layer_norm: bool,
        regulariser: BuildRegulariser | None,
    ) -> None:
        super().__init__(spec=spec, seeds=seeds)
        sizes: dict[str, Any] = {
            "obs_dim": spec.obs_dim,
            "action_dim": spec.action_dim,
            "hidden": hidden,
            "activation": activation,
        }
        inputs = SymlogStandardiser if symlog else Standardiser
        self.standardise, self.standardise_action = inputs(spec.obs_dim), inputs(spec.action_dim)
        self.actor = DeterministicActor(seeds=seeds, **sizes)
        # Observations and actions are standardised before they reach a network.
        self.critics = Critics(
            seeds=seeds,
            critics=1,
            normalise_obs=False,
            layer_norm=critic_layer_norm,
            norm_first=True,
            **sizes,
        )
        for network in (self.actor, self.critics):
            orthogonal_start_(network.body, GAIN)
        self.regulariser = (regulariser or Regulariser)(
            critics=self.critics, ends=endings(spec, self.standardise.inverse)
        )
        self.average_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.actor_optimiser = Adam(
            self.actor.parameters(),
            actor_learning_rate,
            cosine_steps=updates if actor_cosine else None,
            cosine_every=1,
        )
        self.critic_optimiser = Adam(self.critics.parameters(), critic_learning_rate)
        set_per_seed(self, "expectile", expectile, trailing=1)
        self.discount, self.tau, self.horizon, self.decay = discount, tau, horizon, decay
        self.model_weight, self.average_weight = model_weight, average_weight
        self.automatic_share, self.shared_dreams = start_share == "auto", shared_dreams
        self.start_share = 1.0 if start_share == "auto" else float(start_share)
        self.exploration_std, self.symlog = exploration_std, symlog
        self.automatic_scale, self.reward_offset = reward_scale == "auto", reward_offset
        self.register_buffer(
            "reward_scale", torch.tensor(1.0 if reward_scale == "auto" else float(reward_scale))
        )

    def attach(self, model: WorldModel | None) -> None:
        """Keep how the model imagines.

        Raises:
            Mistake: no model, or one without gradients.
        """
        self.imagine = imagination_of(model, "leq")

    def expect_rows(self, recorded: int, made: int) -> None:
        """Imagine from what a source made, unless a share is given.

        Raises:
            Mistake: no row is recorded, and one step of the critics would be learned from none.
        """
        if not recorded:
            raise Mistake(
                "agent=leq learns a part of its critics from recorded rows, of which real_ratio=0 "
                "leaves none in a batch; raise it, to 0.5 for instance"
            )
        if self.automatic_share:
            self.start_share = made / (recorded + made) if made else 1.0

    def prepare(self, data: Dataset) -> None:
        """Take the statistics of observations, actions and returns.

        Raises:
            Mistake: all episodes have the same return, which gives no scale.
        """
        rows = data.transitions
        self.standardise.fit(rows.obs)
        self.standardise_action.fit(rows.action)
        self.regulariser.prepare(rows.obs, self.standardise)
        if not self.automatic_scale:
            return
        spread = data.returns.max() - data.returns.min()
        if not spread > 0:
            raise Mistake(
                "agent.reward_scale=auto divides by the range of the episodes' returns, but all "
                f"{len(data.returns)} in {data.name} have the same; set agent.reward_scale=1"
            )
        self.reward_scale.copy_(RETURN_RANGE / spread)

    def bonus(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        return obs.new_full(obs.shape[:-1], self.reward_offset) / self.reward_scale

    def reward_bounds(self, low: float, high: float) -> tuple[float, float]:
        scale = float(self.reward_scale)
        return scale * low + self.reward_offset, scale * high + self.reward_offset

    @torch.no_grad()
    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = False
    ) -> Float[Tensor, "S B A"]:
        mean = self.actor.body(self.standardise(obs))
        noise = 0.0 if deterministic else self.exploration_std * torch.randn_like(mean)
        return torch.tanh(mean + noise)

    @torch.no_grad()
    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"] | None]:
        mean = self.policy(obs)
        return mean, self.exploration_std * (1 - mean.square()) if self.exploration_std else None

    def policy_layers(self, seed: int) -> list[Layer]:
        mean, scale = (each.cpu() for each in (self.standardise.mean, self.standardise.scale))
        bend: list[Layer] = [Activation("symlog")] if self.symlog else []
        return [Standardise(mean, scale), *bend, *super().policy_layers(seed)]

    def values(
        self, obs: Float[Tensor, "S B D"], action: Float[Tensor, "S B A"]
    ) -> Float[Tensor, "S 1 B"]:
        """The critic's estimate in units of the raw reward, apart from `reward_offset`."""
        return (
            self.critics(self.standardise(obs), self.standardise_action(action)) / self.reward_scale
        )

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        dream = self.dream(batch)
        actor_loss, measured = self.actor_loss(dream)
        if not self.shared_dreams:
            with torch.no_grad():
                dream = self.dream(batch)
        # Both losses look at both networks as they were.
        critic_loss, penalty, found = self.critic_loss(batch, dream.detach())
        self.actor_optimiser.step(actor_loss)
        self.critic_optimiser.step(critic_loss + penalty)
        projected = self.regulariser.project_(self.critics)
        polyak_(self.average_critics.parameters(), self.critics.parameters(), self.tau)
        return measured | found | projected

    def policy(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B A"]:
        """The deterministic action, with its gradient."""
        return self.actor(self.standardise(obs))

    def dream(self, batch: Transition) -> Imagined:
        """Rollouts of the deterministic policy from the last rows of a batch.

        Raises:
            RuntimeError: no world model was attached.
        """
        if self.imagine is None:
            raise RuntimeError(
                "LEQ learns from a fitted world model and has none; call attach(model) first"
            )
        first = int(batch.obs.shape[1] * (1 - self.start_share) + 1e-9)
        flow = [self.discount * weight for weight in lambda_weights(self.horizon, self.decay)]
        return self.imagine(self.policy, batch.obs[:, first:], flow)

    def scaled(self, reward: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        """Rewards as they are learned from."""
        return self.reward_scale * reward + self.reward_offset

    def actor_loss(
        self, dream: Imagined
    ) -> tuple[Float[Tensor, " S"], dict[str, Float[Tensor, " S"]]]:
        """-sum_i mean <e_i dG_i/da_i, pi(s_i)>, e_i = tau where G_i > Q_i and 1 - tau elsewhere.

        dG_i/da_i goes through the model, its rewards and the later actions of the present policy.
        e_H = 1/2, and what lies behind a termination counts too.
        """
        values = self.dreamed_values(self.critics, dream)
        returns = self.returns(values.detach(), dream.detach())
        terms = lambda_terms(values, self.scaled(dream.reward), dream.alive, self.decay)
        # The dream weighs what goes back through its steps: each slope is one of its own return.
        slopes = torch.stack(torch.autograd.grad(terms.sum(), dream.actions), 1)
        expectile = self.expectile if isinstance(self.expectile, float) else self.expectile[:, None]
        above = (returns > values)[:, :-1]
        weight = torch.where(above, expectile, 1 - expectile)
        weight = torch.cat([weight, torch.full_like(weight[:, :1], 0.5)], 1)
        ascent = (weight.unsqueeze(-1) * slopes).detach().flatten(1, 2)
        action = self.policy(dream.obs.detach().flatten(1, 2))
        loss = -(ascent * action).sum((1, 2)) / dream.obs.shape[2]
        return loss, {
            "actor_loss": loss.detach(),
            "lambda_return": returns[:, 0].mean(1),
            "above_value": above.float().mean((1, 2)),
            "imagined_ends": (~dream.alive[:, -1]).float().mean(1),
        }

    def critic_loss(
        self, batch: Transition, dream: Imagined
    ) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"] | float, dict[str, Tensor]]:
        """(1 - beta) (1/2 (Q - y)^2 + c (Q - Q')^2) on recorded rows, and on imagined steps
        beta w_i (|tau - 1(G_i < Q_i)| (G_i - Q_i)^2 + c (Q_i - Q'_i)^2).

        y = r + discount (1 - terminated) Q(s', pi(s')), w_i = discount^i before a termination, and
        0 behind it; Q' is the moving average of Q. Targets have no gradient.

        Returns:
            The loss, the regulariser's penalty, and what is measured.
        """
        seen = replace(
            batch,
            obs=self.standardise(batch.obs),
            action=self.standardise_action(batch.action),
            next_obs=self.standardise(batch.next_obs),
        )
        with torch.no_grad():
            following = self.standardise_action(self.actor(seen.next_obs))
            value = self.critics(seen.next_obs, following).squeeze(1)
            reward = self.scaled(batch.reward)
            target = bellman_target(reward, batch.terminated, value, self.discount)
            average = self.average_critics(seen.obs, seen.action).squeeze(1)
            imagined_average = self.dreamed_values(self.average_critics, dream)[:, :-1]
            reached = dream.alive[:, :-1]
            steps = torch.arange(self.horizon, device=reached.device).unsqueeze(-1)
            weight = torch.where(reached, self.discount**steps, 0.0)
        prediction = self.critics(seen.obs, seen.action)
        recorded = prediction.squeeze(1)
        error = 0.5 * (recorded - target).square()
        drift = (recorded - average).square()
        real = masked_mean(error + self.average_weight * drift, batch.is_real)
        imagined = self.dreamed_values(self.critics, dream)
        returns = self.returns(imagined.detach(), dream)
        gap = (returns - imagined)[:, :-1]
        error = expectile_error(gap.flatten(1), self.expectile).unflatten(1, gap.shape[1:])
        drift = (imagined[:, :-1] - imagined_average).square()
        model = (weight * (error + self.average_weight * drift)).mean((1, 2))
        loss = (1 - self.model_weight) * real + self.model_weight * model
        penalty = self.regulariser.penalty(self.critics, seen, prediction)
        metrics = critic_metrics(loss, penalty, prediction, target)
        return loss, penalty, metrics | {"imagined_critic_loss": model.detach()}

    def dreamed_values(self, critics: Critics, dream: Imagined) -> Float[Tensor, "S T B"]:
        """Q of all imagined steps."""
        obs, action = dream.obs.flatten(1, 2), torch.cat(dream.actions, 1)
        values = critics(self.standardise(obs), self.standardise_action(action))
        return values.view(*dream.obs.shape[:-1])

    def returns(self, values: Float[Tensor, "S T B"], dream: Imagined) -> Float[Tensor, "S T B"]:
        """G of all imagined steps, given their Q."""
        reward = self.scaled(dream.reward)
        return lambda_returns(values, reward, dream.alive, self.discount, self.decay)
