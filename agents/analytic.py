"""Analytic policy gradient: gradient ascent on the return of rollouts imagined in the model.

Control of digital twins, arXiv:2403.13851: a state-feedback network, a control loss, and its
gradient back through every step of a differentiable model; integer actions by a
straight-through estimator. The value beyond the horizon is that of SVG, arXiv:1510.09142.
"""

import copy
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.agents.base import Agent
from reverie.agents.imagination import Imagine, Imagined, imagination_of
from reverie.agents.layers import Activation, Layer, Standardise
from reverie.agents.losses import masked_mean, polyak_, rollout_returns
from reverie.agents.networks import DeterministicActor, Standardiser, StateValue
from reverie.datasets.dataset import Dataset
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative, Positive, Range, Share, UnitInterval, Widths
from reverie.world_models.base import WorldModel
from reverie.world_models.networks import ActivationName
from reverie.world_models.optimiser import Adam, clip_each_seed
from reverie.world_models.per_seed import PerSeed, as_list, set_per_seed


class AnalyticGradient(Agent):
    """S policies a = tanh(f(s)), trained only by gradients through a world model.

    Only the states of a batch are used: H steps are imagined from them with the model's expected
    outcomes. The model's parameters get no gradient. A termination cuts off later rewards but has
    no gradient either, so the policy does not learn to avoid it.

    Args:
        spec, seeds: see `Agent`.
        updates: length of the run in gradient steps, for the cosine schedule.
        hidden, activation: architecture of policy and critic.
        learning_rate: of the policy's Adam.
        cosine: decay it to zero over the run.
        max_gradient: norm to which the policy gradient of each seed is clipped.
        discount: per control step.
        horizon: H, imagined steps.
        damping: factor on the gradient at each state during backpropagation; 1 is exact, lower
            values prevent exploding gradients in long rollouts of a chaotic model.
        penalty: lambda, weight of the model's uncertainty, in reward per its unit; a list gives
            each seed its own.
        terminal_weight: weight of the critic's value of the last state in the policy's objective;
            0: no critic.
        critic_learning_rate, tau: of the critic's Adam, and Polyak step of its target network.
        integer_actions: actions are integers in the units of their box.
        exploration_std: std of the noise before tanh in actions that are not deterministic.

    Raises:
        Mistake: a critic without a discount; integer actions in a box without integer bounds.

    Source: arXiv:2403.13851 for the gradient and integer actions; its loss is a distance to a
    state, ours the reward. Differs: critic, penalty, damping and clip are not in it.
    """

    gains_by_compiling = False  # a graph of H models, of which a CPU's compiler takes minutes
    imagine: Imagine | None = None
    penalty: float | Tensor
    reward_unit: Tensor
    middle: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        updates: int,
        hidden: Widths,
        activation: ActivationName,
        learning_rate: Positive,
        cosine: bool,
        max_gradient: Positive,
        discount: UnitInterval,
        horizon: Count,
        damping: UnitInterval,
        penalty: Annotated[PerSeed, Range(0)],
        terminal_weight: UnitInterval,
        critic_learning_rate: Positive,
        tau: Share,
        integer_actions: bool,
        exploration_std: NonNegative,
    ) -> None:
        super().__init__(spec=spec, seeds=seeds)
        if terminal_weight and discount == 1:
            raise Mistake(
                "agent.discount=1 leaves the critic without a value to converge to; lower it, or "
                "set agent.terminal_weight=0"
            )
        if min(as_list(penalty)) < 0:
            raise Mistake(f"agent.penalty={penalty} must not be negative")
        if integer_actions:
            _require_whole_box(spec)
        self.standardise = Standardiser(spec.obs_dim)
        self.actor = DeterministicActor(
            seeds=seeds,
            obs_dim=spec.obs_dim,
            action_dim=spec.action_dim,
            hidden=hidden,
            activation=activation,
        )
        self.actor_optimiser = Adam(
            self.actor.parameters(),
            learning_rate,
            cosine_steps=updates if cosine else None,
            cosine_every=1,
        )
        self.critic = self.target_critic = None
        if terminal_weight:
            self.critic = StateValue(
                seeds=seeds, obs_dim=spec.obs_dim, hidden=hidden, activation=activation
            )
            self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
            self.critic_optimiser = Adam(self.critic.parameters(), critic_learning_rate)
        set_per_seed(self, "penalty", penalty, trailing=2)
        self.discount, self.horizon, self.damping = discount, horizon, damping
        self.terminal_weight, self.tau = terminal_weight, tau
        self.max_gradient, self.exploration_std = max_gradient, exploration_std
        self.integer_actions = integer_actions
        self.register_buffer("reward_unit", torch.ones(()))
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        self.register_buffer("middle", (low + high) / 2, persistent=False)
        self.register_buffer("scale", (high - low) / 2, persistent=False)

    def attach(self, model: WorldModel | None) -> None:
        """Keep how the model imagines.

        Raises:
            Mistake: no model, or one without gradients.
        """
        self.imagine = imagination_of(model, "analytic", expected=True)

    def prepare(self, data: Dataset) -> None:
        """Take the statistics of observations, and the unit of rewards: their deviation."""
        self.standardise.fit(data.transitions.obs)
        unit = data.transitions.reward.std(correction=0)
        self.reward_unit.copy_(torch.where(unit > 0, unit, 1.0))

    @torch.no_grad()
    def act(
        self, obs: Float[Tensor, "S B D"], deterministic: bool = False
    ) -> Float[Tensor, "S B A"]:
        mean = self.actor.body(self.standardise(obs))
        noise = 0.0 if deterministic else self.exploration_std * torch.randn_like(mean)
        return self.whole(torch.tanh(mean + noise))

    @torch.no_grad()
    def moments(
        self, obs: Float[Tensor, "S B D"]
    ) -> tuple[Float[Tensor, "S B A"], Float[Tensor, "S B A"] | None]:
        mean = torch.tanh(self.actor.body(self.standardise(obs)))
        std = self.exploration_std * (1 - mean.square()) if self.exploration_std else None
        return self.whole(mean), std

    def policy_layers(self, seed: int) -> list[Layer]:
        mean, scale = (each.cpu() for each in (self.standardise.mean, self.standardise.scale))
        layers = [Standardise(mean, scale), *super().policy_layers(seed)]
        if not self.integer_actions:
            return layers
        middle, half = self.middle.cpu(), self.scale.cpu()
        to_box = Standardise(-middle / half, 1 / half)
        return [*layers, to_box, Activation("round"), Standardise(middle, half)]

    def policy(self, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B A"]:
        """The deterministic action, with its gradient."""
        return self.whole(self.actor(self.standardise(obs)))

    def whole(self, action: Float[Tensor, "S B A"]) -> Float[Tensor, "S B A"]:
        """Actions whose values in the box are whole numbers, with the gradient of those given.

        The straight-through estimator: rounded on the way forward, the identity on the way back.
        """
        if not self.integer_actions:
            return action
        nearest = (torch.round(self.middle + self.scale * action) - self.middle) / self.scale
        return action + (nearest - action).detach()

    def update(self, batch: Transition) -> dict[str, Float[Tensor, " S"]]:
        dream = self.dream(batch.obs)
        returns = self.returns(dream, self.terminal_weight)[:, 0]
        loss = -returns.mean(1)
        slopes = torch.autograd.grad(loss.sum(), self.actor_optimiser.targets)
        gradients, norm = clip_each_seed(slopes, self.max_gradient)
        dream = dream.detach()
        measured = self.learn_value(dream) if self.critic is not None else {}
        self.actor_optimiser.apply_gradients(gradients)
        return {
            "actor_loss": loss.detach(),
            "gradient_norm": norm,
            "imagined_return": returns.detach().mean(1) * self.reward_unit,
            "imagined_uncertainty": dream.uncertainty.mean((1, 2)),
            "imagined_ends": (~dream.alive[:, -1]).float().mean(1),
            "imagined_outside": (~dream.inside).float().mean((1, 2)),
            **measured,
        }

    def dream(self, starts: Float[Tensor, "S B D"]) -> Imagined:
        """H steps of the policy from each start.

        Raises:
            RuntimeError: no world model was attached.
        """
        if self.imagine is None:
            raise RuntimeError(
                "an analytic gradient goes through a fitted world model and there is none; call "
                "attach(model) first"
            )
        return self.imagine(self.policy, starts, [self.damping] * self.horizon)

    def returns(self, dream: Imagined, terminal_weight: float) -> Float[Tensor, "S T B"]:
        """G_t of all imagined steps, in units of the reward's deviation.

        G_t = sum_{t <= k < H} gamma^(k-t) m_k (r_k - lambda u_k) / unit
              + weight gamma^(H-t) m_H V(s_H),   m_k = 0 behind a termination
        """
        reward = dream.reward
        if not isinstance(self.penalty, float | int) or self.penalty:
            reward = reward - self.penalty * dream.uncertainty
        last = torch.zeros_like(reward[:, 0])
        if self.target_critic is not None:
            last = terminal_weight * self.value(self.target_critic, dream.obs[:, -1])
        return rollout_returns(reward / self.reward_unit, last, dream.alive, self.discount)

    def value(self, critic: StateValue, obs: Float[Tensor, "S B D"]) -> Float[Tensor, "S B"]:
        """V(s) of a critic whose output is a reward per step, for ever."""
        return critic(self.standardise(obs)) / (1 - self.discount)

    def learn_value(self, dream: Imagined) -> dict[str, Float[Tensor, " S"]]:
        """Draw V(s_t) towards G_t on the steps that are reached, in units of a reward per step.

        TD with the longest return that a rollout has, which is of the policy and needs no
        correction; the value behind it is that of the moving average of V.
        """
        assert self.critic is not None and self.target_critic is not None
        with torch.no_grad():
            target = self.returns(dream, 1.0)[:, :-1]
        states = dream.obs[:, :-1].flatten(1, 2)
        value = self.value(self.critic, states)
        error = (1 - self.discount) * (value - target.flatten(1))
        loss = masked_mean(error.square(), dream.alive[:, :-1].flatten(1))
        self.critic_optimiser.step(loss)
        polyak_(self.target_critic.parameters(), self.critic.parameters(), self.tau)
        return {
            "critic_loss": loss.detach(),
            "value": value.detach().mean(1) * self.reward_unit,
            "target": target.mean((1, 2)) * self.reward_unit,
        }


def _require_whole_box(spec: Spec) -> None:
    """Refuse a box whose bounds are no whole numbers, or that has no width."""
    for name, low, high in zip(spec.action_labels, spec.action_low, spec.action_high, strict=True):
        if not (float(low).is_integer() and float(high).is_integer() and low < high):
            raise Mistake(
                f"agent.integer_actions=true rounds actions within a box of whole numbers, but "
                f"{name} lies in [{low:g}, {high:g}]; correct dataset.action_low and "
                "dataset.action_high, or set agent.integer_actions=false"
            )
