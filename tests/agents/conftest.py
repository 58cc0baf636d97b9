"""Builds agents from their YAML with small networks."""

from dataclasses import replace

import pytest
import torch
from hydra.utils import get_class, instantiate

from reverie.training.launch.options import read_option


@pytest.fixture
def make_agent(spec):
    """`make_agent("iql", seeds=2, expectile=0.9)`; keywords replace the YAML's hyperparameters.

    A dictionary replaces hyperparameters of a nested part: `discriminators={"noise": 0.0}`.
    """

    def make(option, **changes):
        settings = read_option(f"agent/{option}")
        cls = get_class(settings.pop("_target_"))
        settings = {key: value for key, value in settings.items() if not key.startswith("_")}
        for key, value in changes.items():
            if isinstance(value, dict):
                changes[key] = {**settings[key], **value}
        run_time = {"spec": spec, "seeds": 1, "updates": 1000, "hidden": [16, 16]}
        return cls(**{**settings, **run_time, **changes})

    return make


@pytest.fixture
def make_model():
    """A small ensemble as it starts, always the same, for agents that are attached to one."""

    def make(spec, seeds, **changes):
        settings = read_option("world_model/ensemble")
        del settings["path"]
        small = {"hidden": [8], "weight_decay": [0.0, 0.0], "termination": "none", **changes}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = instantiate({**settings, **small})(spec=spec, seeds=seeds, seed=0)
        model.load_state_dict({**model.state_dict(), "fitted": torch.tensor(True)})
        return model

    return make


@pytest.fixture
def make_data(spec, make_batch):
    """A dataset of 2-row episodes with given returns."""
    from reverie.datasets.dataset import Dataset

    def make(*returns):
        rows = make_batch(2 * len(returns))
        rows.reward[:] = torch.tensor(returns).repeat_interleave(2) / 2
        return Dataset(
            name="toy",
            spec=spec,
            transitions=rows,
            truncated=torch.zeros(len(rows.reward), dtype=torch.bool),
            valid_next=torch.ones(len(rows.reward), dtype=torch.bool),
            episode_starts=torch.arange(0, len(rows.reward), 2),
        )

    return make


@pytest.fixture
def make_rows(make_batch, spec):
    """`make_rows(agent, S, B)`: recorded rows with all columns that the agent asks for.

    Every seed has an episode whose rows go on from each other, but for the changes.
    """

    from reverie.datasets.dataset import Dataset

    def make(agent, seeds, rows, **changes):
        batch = make_batch(seeds * rows)
        batch.next_obs[:-1] = batch.obs[1:]
        batch = replace(batch, **{key: value.flatten(0, 1) for key, value in changes.items()})
        data = Dataset(
            name="toy",
            spec=spec,
            transitions=batch,
            truncated=torch.zeros(len(batch.reward), dtype=torch.bool),
            valid_next=torch.ones(len(batch.reward), dtype=torch.bool),
            episode_starts=torch.arange(0, seeds * rows, rows),
        )
        return agent.recorded(data).map(lambda column: column.unflatten(0, (seeds, rows)))

    return make
