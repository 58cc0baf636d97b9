"""RAMBO, arXiv:2204.12581: a world model that is trained adversarially against the policy."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.ranges import Count, NonNegative, Positive
from reverie.world_models.base import Critics, Moments, Policy, WorldModel
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.model_updates import ModelUpdates
from reverie.world_models.optimiser import Adam


class Adversary(ModelUpdates):
    """Lowers the likelihood of outcomes better than the critics expect, while fitting the data.

    Args:
        model: an ensemble for every seed; its elites stay those of the fit.
        data: what it was fitted to.
        policy: samples the actions of rollouts.
        moments, critics: of the same agent, whose current critics give the advantage.
        discount: of the critics.
        weight: of the adversarial term; 0 leaves the model unchanged.
        every: gradient steps of the agent between phases.
        steps: updates of the model in a phase.
        batch: rollouts per seed, and recorded transitions per member, in each update.
        horizon: steps after which rollouts restart.
        learning_rate: of Adam, whose moments are kept between phases.

    Source: RAMBO, arXiv:2204.12581, with the advantage and the mixture of its code. Differs:
    recorded transitions include those held out for early stopping; observations are not
    standardised.
    """

    def __init__(
        self,
        *,
        model: WorldModel,
        data: Dataset,
        policy: Policy,
        moments: Moments,
        critics: Critics,
        discount: float,
        weight: NonNegative,
        every: Count,
        steps: Count,
        batch: Count,
        horizon: Count,
        learning_rate: Positive,
    ) -> None:
        if not isinstance(model, ProbabilisticEnsemble):
            raise Mistake(
                f"model_updates=adversarial works on Gaussians, which {type(model).__name__} does "
                "not predict; set world_model=ensemble, or model_updates=none"
            )
        if model.replicas != model.seeds:
            raise Mistake(
                f"model_updates=adversarial with seeds={model.seeds} needs a model for every seed, "
                "for each has a policy of its own; set world_model.per_seed=true"
            )
        if not model.rollout_state.is_mixture:
            raise Mistake(
                "model_updates=adversarial takes outcomes from the elites in equal parts; set "
                "world_model.rollout_member=step and world_model.rollout_dropout=0"
            )
        super().__init__(model, every if weight else 0)
        self.ensemble, self.table = model, model.table(data)
        self.policy, self.moments, self.critics = policy, moments, critics
        self.discount, self.weight, self.steps = discount, weight, steps
        self.batch, self.horizon = batch, horizon
        gaussians = model.gaussians
        self.optimiser = Adam(gaussians.trained_parameters(), learning_rate).to(self.table.device)
        self.step: Callable[..., tuple[Tensor, Tensor, Tensor | None]] = self.update

    def compile(self, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self.step = wrapper(self.update)

    def contents(self) -> dict[str, Any]:
        return self.optimiser.state_dict()

    def restore(self, contents: Mapping[str, Any]) -> None:
        self.optimiser.load_state_dict(contents)

    def change(self) -> dict[str, Float[Tensor, " S"]]:
        """One phase; both terms of the loss, and log p of the outcomes, as means over updates."""
        gaussians, seeds = self.ensemble.gaussians, self.ensemble.seeds
        total = torch.zeros(3, seeds, device=self.table.device)
        gaussians.requires_grad_(True)
        try:
            for step in range(self.steps):
                if step % self.horizon == 0:
                    obs = self._recorded(seeds, self.batch)[..., : self.ensemble.spec.obs_dim]
                    state = self.ensemble.begin(obs)
                rows = self._recorded(seeds, self.ensemble.members, self.batch)
                terms, obs, state = self.step(obs, state, rows)
                # A compiled step overwrites what it gave before.
                obs, state = obs.clone(), None if state is None else state.clone()
                total = total + terms
        finally:
            gaussians.requires_grad_(False)
        names = ("adversarial_loss", "likelihood_loss", "outcome_log_prob")
        return dict(zip(names, total / self.steps, strict=True))

    def update(
        self, obs: Float[Tensor, "S B D"], state: Tensor | None, rows: Float[Tensor, "S E B W"]
    ) -> tuple[Float[Tensor, "3 S"], Float[Tensor, "S B D"], Tensor | None]:
        """One step of rollouts and one of Adam; the terms of `change`, and where rollouts go on.

        Minimises per seed weight * mean(A log p) + the loss of the fit on `rows`, where log p is
        of outcomes that the model drew and A their standardised advantage, both without gradient.
        """
        gaussians = self.ensemble.gaussians
        with torch.no_grad():
            action = self.policy(obs)
            outcome = self.ensemble.advance(obs, action, 1, state)
            next_obs, reward = outcome.next_obs[0], outcome.reward[0]
            advantage = self.advantage(obs, action, reward, next_obs, outcome.terminated[0])
            target = torch.cat([next_obs - obs, reward.unsqueeze(-1)], -1).unsqueeze(1)
        mean, log_variance = gaussians(torch.cat([obs, action], -1).unsqueeze(1))
        mean, log_variance, target = map(gaussians.of_learned, (mean, log_variance, target))
        elite = torch.zeros(mean.shape[:2], device=mean.device)
        elite = elite.scatter(1, self.ensemble.elite_members, 1.0) > 0
        log_prob = mixture_log_prob(mean, log_variance, target, elite)
        adversarial = self.weight * (advantage * log_prob).mean(1)
        likelihood = gaussians.loss(rows, torch.ones_like(rows[0, 0, :, 0]))
        gaussians.descend(self.optimiser, adversarial + likelihood)
        terms = torch.stack([adversarial, likelihood, log_prob.mean(1)]).detach()
        return terms, next_obs, None if outcome.state is None else outcome.state[0]

    def advantage(
        self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor
    ) -> Float[Tensor, "S B"]:
        """r + discount (1 - terminated) min Q(s', mean action) - min Q(s, a), standardised."""
        now, later = self.critics(obs, action), self.critics(next_obs, self.moments(next_obs)[0])
        assert now is not None and later is not None
        future = torch.where(terminated, 0.0, self.discount * later.amin(1))
        advantage = reward + future - now.amin(1)
        centred = advantage - advantage.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-6)

    def _recorded(self, *shape: int) -> Float[Tensor, "*shape W"]:
        """Recorded inputs with their targets, drawn uniformly."""
        return self.table[torch.randint(len(self.table), shape, device=self.table.device)]


def mixture_log_prob(
    mean: Float[Tensor, "S E B Y"],
    log_variance: Float[Tensor, "S E B Y"],
    target: Float[Tensor, "S 1 B Y"],
    elite: Bool[Tensor, "S E"],
) -> Float[Tensor, "S B"]:
    """Log density of a target under the mixture, in equal parts, of the elites' Gaussians."""
    errors = (target - mean).square() * torch.exp(-log_variance)
    each = -0.5 * (errors + log_variance + math.log(2 * math.pi)).sum(-1)
    each = torch.where(elite.unsqueeze(-1), each, -math.inf)
    return each.logsumexp(1) - elite.sum(1, keepdim=True).to(each.dtype).log()
