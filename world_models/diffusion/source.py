"""A generator as a source of transitions: whole segments, guided towards the current policy."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reverie.datasets.transition import Transition, column_names
from reverie.mistake import Mistake
from reverie.ranges import Count
from reverie.world_models.base import Critics, Moments, Policy
from reverie.world_models.diffusion.behaviour import BehaviourClone
from reverie.world_models.diffusion.conditioning import holding
from reverie.world_models.diffusion.generator import DiffusionGenerator
from reverie.world_models.diffusion.guidance import Guidance, Guided
from reverie.world_models.diffusion.parts import guide, require_parts_suit
from reverie.world_models.diffusion.samplers import Sampler
from reverie.world_models.diffusion.warm_start import WarmStart
from reverie.world_models.sources import RolloutSource


class GeneratedTransitions(RolloutSource):
    """Samples a fitted generator, guided by the policy.

    The first round is not guided if the guidance needs the agent, which is untrained then; later
    rounds are guided by the current agent. Each seed samples its own records from the shared
    generator.

    Args:
        generator: fitted to the dataset.
        seeds: S.
        sampler: turns noise into records.
        guidance: of the samples; None for none.
        behaviour: a clone of the behaviour policy, for guidance that needs one.
        warm_start: starts new records from those of the previous round, in fewer steps; None starts
            all of them from noise.
        records: samples per rollout round and seed.
        chunk: samples per seed at a time, which limits memory.
        every: gradient steps between rounds; None for one at the start.
        retain: rollout rounds that the replay holds.

    Source: policy-guided diffusion, arXiv:2404.06356, with segments; SynthER, arXiv:2303.06614,
    with single transitions and without guidance.
    """

    starts = 0
    # A rollout round is many calls of the denoiser, which the generator compiles by itself.
    compiles = False

    def __init__(
        self,
        *,
        generator: DiffusionGenerator,
        seeds: int,
        sampler: Sampler,
        guidance: Guidance | None,
        behaviour: BehaviourClone | None,
        warm_start: WarmStart | None,
        records: Count,
        chunk: Count,
        every: Count | None,
        retain: Count,
    ) -> None:
        super().__init__()
        for name, value in (
            ("records", records),
            ("chunk", chunk),
            ("every", 1 if every is None else every),
            ("retain", retain),
        ):
            if value < 1:
                raise Mistake(f"source.{name} must be at least 1, got {value}")
        self.generator, self.seeds = generator, seeds
        self.sampler, self.guidance = sampler, guidance
        self.behaviour, self.warm_start = behaviour, warm_start
        require_parts_suit(
            type(generator.records),
            generator.noise_distribution,
            sampler,
            guidance,
            conditioned=generator.condition is not None,
            cloned=behaviour is not None,
            warm_start=warm_start,
        )
        self.records, self.chunk = records, chunk
        self.every = sys.maxsize if every is None else every
        self.capacity = records * generator.records.transitions * retain
        self.rounds = 0
        self.moments: Moments | None = None
        self.critics: Critics | None = None
        self.latest: Tensor | None = None
        self._prepared = False
        self._distance: Tensor | None = None

    def attach(self, moments: Moments, critics: Critics | None = None) -> None:
        self.moments, self.critics = moments, critics

    @torch.no_grad()
    def generate(
        self, policy: Policy, starts: Float[Tensor, "S B D"]
    ) -> tuple[Transition, Bool[Tensor, "S M"]]:
        self._prepare()
        guided = self._guided()
        self.sampler.attach(guided.value)
        parts, kept, drawn = [], [], []
        for begun in range(0, self.records, self.chunk):
            count = min(self.chunk, self.records - begun)
            samples = self._draw(guided, begun, count)
            rows, keep = self.generator.records.decode(samples)
            finite = samples.isfinite().flatten(2).all(-1, keepdim=True)
            parts.append(rows)
            kept.append(keep & finite)
            drawn.append(samples)
        if self.warm_start is not None:
            latest = torch.cat(drawn, 1)
            self.latest = torch.where(latest.isfinite(), latest, 0.0)
        rows = Transition(
            *(
                torch.cat([getattr(part, name) for part in parts], 1).flatten(1, 2)
                for name in column_names(Transition)
            )
        )
        keep = torch.cat(kept, 1).flatten(1, 2)
        self.rounds += 1
        self._distance = self._distance_to_policy(rows, keep)
        return rows, keep

    def _draw(self, guided: Guided, begun: int, count: int) -> Float[Tensor, "S B ..."]:
        """Some of the records of a rollout round: anew, or from those that were there before.

        Exogenous observations are those of records that were fitted, or of those before.
        """
        before = None
        if self.warm_start is not None and self.latest is not None:
            before = self.latest[:, begun : begun + count]
        denoiser, exogenous = guided.denoiser, self.generator.records.exogenous
        if exogenous:
            examples = self.generator.examples
            drawn = torch.randint(len(examples), (self.seeds, count), device=examples.device)
            known = examples[drawn] if before is None else before
            mask = torch.zeros(known.shape[-1], dtype=torch.bool, device=known.device)
            mask[exogenous] = True
            denoiser = holding(denoiser, known, mask)
        if before is None or self.warm_start is None:
            noise = self.generator.noise(self.seeds, count)
            samples = self.sampler.sample(denoiser, noise, guided.nudge)
        else:
            samples = self.warm_start.sample(self.sampler, denoiser, before, guided.nudge)
        # Guidance may have pushed them.
        return torch.where(mask, known, samples) if exogenous else samples

    def _prepare(self) -> None:
        """Let the sampler measure the denoiser once, on a random stream of its own."""
        if self._prepared:
            return
        clean = self.generator.examples
        devices = [clean.device] if clean.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.generator.seed)
            self.sampler.prepare(
                partial(self.generator.denoise, plain=True),
                clean,
                event_dims=len(self.generator.records.event),
            )
        self._prepared = True

    def _guided(self) -> Guided:
        if self.guidance is None or (self.guidance.needs_agent and not self.rounds):
            return Guided(self.generator.denoise)
        if self.moments is None:
            raise RuntimeError("guidance needs a policy; attach its moments before a rollout round")
        return guide(self.generator, self.guidance, self.moments, self.critics, self.behaviour)

    def _distance_to_policy(self, rows: Transition, keep: Tensor) -> Tensor | None:
        """Root mean square distance of the actions in [-1, 1] from the policy's mean."""
        if self.guidance is None or not self.guidance.follows_policy or self.moments is None:
            return None
        # As many at a time as guidance shows the policy, for the memory that its network takes.
        pieces = rows.obs.split(self.chunk * self.generator.records.transitions, 1)
        mean = torch.cat([self.moments(obs)[0] for obs in pieces], 1)
        square = (rows.action - mean).square().mean(-1)
        return (torch.where(keep, square, 0.0).sum(1) / keep.sum(1).clamp(min=1)).sqrt()

    def metrics(self) -> dict[str, Float[Tensor, " S"]]:
        """How far the latest actions are from those of the policy; guidance brings them closer."""
        return {} if self._distance is None else {"policy_distance": self._distance}

    def contents(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "latest": self.latest}

    def restore(self, contents: Mapping[str, Any]) -> None:
        self.rounds, self.latest = contents["rounds"], contents.get("latest")
