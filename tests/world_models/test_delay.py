"""A transport delay: with copies respected, what is on its way is dreamed as exact shifts.

Our own recording of NeoRL-2's Pipeline, whose observation is a register of 25 flows and 25 actions.
"""

import pytest
import torch

from reverie.datasets import hide, load, stack
from reverie.envs.pipeline import DELAY, HISTORY
from tests.datasets.benchmark_files import record, write

FLOWS = slice(2, 2 + HISTORY)
GATES = slice(2 + HISTORY, 2 + 2 * HISTORY)
STEPS = 30
"""Longer than the register, so that every number in it was dreamed."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("delay") / "p.npz", record("Pipeline", 2))
    return load("neorl2/Pipeline", path=str(path), copies="auto")


def dream(model, data):
    """Flows `[STEPS + 1, 1, 8]`, actions `[STEPS, 1, 8]`, and the last observations."""
    torch.manual_seed(0)
    obs = data.transitions.obs[:800:100][None]
    flows, actions = [obs[..., 0]], []
    for _ in range(STEPS):
        action = torch.rand(1, 8, 1) * 2 - 1
        obs = model.advance(obs, action).next_obs[0]
        flows.append(obs[..., 0])
        actions.append(action[..., 0])
    return torch.stack(flows), torch.stack(actions), obs


def test_a_dreamed_register_is_the_dreamed_past_to_the_bit(make_ensemble, pipeline):
    for respected in (True, False):
        model = make_ensemble(spec=pipeline.spec, max_epochs=1, respect_copies=respected)
        model.fit(pipeline)
        flows, actions, obs = dream(model, pipeline)
        past = flows[:-1].flip(0)[:HISTORY].movedim(0, -1)
        asked = actions.flip(0)[:HISTORY].movedim(0, -1)
        assert torch.equal(obs[..., FLOWS], past) is respected
        assert torch.equal(obs[..., GATES], asked) is respected


@pytest.mark.parametrize(("actions", "explained"), [(DELAY - 1, True), (DELAY - 2, False)])
def test_without_its_register_a_history_as_long_as_the_delay_explains_the_next_flow(
    pipeline, actions, explained
):
    bare = hide(pipeline, list(range(2, 2 + 2 * HISTORY)))
    data = stack(bare, 1, actions)
    warm = torch.cat([torch.arange(first + HISTORY, first + 1000) for first in (0, 1000)])
    rows = data.transitions[warm]
    seen = torch.cat([rows.obs, rows.action, torch.ones(len(warm), 1)], -1).double()
    change = (rows.next_obs[:, :1] - rows.obs[:, :1]).double()
    left = seen @ torch.linalg.lstsq(seen, change).solution - change
    assert (left.std() < 1e-3 * change.std()) == explained
