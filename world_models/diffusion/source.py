"""A generator as a source of transitions: whole windows, drawn towards the current policy."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datasets.transition import Transition, column_names
from world_models.base import Moments, Policy
from world_models.diffusion.generator import DiffusionGenerator
from world_models.diffusion.guidance import Channels, Guidance, Guided
from world_models.diffusion.noise_laws import NoiseLaw
from world_models.diffusion.records import Records
from world_models.diffusion.samplers import Sampler
from world_models.sources import RolloutSource


class GeneratedTransitions(RolloutSource):
    """Samples a fitted generator; the policy's part is to guide it.

    The first refresh is not guided, for the policy has learnt nothing yet; every later one is,
    by the policy as it then is. Seeds draw their own samples from the one generator.

    Args:
        generator: fitted to the dataset.
        seeds: S.
        sampler: turns noise into records.
        guidance: draws them towards the policy; None draws the data's own behaviour.
        records: samples per refresh and seed.
        chunk: samples per seed that are in the works at a time, for the memory they take.
        every: gradient steps between two refreshes; None for one at the start.
        retain: refreshes that the replay holds.

    Source: policy-guided diffusion, arXiv:2404.06356, with windows; SynthER, arXiv:2303.06614,
    with single transitions and without guidance.
    """

    starts = 0
    # A refresh is many calls of the denoiser, which the generator compiles by itself.
    compiles = False

    def __init__(
        self,
        *,
        generator: DiffusionGenerator,
        seeds: int,
        sampler: Sampler,
        guidance: Guidance | None,
        records: int,
        chunk: int,
        every: int | None,
        retain: int,
    ) -> None:
        super().__init__()
        for name, value in (
            ("records", records),
            ("chunk", chunk),
            ("every", 1 if every is None else every),
            ("retain", retain),
        ):
            if value < 1:
                raise ValueError(f"source.{name} must be at least 1, got {value}")
        self.generator, self.seeds = generator, seeds
        self.sampler, self.guidance = sampler, guidance
        require_parts_suit(type(generator.records), generator.noise_law, sampler, guidance)
        self.records, self.chunk = records, chunk
        self.every = sys.maxsize if every is None else every
        self.capacity = records * generator.records.transitions * retain
        self.refreshes = 0
        self.moments: Moments | None = None
        self._prepared = False
        self._distance: Tensor | None = None

    def attach(self, moments: Moments) -> None:
        self.moments = moments

    @torch.no_grad()
    def generate(
        self, policy: Policy, starts: Float[Tensor, "S B D"]
    ) -> tuple[Transition, Bool[Tensor, "S M"]]:
        self._prepare()
        denoiser, nudge = self._guided()
        parts, kept = [], []
        for begun in range(0, self.records, self.chunk):
            count = min(self.chunk, self.records - begun)
            samples = self.sampler.sample(denoiser, self.generator.noise(self.seeds, count), nudge)
            rows, keep = self.generator.records.decode(samples)
            finite = samples.isfinite().flatten(2).all(-1, keepdim=True)
            parts.append(rows)
            kept.append(keep & finite)
        rows = Transition(
            *(
                torch.cat([getattr(part, name) for part in parts], 1).flatten(1, 2)
                for name in column_names(Transition)
            )
        )
        keep = torch.cat(kept, 1).flatten(1, 2)
        self.refreshes += 1
        self._distance = self._distance_to_policy(rows, keep)
        return rows, keep

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
        if self.guidance is None or not self.refreshes:
            return Guided(self.generator.denoise)
        if self.moments is None:
            raise RuntimeError("guidance needs a policy; attach its moments before a refresh")
        records = self.generator.records
        channels = Channels(records.obs, records.action, records.mean, records.std)
        return self.guidance.guide(self.generator.denoise, self.moments, channels)

    def _distance_to_policy(self, rows: Transition, keep: Tensor) -> Tensor | None:
        """Root mean square distance of the actions in [-1, 1] from the policy's mean."""
        if self.guidance is None or self.moments is None:
            return None
        # As many at a time as guidance shows the policy, for the memory that its network takes.
        pieces = rows.obs.split(self.chunk * self.generator.records.transitions, 1)
        mean = torch.cat([self.moments(obs)[0] for obs in pieces], 1)
        square = (rows.action - mean).square().mean(-1)
        return (torch.where(keep, square, 0.0).sum(1) / keep.sum(1).clamp(min=1)).sqrt()

    def measured(self) -> dict[str, Float[Tensor, " S"]]:
        """How far the latest actions are from those of the policy; guidance brings them closer."""
        return {} if self._distance is None else {"policy_distance": self._distance}

    def contents(self) -> dict[str, Any]:
        return {"refreshes": self.refreshes}

    def restore(self, contents: Mapping[str, Any]) -> None:
        self.refreshes = contents["refreshes"]


def require_parts_suit(
    records: type[Records], noise_law: NoiseLaw, sampler: Sampler, guidance: Guidance | None
) -> None:
    """Refuse parts that cannot work together; none of them need be fitted.

    Raises:
        ValueError: guidance of records without unsquashed actions, or towards a clone that nobody
            fits; a sampler that adds Gaussian noise to another law, or that cannot be nudged.
    """
    law = type(noise_law).__name__
    if not noise_law.gaussian and sampler.stochastic:
        raise ValueError(
            f"the sampler adds Gaussian noise on its way, but the generator's noise law is {law}; "
            "choose one that adds none, for example sampler=dpm_solver_2m, or noise_law=log_normal"
        )
    if not noise_law.gaussian and sampler.measures:
        raise ValueError(
            "the sampler measures the denoiser on Gaussian noise, but the generator's noise law "
            f"is {law}; set sampler.measured=false, or noise_law=log_normal"
        )
    if guidance is None:
        return
    if not records.squashed:
        raise ValueError(
            "guidance works on windows, whose actions are unsquashed; set guidance=none or "
            "generator=trajectory"
        )
    if guidance.needs_behaviour:
        raise ValueError(
            "guidance.behaviour_ratio needs a clone of the behaviour policy, which no source fits "
            "yet; set it to 0"
        )
    if guidance.nudges and not sampler.takes_nudges:
        raise ValueError(
            "sampler.corrector would take back what guidance by nudges does; set it to false, or "
            "use guidance=policy"
        )
