"""Windows of consecutive steps, and how a recurrent network is fitted to windows of all lengths.

ADMPO, arXiv:2405.17031.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reverie.datasets.dataset import Dataset
from reverie.world_models.base import FitProgress
from reverie.world_models.fitting import (
    EarlyStopping,
    Unfinished,
    described,
    moments,
    most_epochs,
    run_epochs,
    uninterrupted,
)
from reverie.world_models.optimiser import Adam
from reverie.world_models.recurrent import RecurrentGaussian

Batch = tuple[Tensor, Tensor, Tensor]
"""Of windows: first state `[L, B, D]`, what drove each step `[L, B, k, F]`, target `[L, B, Y]`."""


@dataclass(frozen=True)
class Windows:
    """Rows at which stretches of consecutive steps begin, those with the longest first.

    Attributes:
        starts: `[N]` rows of the dataset with at least one step behind them.
        counts: by length k = 1, ..., m: the first so many of them have k steps or more.
    """

    starts: Int[Tensor, " N"]
    counts: list[int]


def room_of(data: Dataset, rows: Bool[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Steps of the longest window that begins at each row and holds nothing but these rows.

    Every row of a window has a known next observation and all lie in one episode, in which a
    termination is at most the last.
    """
    _, last = uninterrupted(data)
    position = torch.arange(len(last))
    blocked = torch.cat(
        [(~(rows & data.valid_next)).nonzero().flatten(), torch.tensor([len(last)])]
    )
    return torch.minimum(last + 1, blocked[torch.searchsorted(blocked, position)]) - position


def windows(data: Dataset, rows: Bool[Tensor, " N"], longest: int) -> Windows:
    """All windows of 1 to m = `longest` steps that hold nothing but these rows; see `room_of`."""
    room = room_of(data, rows)
    order = room.argsort(descending=True, stable=True)
    counts = [int((room >= length).sum()) for length in range(1, longest + 1)]
    return Windows(order[: counts[0]], counts)


def holdout_rows(
    data: Dataset, seen: Bool[Tensor, " N"], fraction: float, seed: int, most: int | None = None
) -> Bool[Tensor, " N"]:
    """Those of the `seen` rows that only measure a fit: of whole episodes, drawn by `seed` alone.

    Episodes that were made of one recorded episode share its steps and count as one. Of a single
    one its end measures the fit. `most` limits the episodes.
    """
    made_of = data.recorded_episodes
    made_of = torch.arange(len(data.episode_starts)) if made_of is None else made_of
    of_row = made_of.repeat_interleave(data.episode_lengths)
    episodes = of_row[seen].unique()
    if len(episodes) == 1:
        rows = seen.nonzero().flatten()
        chosen = torch.zeros_like(seen)
        chosen[rows[-max(1, round(fraction * len(rows))) :]] = True
        return chosen
    generator = torch.Generator().manual_seed(seed)
    count = max(1, min(round(fraction * len(episodes)), len(episodes) if most is None else most))
    drawn = torch.randperm(len(episodes), generator=generator)[:count]
    return seen & torch.isin(of_row, episodes[drawn])


class WindowTable:
    """The rows of a dataset, from which windows are cut."""

    def __init__(self, data: Dataset, device: torch.device, exogenous: Tensor) -> None:
        rows = data.transitions.to(device)
        self.obs, self.next_obs = rows.obs, rows.next_obs
        self.reward = rows.reward.unsqueeze(-1)
        self.driving = torch.cat([rows.action, rows.obs.index_select(-1, exogenous)], -1)

    def target(self, starts: Int[Tensor, "*lead"], k: int) -> Float[Tensor, "*lead Y"]:
        """(s_{t+1} - s_{t-k+1}, r_t) of windows of k steps that begin at these rows."""
        last = starts + k - 1
        return torch.cat([self.next_obs[last] - self.obs[starts], self.reward[last]], -1)

    def batch(self, starts: Int[Tensor, "*lead"], k: int) -> Batch:
        """Windows of k steps that begin at these rows."""
        starts = starts.to(self.obs.device)
        steps = starts.unsqueeze(-1) + torch.arange(k, device=starts.device)
        return self.obs[starts], self.driving[steps], self.target(starts, k)

    def statistics(self, train: Windows) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Mean and std of inputs, over rows, and of targets, over all windows and lengths alike."""
        starts = train.starts.to(self.obs.device)
        inputs = torch.cat([self.obs, self.driving], -1)
        mean, std = moments(inputs, starts.unsqueeze(0))
        found = []
        for k, count in enumerate(train.counts, 1):
            target = self.target(starts[:count], k)
            everything = torch.arange(count, device=starts.device).unsqueeze(0)
            found.append([each[0].double() for each in moments(target, everything)])
        means, stds = (torch.stack(each) for each in zip(*found, strict=True))
        # A column that is constant has std 1 for every k, and so here.
        pooled = (stds.square().mean(0) + means.var(0, correction=0)).sqrt()
        return (mean[0], std[0]), (means.mean(0), pooled)


def sequence_of(
    obs: Float[Tensor, "L B D"], driving: Float[Tensor, "L B k F"]
) -> list[Float[Tensor, "L B X"]]:
    """What the network reads of a window: its first state at every step, and what drove each."""
    return [torch.cat([obs, each], -1) for each in driving.unbind(-2)]


@dataclass(frozen=True, kw_only=True)
class WindowFit:
    """How networks are fitted to windows whose length is drawn for every minibatch.

    Attributes:
        batch, learning_rate: windows per update, of Adam.
        improvement, patience: see `EarlyStopping`.
        max_epochs: cap on epochs, None for none; auto caps the updates at
            `fitting.AUTO_UPDATES`.
        wrap: what the training step is passed through, once for every length.
        unfinished: where the fit leaves its state.
    """

    batch: int
    learning_rate: float
    improvement: float
    patience: int
    max_epochs: int | Literal["auto"] | None
    wrap: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
    unfinished: Unfinished

    def run(
        self,
        network: RecurrentGaussian,
        table: WindowTable,
        train: Windows,
        tests: Sequence[Batch],
        progress: FitProgress | None,
    ) -> dict[str, Any]:
        """Train until all L networks have stopped, and put their best weights in place.

        Draws from torch's global generators, in fixed shapes: no network depends on another.

        Args:
            tests: windows of the holdout, by their length.

        Returns:
            Rows and updates; per network epochs, holdout error by epoch and the best of it.

        Raises:
            Mistake: a holdout error was not finite; names seeds and epochs.
        """
        lanes, device = network.low.shape[0], network.low.device
        longest = len(train.counts)
        optimiser = Adam(network.parameters(), self.learning_rate).to(device)
        stopping = EarlyStopping.start(
            lanes, 1, improvement=self.improvement, patience=self.patience, device=device
        )

        def step(obs: Tensor, driving: Tensor, target: Tensor) -> Tensor:
            return network.update(optimiser, sequence_of(obs, driving), target)

        updates = [self.wrap(step) for _ in train.counts]
        per_epoch = max(1, train.counts[0] // self.batch) * longest
        starts = train.starts.to(device)

        def epoch() -> None:
            for _ in range(per_epoch):
                k = int(torch.randint(1, longest + 1, ()))
                drawn = torch.randint(train.counts[k - 1], (lanes, self.batch), device=device)
                updates[k - 1](*table.batch(starts[drawn], k))

        def contents() -> dict[str, Any]:
            return {"network": network.state_dict(), "optimiser": optimiser.state_dict()}

        def restore(state: Mapping[str, Any]) -> None:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])

        losses = run_epochs(
            network,
            stopping,
            epoch,
            lambda: holdout_errors(network, tests).mean(-1, keepdim=True),
            cap=most_epochs(self.max_epochs, per_epoch),
            progress=progress,
            unfinished=self.unfinished.holding(contents, restore),
        )
        stopping.require_finite("or lower world_model.learning_rate")
        said = described(stopping, losses)
        return {
            "rows": train.counts[0],
            "updates": len(losses) * per_epoch,
            **said,
            "best_loss": stopping.best.squeeze(-1).tolist(),
        }


def holdout_errors(
    network: RecurrentGaussian, tests: Sequence[Batch]
) -> Float[Tensor, "L lengths"]:
    """Mean squared error by length of window, in variances of the targets."""
    lanes = network.low.shape[0]
    found = []
    for test in tests:
        obs, driving, target = (each.expand(lanes, *each.shape) for each in test)
        found.append(network.errors(sequence_of(obs, driving), target))
    return torch.stack(found, -1)
