"""A diffusion model of a dataset's records, fitted once and shared by all seeds.

Policy-guided diffusion, arXiv:2404.06356: segments and a temporal U-Net. SynthER, arXiv:2303.06614:
single transitions and a residual MLP. Both are this class with other parts.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.ranges import Count, Decay, NonNegative, Pair, Positive, Share, Whole
from reverie.world_models.base import FitProgress, Fitted, ReadState, WriteState
from reverie.world_models.diffusion.conditioning import bound
from reverie.world_models.diffusion.edm import EDM
from reverie.world_models.diffusion.noise_distributions import NoiseDistribution
from reverie.world_models.diffusion.records import Records, first_rows
from reverie.world_models.diffusion.returns import ReturnCondition
from reverie.world_models.diffusion.sharing import Alone
from reverie.world_models.fitting import held_out_episodes, rows_of
from reverie.world_models.optimiser import WarmupCosine, clip_gradients

PRECISIONS = ("auto", "bfloat16", "float32")


class DiffusionGenerator(Fitted):
    """A denoiser of records; a sampler turns it into new records.

    Args:
        spec: spaces of the task.
        seeds: S; all share one generator.
        seed: of all random numbers of the fit, which depends on nothing else but data and settings.
        records: builds what is modelled, given `spec`.
        network: builds the network, given `event`, the shape of a record.
        noise_distribution: builds the noise distribution of the fit and of initial samples.
        objective: builds the preconditioning and the loss, given `noise_distribution`.
        condition: builds the condition of the records; None for none.
        steps, batch: updates of the fit, records in each.
        learning_rate: peak of Adam's step size, annealed to zero along half a cosine.
        warmup_rate, warmup_fraction: the step size rises from `warmup_rate` to its peak over this
            share of the steps.
        betas: of Adam.
        gradient_norm: gradient clipping by norm; None for none.
        average_rate, average_every: rate of the running average of the weights, which is used for
            sampling, and updates between its steps.
        heldout_fraction: share of the episodes (at most a tenth) held out to evaluate the fit.
        heldout_records: maximum number of their records. As many of the fitted records are kept as
            `examples`, for samplers that measure the denoiser.
        measure_every: updates between evaluations of the fit.
        checkpoint_every: updates between checkpoints of the fit; 0 for none.
        precision: of the network: `bfloat16` (autocast), `float32`, or `auto`, which is bfloat16
            on a GPU. Weights and the arithmetic around the network are in float32.

    Source: the authors' code of both papers. Differs: records are sampled with replacement and
    the fit is counted in updates, not epochs; the held-out loss is over the same noise every time.
    """

    fit_unit = "update"
    examples: Tensor

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: int,
        seed: int,
        records: partial[Records],
        network: partial[nn.Module],
        noise_distribution: partial[NoiseDistribution],
        objective: partial[EDM],
        condition: partial[ReturnCondition] | None,
        steps: Count,
        batch: Count,
        learning_rate: Positive,
        warmup_rate: NonNegative,
        warmup_fraction: Decay,
        betas: Annotated[Sequence[Decay], Pair(ascending=False)],
        gradient_norm: Positive | None,
        average_rate: Share,
        average_every: Count,
        heldout_fraction: Decay,
        heldout_records: Count,
        measure_every: Count,
        checkpoint_every: Whole,
        precision: str,
    ) -> None:
        super().__init__()
        least = {
            "steps": steps,
            "batch": batch,
            "average_every": average_every,
            "heldout_records": heldout_records,
            "measure_every": measure_every,
        }
        for name, value in least.items():
            if value < 1:
                raise Mistake(f"generator.{name} must be at least 1, got {value}")
        if not 0 <= warmup_fraction < 1:
            raise Mistake(f"generator.warmup_fraction must lie in [0, 1), got {warmup_fraction}")
        if precision not in PRECISIONS:
            raise Mistake(
                f"generator.precision={precision!r} is unknown; use one of {list(PRECISIONS)}"
            )
        self.spec, self.seeds, self.seed = spec, seeds, seed
        self.records = records(spec=spec)
        self.condition = None if condition is None else condition()
        numbers = {} if self.condition is None else {"numbers": self.condition.numbers}
        self.noise_distribution = noise_distribution()
        self.objective = objective(noise_distribution=self.noise_distribution)
        event = self.records.event
        self.objective.make_room(event)
        self.build_network = partial(network, event=event, views=self.objective.views, **numbers)
        self.network = self.build_network().requires_grad_(False)
        self.register_buffer("examples", torch.zeros(heldout_records, *event))
        self.steps, self.batch = steps, batch
        self.learning_rate, self.warmup_rate = learning_rate, warmup_rate
        self.warmup_steps = round(warmup_fraction * steps)
        self.betas, self.gradient_norm = tuple(betas), gradient_norm
        self.average_rate, self.average_every = average_rate, average_every
        self.heldout_fraction, self.heldout_records = heldout_fraction, heldout_records
        self.measure_every, self.checkpoint_every = measure_every, checkpoint_every
        self.precision = precision
        self.fit_total = steps
        self._parts = {
            name: {"kind": part.func.__name__, **part.keywords}
            for name, part in (
                ("records", records),
                ("network", network),
                ("noise_distribution", noise_distribution),
                ("objective", objective),
                ("condition", condition),
            )
            if part is not None
        }
        self._wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] = lambda f: f
        self._denoise: Callable[..., Tensor] = self._denoise_rows
        self.share = Alone()
        self._read: ReadState | None = None
        self._write: WriteState | None = None

    def signature(self) -> dict[str, Any]:
        fixed = (
            "seed",
            "steps",
            "batch",
            "learning_rate",
            "warmup_rate",
            "warmup_steps",
            "gradient_norm",
            "average_rate",
            "average_every",
            "heldout_fraction",
            "heldout_records",
            "precision",
        )
        return {
            "model": type(self).__name__,
            "obs_dim": self.spec.obs_dim,
            "action_dim": self.spec.action_dim,
            **self._parts,
            "betas": list(self.betas),
            **{name: getattr(self, name) for name in fixed},
        }

    def compile_update(
        self, wrapper: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
    ) -> None:
        """Pass the training step and, on a GPU, the denoiser through `wrapper`."""
        self._wrap = wrapper
        self._denoise = wrapper(self._denoise_rows)

    def keep_partial_fits(self, read: ReadState, write: WriteState) -> None:
        self._read, self._write = read, write

    def noise(self, *lead: int) -> Float[Tensor, "..."]:
        """Noise of unit scale for records `[*lead, *event]`, as the fit had it."""
        event = self.records.event
        normal = torch.randn(*lead, *event, device=self.records.mean.device)
        return self.noise_distribution.noise(normal, len(event))

    @torch.no_grad()
    def denoise(
        self,
        x: Float[Tensor, "*lead C"],
        sigma: Float[Tensor, "*some"],
        asked: Float[Tensor, "*others N"] | None = None,
        *,
        plain: bool = False,
    ) -> Float[Tensor, "*lead C"]:
        """D(x, sigma), the estimate of the clean records `[*lead, *event]`; a `Denoiser`.

        Args:
            sigma: a scalar, or one for each record or each group of them: leading dimensions of x.
            asked: what the records are asked for, as `condition` scales it; broadcasts against
                the leading dimensions of x. None asks for nothing.
            plain: in float32 and not compiled, so that it can be differentiated.
        """
        event = len(self.records.event)
        lead = x.shape[: x.ndim - event]
        sigma = sigma.reshape(*sigma.shape, *[1] * (len(lead) - sigma.ndim)).expand(lead)
        rows = [x.reshape(-1, *x.shape[len(lead) :]), sigma.reshape(-1)]
        if self.condition is not None:
            if asked is None:
                asked = x.new_full((self.condition.numbers,), math.nan)
            rows.append(asked.expand(*lead, -1).reshape(len(rows[0]), -1))
        elif asked is not None:
            raise Mistake("the generator was fitted without a condition; set condition=returns")
        # On a CPU the compiled denoiser takes five times as long (`benchmarks.speed`, refreshes).
        quick = self._denoise_rows if x.device.type == "cpu" else self._denoise
        denoise = self._denoise_plainly if plain else quick
        estimate = denoise(*rows)
        # A replayed graph writes every result to the same place, and samplers remember some.
        return estimate.clone().view_as(x)

    def _denoise_rows(self, x: Tensor, sigma: Tensor, asked: Tensor | None = None) -> Tensor:
        return self.objective.denoise(self._cast(self.network, asked), x, sigma)

    def _denoise_plainly(self, x: Tensor, sigma: Tensor, asked: Tensor | None = None) -> Tensor:
        return self.objective.denoise(bound(self.network, asked), x, sigma)

    def fit(self, data: Dataset, progress: FitProgress | None = None) -> dict[str, Any]:
        """Fit from scratch, or go on with a killed fit, on a random stream seeded by `seed`.

        Returns:
            Counts of records, `measured_at` updates, and there the loss of the average weights on
            held-out records and the mean loss since the measurement before.

        Raises:
            Mistake: other spaces than the generator's, or no record in the data; the fit diverged.
        """
        self.spec.require_same_spaces(data.spec, "the generator", f"dataset {data.name}")
        self.share.begin(self.batch)
        device = self.records.mean.device
        limit = math.ceil(self.heldout_fraction * len(data.episode_starts))
        held = rows_of(data, held_out_episodes(data, limit, self.seed))
        table = self.records.table(data)
        index = self.records.index(data, ~held)
        if not len(index):
            raise Mistake(
                f"dataset {data.name} holds no record of shape {list(self.records.event)}: its "
                "episodes are too short; lower generator.records.length"
            )
        self.records.normalise_by(table, index)
        heldout = self.records.index(data, held)
        described = {"records": len(index), "heldout_records": len(heldout)}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            table = self.records.encode(table.to(device))
            self.objective.measure(table, index.to(device))
            drawn = torch.randint(len(index), (self.heldout_records,))
            self.examples.copy_(table[index[drawn].to(device)])
            # Data of very few episodes hold none out; the loss is then that of fitted records.
            heldout = heldout if len(heldout) else index
            labels = None
            if self.condition is not None:
                self.condition.scale_by(data, first_rows(index))
                labels = self.condition.labels(data, first_rows(index)).to(device)
            measure = self._measurement(data, table, heldout)
            return described | self._fit(table, index.to(device), labels, measure, progress)

    def _fit(
        self,
        table: Float[Tensor, "R C"],
        index: Tensor,
        labels: Float[Tensor, "W N"] | None,
        measure: Callable[[], float],
        progress: FitProgress | None,
    ) -> dict[str, Any]:
        """All updates, from the last checkpoint if there is one."""
        device = table.device
        network = self.build_network().to(device)
        self.network.load_state_dict(network.state_dict())
        optimiser = WarmupCosine(
            network.parameters(),
            self.learning_rate,
            start=self.warmup_rate,
            warmup=self.warmup_steps,
            steps=self.steps,
            betas=self.betas,
        ).to(device)
        training = nn.ModuleDict({"network": network, "optimiser": optimiser})
        history: dict[str, list[Any]] = {"measured_at": [], "holdout_loss": [], "train_loss": []}
        first = self._resume(training, history)
        called = self.share.wrap(network)

        def step() -> Tensor:
            drawn = torch.randint(len(index), (self.batch,), device=device)
            normal, noise = torch.randn(self.batch, device=device), self.noise(self.batch)
            asked = None
            if self.condition is not None and labels is not None:
                asked = self.share.part(self.condition.drop_some(labels[drawn]))
            clean, normal, noise = map(self.share.part, (table[index[drawn]], normal, noise))
            call = self._cast(called, asked)
            with torch.enable_grad():
                loss = self.objective.loss(call, clean, normal, noise).mean()
                gradients = self.share.gradients(loss, optimiser.targets)
            optimiser.apply_gradients(clip_gradients(gradients, self.gradient_norm))
            return loss.detach()

        update = self._wrap(step)
        weights: list[Tensor] = list(network.parameters())
        average: list[Tensor] = list(self.network.parameters())
        total = torch.zeros((), device=device)
        if progress is not None and first:
            progress(first, history["holdout_loss"][-1])
        for done in range(first + 1, self.steps + 1):
            total += update()
            if done % self.average_every == 0:
                with torch.no_grad():
                    torch._foreach_lerp_(average, weights, self.average_rate)
            if done % self.measure_every == 0 or done == self.steps:
                since = done - (history["measured_at"] or [0])[-1]
                history["measured_at"].append(done)
                history["train_loss"].append(self.share.mean(total).item() / since)
                history["holdout_loss"].append(measure())
                total.zero_()
                self._require_finite(done, history)
                if progress is not None:
                    progress(done, history["holdout_loss"][-1])
                if self.checkpoint_every and self._write is not None and done != self.steps:
                    last = (history["measured_at"][-2:-1] or [0])[0]
                    if done // self.checkpoint_every > last // self.checkpoint_every:
                        self._write(self._state(training, history, done))
        return {**history, "updates": self.steps}

    def _measurement(self, data: Dataset, table: Tensor, index: Tensor) -> Callable[[], float]:
        """The loss of the average weights on some records, with noise of its own.

        Records are asked for what they are.
        """
        own = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(index), generator=own)[: self.heldout_records]
        clean = table[index[chosen].to(table.device)]
        labels = clean.new_empty(len(clean), 0)
        if self.condition is not None:
            labels = self.condition.labels(data, first_rows(index[chosen])).to(clean.device)
        normal = torch.randn(len(clean), generator=own).to(table.device)
        noise = torch.randn(clean.shape, generator=own).to(table.device)
        noise = self.noise_distribution.noise(noise, len(self.records.event))

        @torch.no_grad()
        def measure() -> float:
            parts = zip(*(x.split(self.batch) for x in (labels, clean, normal, noise)), strict=True)
            losses = []
            for asked, *part in parts:
                losses.append(self.objective.loss(self._cast(self.network, asked), *part))
            return torch.cat(losses).mean().item()

        return measure

    def _cast(
        self, network: nn.Module, asked: Float[Tensor, "B N"] | None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The network in the chosen precision, float32 at both ends."""
        network_of = bound(network, asked if self.condition is not None else None)

        def call(x: Tensor, label: Tensor) -> Tensor:
            half = self.precision == "bfloat16" or (
                self.precision == "auto" and x.device.type == "cuda"
            )
            with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
                return network_of(x, label).float()

        return call

    def _require_finite(self, done: int, history: dict[str, list[Any]]) -> None:
        if not math.isfinite(history["train_loss"][-1] + history["holdout_loss"][-1]):
            raise Mistake(
                f"the loss of the generator was not finite by update {done}; check the data "
                "(python -m reverie.datasets.check), or lower generator.learning_rate"
            )

    def _state(self, training: nn.Module, history: dict[str, Any], done: int) -> dict[str, Any]:
        """All that the rest of the fit depends on."""
        device = self.records.mean.device
        random = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        return {
            "done": done,
            "training": training.state_dict(),
            "average": self.network.state_dict(),
            "history": history,
            "random": random,
        }

    def _resume(self, training: nn.Module, history: dict[str, list[Any]]) -> int:
        """Take back what `_state` gave; returns finished updates."""
        state = None if self._read is None else self._read()
        state = self.share.same(state, self.records.mean.device)
        if state is None:
            return 0
        training.load_state_dict(state["training"])
        self.network.load_state_dict(state["average"])
        history.update(state["history"])
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), self.records.mean.device)
        self.fit_first = state["done"]
        return state["done"]
