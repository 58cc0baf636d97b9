"""Data and stopping of a fit: which transitions, in which order, until when.

Held-out episodes, the random holdout, bootstrap indices, input statistics and early stopping, all
for S seeds at once. All random numbers have fixed shapes, so those of one seed never depend on
another seed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reverie.datasets.dataset import Dataset
from reverie.mistake import Mistake
from reverie.world_models.base import FitProgress, ReadState, WriteState

AUTO = "auto"
AUTO_UPDATES = 10_000
"""Updates after which max_epochs=auto ends a fit: some minutes on two cores."""

# Rows gathered at a time when statistics are accumulated in float64.
_BLOCK = 16_384
_STOPPING = ("best", "stale", "active", "epochs", "failed")


def held_out_episodes(data: Dataset, limit: int, seed: int) -> Int[Tensor, " P"]:
    """Episodes that a fit never sees: min(limit, a tenth of all), ascending, drawn by `seed` alone.

    A pure function of its arguments, so whoever measures a fitted model finds the same episodes.
    Those that were made of one recorded episode share its steps, so that they count as one.
    """
    made_of = data.recorded_episodes
    episodes = data.episode_starts.shape[0] if made_of is None else int(made_of[-1]) + 1
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(episodes, generator=generator)[: min(limit, episodes // 10)]
    if made_of is not None:
        return torch.isin(made_of, drawn).nonzero()[:, 0]
    return drawn.sort().values


def rows_of(data: Dataset, episodes: Int[Tensor, " P"]) -> Bool[Tensor, " N"]:
    """Which rows of the dataset belong to the given episodes."""
    chosen = torch.zeros(data.episode_starts.shape[0], dtype=torch.bool)
    chosen[episodes] = True
    return chosen.repeat_interleave(data.episode_lengths)


def uninterrupted(data: Dataset) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """First and last row of the piece that each row belongs to; terminations end one as well."""
    ends = data.transitions.terminated.clone()
    ends[data.episode_starts + data.episode_lengths - 1] = True
    position = torch.arange(len(ends))
    last = ends.nonzero().flatten()
    piece = torch.searchsorted(last, position)
    first = torch.cat([position[:1], position[1:][ends[:-1]]])
    return first[piece], last[piece]


def split(
    rows: Int[Tensor, "S N"], holdout: int
) -> tuple[Int[Tensor, "S train"], Int[Tensor, "S holdout"]]:
    """Cut each seed's rows at random into a training part and a holdout of the given size."""
    order = torch.rand(rows.shape, device=rows.device).argsort(-1)
    shuffled = rows.gather(-1, order)
    return shuffled[:, holdout:], shuffled[:, :holdout]


def bootstrap(rows: Int[Tensor, "S N"], members: int) -> Int[Tensor, "S E N"]:
    """N draws with replacement from each seed's rows, for every member its own."""
    seeds, count = rows.shape
    drawn = torch.randint(count, (seeds, members, count), device=rows.device)
    return rows.unsqueeze(1).expand(seeds, members, count).gather(-1, drawn)


def shuffle(rows: Int[Tensor, "S E N"]) -> Int[Tensor, "S E N"]:
    """Each row in a new random order of its own; what it holds does not change."""
    return rows.gather(-1, torch.rand(rows.shape, device=rows.device).argsort(-1))


def moments(
    values: Float[Tensor, "R W"], rows: Int[Tensor, "S N"]
) -> tuple[Float[Tensor, "S W"], Float[Tensor, "S W"]]:
    """Mean and population standard deviation over each seed's rows; a std below 1e-12 becomes 1.

    Accumulated in float64 relative to each seed's first row, so that a constant column has
    exactly zero variance however large it is.
    """
    origin = values[rows[:, 0]].double().unsqueeze(1)  # [S, 1, W]
    total = torch.zeros_like(origin[:, 0])
    squares = torch.zeros_like(total)
    for block in rows.split(_BLOCK, dim=1):
        shifted = values[block].double() - origin
        total += shifted.sum(1)
        squares += shifted.square().sum(1)
    count = rows.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std = torch.where(std < 1e-12, torch.ones_like(std), std)
    return (mean + origin[:, 0]).to(values.dtype), std.to(values.dtype)


@dataclass
class EarlyStopping:
    """Per-member best holdout losses and a patience counter per seed.

    Member e improves when its loss falls by more than the share `improvement` of its best. A seed
    stops when none of its members improved for `patience` epochs in a row, and is then ignored.

    Attributes:
        best: `[S, E]` lowest accepted loss, infinite before the first.
        stale: `[S]` epochs since some member of the seed improved.
        active: `[S]` bool; still fitting.
        epochs: `[S]` epochs of the fit of each seed.
        failed: `[S]` first epoch whose loss was not finite, 0 while there is none.

    Source: MBPO's model fitting, arXiv:1906.08253. Differs: the best loss starts at infinity, not
    at 1e10, so data in very large units improve too.
    """

    best: Float[Tensor, "S E"]
    stale: Int[Tensor, " S"]
    active: Bool[Tensor, " S"]
    epochs: Int[Tensor, " S"]
    failed: Int[Tensor, " S"]
    improvement: float
    patience: int

    @classmethod
    def start(
        cls,
        seeds: int,
        members: int,
        *,
        improvement: float,
        patience: int,
        device: torch.device | str = "cpu",
    ) -> "EarlyStopping":
        counter = torch.zeros(seeds, dtype=torch.int64, device=device)
        return cls(
            best=torch.full((seeds, members), float("inf"), device=device),
            stale=counter,
            active=torch.ones(seeds, dtype=torch.bool, device=device),
            epochs=counter,
            failed=counter,
            improvement=improvement,
            patience=patience,
        )

    def observe(self, loss: Float[Tensor, "S E"]) -> Bool[Tensor, "S E"]:
        """Take in the losses of one more epoch and say which members have a new best."""
        self.epochs = self.epochs + self.active.long()
        broken = self.active & (self.failed == 0) & ~loss.isfinite().all(-1)
        self.failed = torch.where(broken, self.epochs, self.failed)
        # A loss that is not a number compares as false and so never improves.
        improved = (loss < self.best * (1 - self.improvement)) & self.active.unsqueeze(-1)
        self.best = torch.where(improved, loss, self.best)
        stale = torch.where(improved.any(-1), torch.zeros_like(self.stale), self.stale + 1)
        self.stale = torch.where(self.active, stale, self.stale)
        self.active = self.active & (self.stale < self.patience)
        return improved

    def require_finite(self, remedy: str) -> None:
        """Refuse a fit that diverged.

        Raises:
            Mistake: names seeds and epochs.
        """
        failed = {seed: epoch for seed, epoch in enumerate(self.failed.tolist()) if epoch}
        if failed:
            raise Mistake(
                "the holdout error of the world model was not finite: "
                + ", ".join(f"seed {seed} at epoch {epoch}" for seed, epoch in failed.items())
                + f"; check the data (python -m reverie.datasets.check), {remedy}"
            )


@runtime_checkable
class Trained(Protocol):
    """Networks of which each member keeps its own best weights."""

    def snapshot(self) -> list[Tensor]:
        """A copy of all trained tensors."""
        ...

    def merge(
        self, kept: Sequence[Tensor], improved: Bool[Tensor, "S E"], running: Bool[Tensor, " S"]
    ) -> list[Tensor]:
        """A snapshot with the present weights of `improved` members."""
        ...

    def restore(self, kept: Sequence[Tensor]) -> None:
        """Put a snapshot in place."""
        ...


class Weights:
    """`Trained` by parameters `[S, E, ...]`, or `[S, ...]` of one member a seed."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """All trained tensors."""
        raise NotImplementedError

    def snapshot(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters()]

    def merge(
        self, kept: Sequence[Tensor], improved: Bool[Tensor, "S E"], running: Bool[Tensor, " S"]
    ) -> list[Tensor]:
        return [
            torch.where(improved.view(*improved.shape, *[1] * (now.ndim - 2)), now.detach(), then)
            for now, then in zip(self.parameters(), kept, strict=True)
        ]

    @torch.no_grad()
    def restore(self, kept: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters(), kept, strict=True):
            parameter.copy_(value)


@dataclass
class Unfinished:
    """Where a fit leaves its state now and then, from which a killed one goes on.

    Attributes:
        every: epochs between two calls of `write`, 0 for none.
        read, write: of the state of a killed fit, None for nowhere.
        contents, restore: of what the state holds beside the course of the fit.
        first: epochs that the killed fit had done.
    """

    every: int
    read: ReadState | None
    write: WriteState | None
    contents: Callable[[], Mapping[str, Any]] = dict
    restore: Callable[[Mapping[str, Any]], object] = dict
    first: int = 0

    def holding(
        self,
        contents: Callable[[], Mapping[str, Any]],
        restore: Callable[[Mapping[str, Any]], object],
    ) -> "Unfinished":
        """The same, of a fit that says what else belongs to its state."""
        self.contents, self.restore = contents, restore
        return self

    def resume(self, stopping: "EarlyStopping") -> tuple[list[Tensor], list[Tensor]] | None:
        """Put back what a killed fit left; gives its best weights and its errors so far."""
        state = None if self.read is None else self.read()
        if state is None:
            return None
        self.restore(state)
        for name in _STOPPING:
            setattr(stopping, name, state["stopping"][name])
        _restore_random(state["random"], stopping.best.device)
        self.first = len(state["losses"])
        return list(state["best"]), list(state["losses"])

    def leave(
        self, stopping: "EarlyStopping", best: Sequence[Tensor], losses: Sequence[Tensor]
    ) -> None:
        """Write after an epoch, if it is time."""
        if self.write is None or not self.every or len(losses) % self.every:
            return
        self.write(
            {
                **self.contents(),
                "stopping": {name: getattr(stopping, name) for name in _STOPPING},
                "best": list(best),
                "losses": list(losses),
                "random": _random_state(stopping.best.device),
            }
        )


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _restore_random(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def patience_of(epochs: int, least_updates: int, updates: int) -> int:
    """Epochs, of so many updates each, without improvement before a fit stops.

    Args:
        epochs: at least.
        least_updates: that must pass without improvement, too.
    """
    return max(epochs, -(-least_updates // updates))


def most_epochs(max_epochs: int | Literal["auto"] | None, updates: int) -> int | None:
    """The cap on epochs of so many updates; auto as many as take `AUTO_UPDATES`."""
    return max(1, AUTO_UPDATES // updates) if isinstance(max_epochs, str) else max_epochs


def run_epochs(
    members: Trained,
    stopping: EarlyStopping,
    epoch: Callable[[], object],
    measure: Callable[[], Float[Tensor, "S E"]],
    *,
    cap: int | None,
    progress: FitProgress | None,
    unfinished: Unfinished | None = None,
) -> Float[Tensor, "epochs S"]:
    """Train until every seed has stopped, put the best weights in place, return the errors.

    Args:
        epoch: trains for one.
        measure: the error that stops and selects, of every member.
        cap: most epochs, None for no cap.
        progress: told epoch and mean error of those still fitting.
        unfinished: where the fit leaves its state, and goes on from; None for nowhere.
    """
    best = members.snapshot()
    losses: list[Tensor] = []
    left = None if unfinished is None else unfinished.resume(stopping)
    if left is not None:
        best, losses = left
        if progress is not None:
            progress(len(losses), losses[-1].mean().item())
    while bool(stopping.active.any()) and len(losses) != cap:
        epoch()
        loss = measure()
        running = stopping.active
        improved = stopping.observe(loss)
        best = members.merge(best, improved, running)
        losses.append(loss.mean(-1))
        if progress is not None:
            progress(len(losses), losses[-1][running].nanmean().item())
        if unfinished is not None:
            unfinished.leave(stopping, best, losses)
    members.restore(best)
    return torch.stack(losses).cpu()


def described(stopping: EarlyStopping, losses: Float[Tensor, "epochs S"]) -> dict[str, Any]:
    """What a fit says of its course, per seed."""
    epochs = stopping.epochs.tolist()
    return {
        "epochs": epochs,
        "holdout_loss": [losses[:last, seed].tolist() for seed, last in enumerate(epochs)],
        "best_loss": stopping.best.tolist(),
    }
