"""Replay on the device: fixed shapes, packed rows, no host synchronisation; and mixtures.

A transition of a stream is one contiguous vector, so sampling a batch is a single gather for any
number of columns. Base columns come first in every transition class, so a mixture can drop the
extra columns of its streams.
"""

from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reverie.datasets.transition import Transition, column_names
from reverie.mistake import Mistake

Record = TypeVar("Record", bound=Transition)

# Random 62-bit integers modulo the size: a float32 `rand * size` is visibly uneven at millions of
# rows, while the bias of this modulo is below 1e-12 for any size that fits in memory.
_LARGE = 2**62


class Layout(Generic[Record]):
    """Layout of the columns of a transition class in one float32 row.

    Args:
        example: transitions of any leading shape; their trailing shapes and dtypes are the layout.
    """

    def __init__(self, example: Record) -> None:
        self.record: type[Record] = type(example)
        self.columns: dict[str, tuple[int, int | None, torch.dtype]] = {}
        self.width = 0
        for name in column_names(example):
            column = getattr(example, name)
            trailing = column.shape[example.reward.ndim :]
            if len(trailing) > 1:
                raise ValueError(
                    f"column {name!r} has trailing shape {list(trailing)}; flatten it to at most "
                    "one dimension"
                )
            width = trailing[0] if trailing else None
            self.columns[name] = (self.width, width, column.dtype)
            self.width += 1 if width is None else width

    def pack(self, rows: Record) -> Float[Tensor, "*lead W"]:
        """Columns to one float row each."""
        parts = []
        for name, (_, width, _) in self.columns.items():
            column = getattr(rows, name).float()
            parts.append(column.unsqueeze(-1) if width is None else column)
        return torch.cat(parts, -1)

    def unpack(self, packed: Float[Tensor, "*lead W"]) -> Record:
        """The inverse of `pack`; columns are views where their type allows."""
        columns = {}
        for name, (offset, width, dtype) in self.columns.items():
            value = packed[..., offset] if width is None else packed[..., offset : offset + width]
            columns[name] = value > 0.5 if dtype is torch.bool else value
        return self.record(**columns)


def base_layout(layout: Layout) -> Layout[Transition]:
    """The layout of the base columns alone; they are the first of every class."""
    example = {
        name: torch.zeros(() if width is None else (width,), dtype=dtype)
        for name, (_, width, dtype) in layout.columns.items()
        if name in column_names(Transition)
    }
    return Layout(Transition(**example))


class Replay(nn.Module, Generic[Record]):
    """Ring buffers for S seeds, or one store that all seeds read.

    Storage is `[S, capacity + 1, W]`: the extra last row takes rejected rows, so `add` has
    fixed shapes. Sizes and heads are tensors.

    Args:
        example: rows of the class and widths to store.
        seeds: S, one ring for each, or 1 for a store shared by all seeds (the real dataset).
        capacity: transitions per seed before the oldest are overwritten.
    """

    rows: Tensor
    size: Tensor
    head: Tensor
    seed_index: Tensor

    def __init__(self, example: Record, *, seeds: int, capacity: int) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"replay capacity must be positive, got {capacity}")
        self.layout = Layout(example)
        self.seeds, self.capacity = seeds, capacity
        self.register_buffer("rows", torch.zeros(seeds, capacity + 1, self.layout.width))
        self.register_buffer("size", torch.zeros(seeds, dtype=torch.int64))
        self.register_buffer("head", torch.zeros(seeds, dtype=torch.int64))
        self.register_buffer("seed_index", torch.arange(seeds).unsqueeze(1), persistent=False)

    @classmethod
    def of(cls, transitions: Record, *, mapped: bool = False) -> "Replay[Record]":
        """A full store of given rows `[N]`, read by every seed.

        Args:
            mapped: whether they lie on disk, from where batches are gathered.
        """
        if mapped:
            return MappedReplay(transitions)
        replay = cls(transitions, seeds=1, capacity=len(transitions.reward))
        replay.rows[0, :-1] = replay.layout.pack(transitions)
        replay.size.fill_(replay.capacity)
        return replay

    @torch.no_grad()
    def add(self, rows: Record, keep: Bool[Tensor, "S M"]) -> None:
        """Append the kept rows of `[S, M]` in order; rejected ones leave no trace.

        Raises:
            Mistake: M exceeds the capacity, so rows of this very call would be overwritten.
        """
        if keep.shape[1] > self.capacity:
            raise Mistake(
                f"{keep.shape[1]} rows do not fit a replay of capacity {self.capacity}; raise "
                "source.retain or lower source.starts"
            )
        position = keep.cumsum(1) - 1
        slot = (self.head.unsqueeze(1) + position) % self.capacity
        slot = torch.where(keep, slot, self.capacity)
        self.rows[self.seed_index, slot] = self.layout.pack(rows)
        # Rejected rows may be anything, NaN included, and the order of their writes is undefined.
        self.rows[:, -1] = 0
        kept = keep.sum(1)
        self.head.copy_((self.head + kept) % self.capacity)
        self.size.copy_((self.size + kept).clamp(max=self.capacity))

    def stored(self, name: str) -> Float[Tensor, " N"]:
        """A column without a width, such as `reward`, of all stored rows of all seeds."""
        offset, _, _ = self.layout.columns[name]
        stored = torch.arange(self.capacity, device=self.rows.device) < self.size.unsqueeze(1)
        return self.rows[:, :-1, offset][stored]

    def draw(self, seeds: int, batch: int) -> Float[Tensor, "S B W"]:
        """`batch` packed rows for each of `seeds` seeds, uniform with replacement."""
        number = torch.randint(_LARGE, (seeds, batch), device=self.rows.device)
        index: Int[Tensor, "S B"] = number % self.size.clamp(min=1).unsqueeze(1)
        return self.gather(index)

    def gather(self, index: Int[Tensor, "S B"]) -> Float[Tensor, "S B W"]:
        """These rows of each seed, packed."""
        return self.rows[0][index] if self.seeds == 1 else self.rows[self.seed_index, index]

    def sample(self, seeds: int, batch: int) -> Record:
        """`batch` transitions `[seeds, batch]`, uniform with replacement."""
        return self.layout.unpack(self.draw(seeds, batch))

    def contents(self) -> dict[str, Tensor]:
        """The filled part, for a checkpoint."""
        filled = int(self.size.max())
        return {
            "rows": self.rows[:, :filled].clone(),
            "size": self.size.clone(),
            "head": self.head.clone(),
        }

    def restore(self, contents: Mapping[str, Tensor]) -> None:
        """Take back what `contents` gave.

        Raises:
            Mistake: another number of seeds, another row width, or more rows than fit.
        """
        rows = contents["rows"]
        if (rows.shape[0], rows.shape[2]) != (self.seeds, self.layout.width) or (
            rows.shape[1] > self.capacity
        ):
            raise Mistake(
                f"the checkpoint holds a replay of shape {list(rows.shape)}, this run's is "
                f"{list(self.rows.shape)}; it belongs to other settings"
            )
        self.rows.zero_()
        self.rows[:, : rows.shape[1]] = rows
        self.size.copy_(contents["size"])
        self.head.copy_(contents["head"])


class MappedReplay(Replay[Record]):
    """A recorded dataset on disk: only the transitions of a batch are copied.

    Indices are sampled as in memory, so batches are bitwise equal. On a GPU they are first copied
    to the host, which is a synchronisation.

    Args:
        recorded: `[N]`, on the host.
    """

    def __init__(self, recorded: Record) -> None:
        super().__init__(recorded, seeds=1, capacity=1)  # `rows` only says on which device it is
        self.recorded, self.capacity = recorded, len(recorded.reward)
        self.size.fill_(self.capacity)

    def gather(self, index: Int[Tensor, "S B"]) -> Float[Tensor, "S B W"]:
        """These rows, packed, on the device of the index."""
        return self.layout.pack(self.recorded[index.cpu()]).to(index.device)

    def stored(self, name: str) -> Float[Tensor, " N"]:
        """A column without a width."""
        return getattr(self.recorded, name).float()


class GrowingReplay(Replay[Record]):
    """A recorded dataset shared by all seeds, and a ring buffer for each seed's additions.

    Both are sampled uniformly as one store, or in fixed shares. A full ring loses its oldest
    transitions; the dataset is always kept. `size`, `head` and `contents` are those of the rings.

    Args:
        recorded: `[N]`, the dataset, stored once.
        seeds, capacity: of the rings.
        added_share: share of the ring in a batch, once it holds any transitions (half in RLPD,
            arXiv:2302.02948, and Cal-QL); None: its share of all transitions.
    """

    recorded: Tensor

    def __init__(
        self, recorded: Record, *, seeds: int, capacity: int, added_share: float | None = None
    ) -> None:
        super().__init__(recorded, seeds=seeds, capacity=capacity)
        self.added_share = added_share
        self.register_buffer("recorded", self.layout.pack(recorded), persistent=False)

    def draw(self, seeds: int, batch: int) -> Float[Tensor, "S B W"]:
        """`batch` packed rows for each seed, its own among them, with replacement."""
        count, size = len(self.recorded), self.size.unsqueeze(1)
        number = torch.randint(_LARGE, (seeds, batch), device=self.rows.device)
        index: Int[Tensor, "S B"]
        if self.added_share is None:
            index = number % (count + size)
        else:
            place = torch.arange(batch, device=self.rows.device)
            own = (place < round(self.added_share * batch)) & (size > 0)
            index = torch.where(own, count + number % size.clamp(min=1), number % count)
        old = index < count
        recorded = self.recorded[torch.where(old, index, 0)]
        added = self.rows[self.seed_index, torch.where(old, self.capacity, index - count)]
        return torch.where(old.unsqueeze(-1), recorded, added)

    def added_rows(self) -> Record:
        """The rows `[S, M]` of the rings; a seed that had some rejected repeats its first."""
        slot = torch.arange(int(self.size.max()), device=self.rows.device)
        slot = slot % self.size.clamp(min=1).unsqueeze(1)
        return self.layout.unpack(self.rows[self.seed_index, slot])


class ResampledReplay(Replay[Record]):
    """A bootstrap of a recorded dataset: each seed resamples its episodes with replacement.

    A seed has as many episodes as the dataset, some of them several times and others not at all.

    Args:
        recorded: `[N]`, stored once.
        episode_starts, episode_lengths: `[P]`, of the dataset.
        seeds: S.
        mapped: whether the transitions are on disk, and stay there.
    """

    first: Tensor
    end: Tensor

    def __init__(
        self,
        recorded: Record,
        *,
        episode_starts: Int[Tensor, " P"],
        episode_lengths: Int[Tensor, " P"],
        seeds: int,
        mapped: bool = False,
    ) -> None:
        super().__init__(recorded, seeds=1, capacity=1)
        self.store = Replay.of(recorded, mapped=mapped)
        self.capacity = self.store.capacity
        episodes = torch.randint(len(episode_starts), (seeds, len(episode_starts)))
        end = episode_lengths[episodes].cumsum(1)  # [S, P] rows up to the end of each
        self.size = end[:, -1]
        self.register_buffer("first", episode_starts[episodes], persistent=False)
        self.register_buffer("end", end, persistent=False)

    def draw(self, seeds: int, batch: int) -> Float[Tensor, "S B W"]:
        """`batch` packed rows for each seed, uniform over the rows of its episodes."""
        number = torch.randint(_LARGE, (seeds, batch), device=self.rows.device)
        row = number % self.size.unsqueeze(1)
        episode = torch.searchsorted(self.end, row, right=True)
        before = self.end.gather(1, (episode - 1).clamp(min=0)) * (episode > 0)
        return self.store.gather(self.first.gather(1, episode) + row - before)

    def stored(self, name: str) -> Float[Tensor, " N"]:
        """A column of the dataset."""
        return self.store.stored(name)


class Mixture(nn.Module):
    """Samples a fixed number of transitions from each named stream and concatenates them.

    A batch has all columns if every stream has the same ones, otherwise the base columns.

    Args:
        streams: replays by name, the real one first by convention.
        rows: transitions of each stream in a batch; a stream with none is not read.
        seeds: S.
    """

    def __init__(
        self, streams: Mapping[str, Replay], rows: Mapping[str, int], *, seeds: int
    ) -> None:
        super().__init__()
        unknown = set(rows) - set(streams)
        if unknown or not any(rows.values()):
            raise ValueError(
                f"a mixture of streams {sorted(streams)} cannot draw {dict(rows)}; every stream "
                "must exist and at least one must give rows"
            )
        self.streams = nn.ModuleDict(streams)
        self.rows, self.seeds = dict(rows), seeds
        layouts = {name: base_layout(stream.layout) for name, stream in streams.items()}
        base = next(iter(layouts.values()))
        for name, layout in layouts.items():
            if layout.columns != base.columns:
                raise ValueError(
                    f"stream {name!r} has other spaces than {next(iter(streams))!r}: "
                    f"{layout.columns} against {base.columns}"
                )
        full = {(each.layout.record, each.layout.width) for each in streams.values()}
        first: Layout = next(iter(streams.values())).layout
        self.shared = first if len(full) == 1 else base

    @property
    def gathers_on_host(self) -> bool:
        """Whether a batch comes from the host's disk to another device, which no graph can hold."""
        return any(
            isinstance(stream, MappedReplay) and stream.rows.device.type != "cpu"
            for stream in self.streams.values()
        )

    def __getitem__(self, name: str) -> Replay:
        return self.streams[name]  # type: ignore[return-value]

    def sample(self) -> Transition:
        """One batch `[S, B]` of the columns that the streams share, B the sum of `rows`."""
        parts = [
            self[name].draw(self.seeds, rows)[..., : self.shared.width]
            for name, rows in self.rows.items()
            if rows
        ]
        return self.shared.unpack(torch.cat(parts, 1))
