"""Receding-horizon planning with segments that begin at the current observation.

Diffuser, arXiv:2205.09991, and Decision Diffuser, arXiv:2211.15657: plan, act, plan again.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from reverie.mistake import Mistake
from reverie.ranges import Count
from reverie.world_models.base import Critics, Moments
from reverie.world_models.diffusion.conditioning import holding
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.guidance import Guidance, Guided
from reverie.world_models.diffusion.parts import guide, require_parts_suit
from reverie.world_models.diffusion.samplers import Sampler
from reverie.world_models.diffusion.warm_start import WarmStart, moved_on


class Planner:
    """A policy that executes the first actions of a sampled segment, in all episodes side by side.

    Args:
        generator: of segments, fitted.
        sampler: samples the first plan of an episode, and every other one without `warm_start`.
        guidance: of the plans; None samples plans like the data.
        moments, critics: of the agent, for `guidance`.
        warm_start: samples the next plan from the last one, shifted by the executed actions.
        execute: actions executed before replanning.

    Source: the two papers above; warm starts: RTI-DP, arXiv:2508.05396. Differs from the second:
    actions are those of the segment, not those of an inverse model of the dynamics.
    """

    def __init__(
        self,
        *,
        generator: DiffusionGenerator,
        sampler: Sampler,
        guidance: Guidance | None,
        moments: Moments,
        critics: Critics | None,
        warm_start: WarmStart | None,
        execute: Count,
    ) -> None:
        records = generator.records
        if not 1 <= execute <= records.transitions:
            raise Mistake(
                f"planner.execute={execute} must lie between 1 and the {records.transitions} "
                "transitions of a segment"
            )
        if not records.squashed:
            raise Mistake(
                "a plan is a segment, and the generator of this run makes single transitions; "
                "train with generator=trajectory"
            )
        require_parts_suit(
            type(records),
            generator.noise_distribution,
            sampler,
            guidance,
            conditioned=generator.condition is not None,
            # Without noise of its own it suits any distribution, and a plan may lose its spread.
            warm_start=warm_start if warm_start is not None and warm_start.noisy else None,
        )
        self.generator, self.sampler, self.warm_start = generator, sampler, warm_start
        self.execute = execute
        sampler.prepare(
            partial(generator.denoise, plain=True), generator.examples, len(records.event)
        )
        self.guided = Guided(generator.denoise)
        if guidance is not None:
            self.guided = guide(generator, guidance, moments, critics, None)
        sampler.attach(self.guided.value)
        self.restart()

    def restart(self) -> "Planner":
        """Forget the plan: what follows are other episodes."""
        self.plan: Tensor | None = None
        self.played = 0
        return self

    @torch.no_grad()
    def __call__(self, obs: Float[Tensor, "S P D"]) -> Float[Tensor, "S P A"]:
        """Actions in [-1, 1] for the observations of S seeds and P episodes, on the host.

        All of them are at the same step of their episodes; call `restart` before new ones.
        """
        records = self.generator.records
        if self.plan is None or self.played == self.execute:
            self.plan = self._next_plan(obs.to(records.mean.device))
            self.actions, self.played = records.decode(self.plan)[0].action.cpu(), 0
        self.played += 1
        return self.actions[..., self.played - 1, :]

    def _next_plan(self, obs: Float[Tensor, "S P D"]) -> Float[Tensor, "S P L C"]:
        records = self.generator.records
        known = torch.zeros(*obs.shape[:-1], *records.event, device=obs.device)
        known[..., 0, records.obs] = (obs - records.mean[records.obs]) / records.std[records.obs]
        mask = torch.zeros(records.event, dtype=torch.bool, device=obs.device)
        mask[0, records.obs] = True
        if records.exogenous:
            present = known[..., :1, records.exogenous]
            known[..., records.exogenous] = present  # nobody knows what comes
            mask[:, records.exogenous] = True
        denoiser = holding(self.guided.denoiser, known, mask)
        if self.plan is None or self.warm_start is None:
            # The observation stands there from the start, without noise.
            noise = self.generator.noise(*obs.shape[:-1])
            noise = torch.where(mask, known / self.sampler.sigma_max, noise)
            return self.sampler.sample(denoiser, noise, self.guided.nudge)
        guess = torch.where(mask, known, moved_on(self.plan, self.played))
        return self.warm_start.sample(self.sampler, denoiser, guess, self.guided.nudge)
