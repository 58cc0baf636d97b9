"""Combines the dataset and the replays of the sources into one mixture."""

from reverie.agents.base import Agent
from reverie.datasets.dataset import Dataset
from reverie.datasets.replay import GrowingReplay, Mixture, Replay
from reverie.datasets.storage import require_memory
from reverie.training.online import Online
from reverie.world_models.sources import RolloutSource


def mix(
    data: Dataset,
    *,
    seeds: int,
    batch_size: int,
    real_rows: int | None = None,
    source: RolloutSource | None = None,
    online: Online | None = None,
    agent: Agent | None = None,
) -> tuple[Mixture, dict[str, RolloutSource]]:
    """The dataset, growing online, and the replay of what a source makes, as one mixture.

    Args:
        batch_size: B, rows of an update for each seed.
        real_rows: how many of them come from the dataset where there is a source; all without.
        agent: whose further columns the rows have, and who is told how many rows of which kind
            to expect; None: they have no others than those of `Transition`.

    Returns:
        The mixture, and what refills its streams, by the name of the stream.
    """
    data.require_actions()
    recorded = data.transitions if agent is None else agent.recorded(data)
    streams: dict[str, Replay] = {}
    rows = {"real": batch_size}
    sources: dict[str, RolloutSource] = {}
    if online is None:
        streams["real"] = Replay.of(recorded, mapped=data.mapped)
    else:
        require_memory(data, 1.0, "a replay that grows online")
        sources["real"] = online.source
        streams["real"] = GrowingReplay(
            recorded,
            seeds=seeds,
            capacity=online.source.capacity,
            added_share=online.collected_share,
        )
    if source is not None:
        sources[source.stream] = source
        streams[source.stream] = Replay(recorded[:1], seeds=seeds, capacity=source.capacity)
        rows["real"] = batch_size if real_rows is None else real_rows
        rows[source.stream] = batch_size - rows["real"]
    if agent is not None:
        agent.expect_rows(rows["real"], batch_size - rows["real"])
    return Mixture(streams, rows, seeds=seeds), sources
