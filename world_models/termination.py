"""When an imagined episode ends: a rule of the task, a classifier learned from the data, or never.

The choice is explicit. Rules are looked up by exact environment id and configuration; guessing
from parts of a name is how wrong rules travelled through earlier projects.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.envs.termination import rule_for_spec
from reverie.mistake import Mistake
from reverie.ranges import Count, Positive, Range, Widths
from reverie.world_models.base import TerminationRule
from reverie.world_models.fitting import moments
from reverie.world_models.networks import ActivationName, BatchedLinear, BatchedMLP, normal_start_
from reverie.world_models.optimiser import Adam

log = logging.getLogger(__name__)

CHOICES = ("auto", "known", "learned", "none")

# Rows classified at a time when a fitted head is checked against its data.
_BLOCK = 16_384

# A known rule that contradicts more than this share of the recorded flags is reported.
_TOLERATED_DISAGREEMENT = 0.001


class Termination(nn.Module, ABC):
    """Says which imagined transitions end their episode, in raw units."""

    kind: str

    @abstractmethod
    def forward(
        self,
        obs: Float[Tensor, "K S B D"],
        action: Float[Tensor, "K S B A"],
        next_obs: Float[Tensor, "K S B D"],
    ) -> Bool[Tensor, "K S B"]:
        """Judge K outcomes for every seed and row."""

    @abstractmethod
    def fit(self, data: Dataset, rows: Bool[Tensor, " N"]) -> dict[str, Any]:
        """Learn from (or check against) the given rows; returns plain values for the log."""

    def signature(self) -> dict[str, Any]:
        """Plain values that fix what is fitted."""
        return {"kind": self.kind}


class KnownTermination(Termination):
    """The task's own rule."""

    kind = "known"

    def __init__(self, rule: TerminationRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return self.rule(obs, action, next_obs)

    def fit(self, data: Dataset, rows: Tensor) -> dict[str, Any]:
        """Compare the rule with the recorded flags on rows whose next observation is known."""
        seen = data.transitions[rows & data.valid_next]
        wrong = self.rule(seen.obs, seen.action, seen.next_obs) != seen.terminated
        share = wrong.float().mean().item() if len(wrong) else 0.0
        if share > _TOLERATED_DISAGREEMENT:
            log.warning(
                "the termination rule of %s contradicts %.2f%% of the recorded flags of dataset "
                "%s; if its task was modified, use world_model.termination=learned",
                data.spec.task or data.spec.env_id,
                100 * share,
                data.name,
            )
        return {"kind": self.kind, "disagreement": share}


class NeverTermination(Termination):
    """No imagined episode ends before its horizon."""

    kind = "none"

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return torch.zeros(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)

    def fit(self, data: Dataset, rows: Tensor) -> dict[str, Any]:
        terminals = int(data.transitions.terminated.sum())
        if terminals:
            log.warning(
                "world_model.termination=none, but dataset %s holds %d terminations; imagined "
                "episodes will run through them",
                data.name,
                terminals,
            )
        return {"kind": self.kind, "terminals": terminals}


class LearnedTermination(Termination):
    """A classifier of (obs, action, next_obs), one per seed, with a fixed threshold.

    Terminations are rare, so half of every batch is drawn from them. The classifier then believes
    in even odds; adding the true log odds of the data to its logit gives back the probability
    under the data, and an episode ends where that exceeds one half.

    Data without any termination teach that nothing ends; data of terminations only, that
    everything does. Where the source does not hold the observations that follow a termination,
    the next observation is left out of the input and only (obs, action) decide.

    Args:
        spec, seeds: spaces of the task and S.
        hidden, activation: of each classifier.
        learning_rate: of Adam.
        batch: rows per seed and update, half of them terminations.
        updates: gradient steps.
    """

    kind = "learned"
    obs_mean: Tensor
    obs_std: Tensor
    log_odds: Tensor
    sees_next: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        hidden: Widths,
        activation: ActivationName,
        learning_rate: Positive,
        batch: Annotated[int, Range(2)],
        updates: Count,
    ) -> None:
        super().__init__()
        if batch < 2 or batch % 2 or updates < 1:
            raise Mistake(
                "world_model.terminal_head needs an even batch and at least one update, got "
                f"batch={batch}, updates={updates}"
            )
        self.seeds, self.hidden, self.activation = seeds, list(hidden), activation
        self.learning_rate, self.batch, self.updates = learning_rate, batch, updates
        inputs = 2 * spec.obs_dim + spec.action_dim
        self.network = BatchedMLP((seeds,), inputs, hidden, 1, activation).requires_grad_(False)
        self.register_buffer("obs_mean", torch.zeros(spec.obs_dim))
        self.register_buffer("obs_std", torch.ones(spec.obs_dim))
        self.register_buffer("log_odds", torch.tensor(-torch.inf))
        self.register_buffer("sees_next", torch.tensor(True))

    def reset(self) -> None:
        """Start over with new weights from torch's global generator."""
        for layer in self.network.modules():
            if isinstance(layer, BatchedLinear):
                normal_start_(layer, cut=2.0)

    def logit(
        self,
        obs: Float[Tensor, "S B D"],
        action: Float[Tensor, "S B A"],
        next_obs: Float[Tensor, "S B D"],
    ) -> Float[Tensor, "S B"]:
        """Log odds of an ending where endings and survivals are equally common."""
        after = (next_obs - self.obs_mean) / self.obs_std
        after = torch.where(self.sees_next, after, torch.zeros_like(after))
        before = (obs - self.obs_mean) / self.obs_std
        return self.network(torch.cat([before, action, after], -1)).squeeze(-1)

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        candidates, seeds, rows = next_obs.shape[:-1]

        def by_seed(value: Tensor) -> Tensor:  # [K, S, B, W] -> [S, K * B, W]
            return value.transpose(0, 1).reshape(seeds, candidates * rows, value.shape[-1])

        logit = self.logit(by_seed(obs), by_seed(action), by_seed(next_obs)) + self.log_odds
        return (logit > 0).view(seeds, candidates, rows).transpose(0, 1)

    def fit(self, data: Dataset, rows: Tensor) -> dict[str, Any]:
        """Fit from scratch on the given rows, with torch's global generator.

        Raises:
            Mistake: the classifier of some seed diverged.
        """
        device = self.log_odds.device
        ends = data.transitions.terminated & rows
        known_ends = ends & data.valid_next
        self.sees_next.fill_(bool(known_ends.any()) or not bool(ends.any()))
        usable = rows & data.valid_next if self.sees_next else rows
        seen = data.transitions[usable].to(device)
        ending, going_on = (
            index.flatten() for index in (seen.terminated.nonzero(), (~seen.terminated).nonzero())
        )
        counts = torch.tensor([len(ending), len(going_on)], dtype=torch.float32)
        self.log_odds.copy_(counts[0].log() - counts[1].log())
        described: dict[str, Any] = {
            "kind": self.kind,
            "terminals": len(ending),
            "rows": len(seen.reward),
            "sees_next_obs": bool(self.sees_next),
        }
        if not len(ending) or not len(going_on):
            log.info(
                "dataset %s holds %s: the learned rule says %s",
                data.name,
                "no termination" if not len(ending) else "nothing but terminations",
                "never" if not len(ending) else "always",
            )
            return described | {"precision": None, "recall": None}
        if not self.sees_next:
            log.warning(
                "dataset %s holds no observation that follows a termination; the learned rule "
                "looks at obs and action only",
                data.name,
            )
        everything = torch.arange(len(seen.reward), device=device).unsqueeze(0)
        mean, std = moments(seen.obs, everything)
        self.obs_mean.copy_(mean[0])
        self.obs_std.copy_(std[0])

        # One gather per batch, from rows that lie side by side.
        table = torch.cat([seen.obs, seen.action, seen.next_obs], -1)
        widths = [seen.obs.shape[-1], seen.action.shape[-1], seen.next_obs.shape[-1]]
        label = (torch.arange(self.batch, device=device) < self.batch // 2).float()
        self.reset()
        self.network.requires_grad_(True)
        optimiser = Adam(self.network.parameters(), self.learning_rate).to(device)
        with torch.enable_grad():
            for _ in range(self.updates):
                half = (self.seeds, self.batch // 2)
                drawn = torch.cat(
                    [
                        pool[torch.randint(len(pool), half, device=device)]
                        for pool in (ending, going_on)
                    ],
                    -1,
                )
                logit = self.logit(*table[drawn].split(widths, -1))
                loss = F.binary_cross_entropy_with_logits(
                    logit, label.expand_as(logit), reduction="none"
                )
                optimiser.step(loss.mean(-1))
        self.network.requires_grad_(False)
        broken = [
            seed
            for seed in range(self.seeds)
            if not all(bool(weight[seed].isfinite().all()) for weight in self.network.parameters())
        ]
        if broken:
            raise Mistake(
                f"the learned termination rule of seeds {broken} diverged on dataset {data.name}; "
                "check the data (python -m reverie.datasets.check) or lower "
                "world_model.terminal_head.learning_rate"
            )
        return described | self._score(table, widths, seen.terminated)

    @torch.no_grad()
    def _score(self, table: Tensor, widths: list[int], ended: Tensor) -> dict[str, Any]:
        """Precision and recall on the rows of the fit, per seed; None where undefined."""
        said_parts = []
        for block in table.split(_BLOCK):
            parts = block.expand(1, self.seeds, *block.shape).split(widths, -1)
            said_parts.append(self(*parts)[0])
        said = torch.cat(said_parts, -1)  # [S, N]
        hits = (said & ended).sum(-1).tolist()
        claims = said.sum(-1).tolist()
        return {
            "precision": [
                hit / claim if claim else None for hit, claim in zip(hits, claims, strict=True)
            ],
            "recall": [hit / int(ended.sum()) for hit in hits],
        }

    def signature(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "hidden": self.hidden,
            "activation": self.activation,
            "learning_rate": self.learning_rate,
            "batch": self.batch,
            "updates": self.updates,
        }


def resolve(choice: str, spec: Spec, learned: Callable[[], Termination]) -> Termination:
    """Turn `world_model.termination` into an object.

    Args:
        choice: `known` asks for the task's own rule; `learned` for a classifier; `auto` for the
            rule where there is one and a classifier elsewhere; `none` for no ends at all.
        spec: the task, with its exact environment id.
        learned: builds the classifier.

    Raises:
        Mistake: an unknown choice, or `known` for a task without a rule.
    """
    if choice not in CHOICES:
        raise Mistake(f"world_model.termination={choice!r} is unknown; use one of {CHOICES}")
    if choice == "none":
        return NeverTermination()
    rule = None if choice == "learned" else rule_for_spec(spec)
    if rule is not None:
        return KnownTermination(rule)
    if choice == "known":
        raise Mistake(
            f"no termination rule is known for environment {spec.env_id} with observations of "
            f"size {spec.obs_dim} and options {dict(spec.env_kwargs)}; use "
            "world_model.termination=learned, or none if the task never ends, or add a rule to "
            "envs/termination.py"
        )
    return learned()
