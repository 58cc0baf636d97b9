"""The probe's numbers in cases that can be worked out by hand."""

import pytest
import torch

from reverie.agents.base import Agent
from reverie.datasets.build import build
from reverie.datasets.replay import Mixture, Replay
from reverie.envs.evaluation import Episodes
from reverie.envs.specs import Spec
from reverie.training.probes.values import (
    MEASURED_AGES,
    Reached,
    ValueProbe,
    auc,
    edge_share,
    measured_ages,
)
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import KeepAll
from reverie.world_models.sources import BranchedRollouts

SEEDS, STARTS, HORIZON = 2, 6, 3
SPEC = Spec(env_id=None, obs_dim=1, action_dim=1, action_low=(-1.0,), action_high=(1.0,))


class Stepper(Agent):
    """Always acts 1; critic i of seed s says (s + 1) i s_0."""

    def __init__(self, critics):
        super().__init__(spec=SPEC, seeds=SEEDS)
        self.critics = critics
        self.asked = []

    def act(self, obs, deterministic=False):
        return torch.ones(*obs.shape[:-1], 1)

    def update(self, batch):
        raise NotImplementedError

    def values(self, obs, action):
        self.asked.append(obs)
        if self.critics == 0:
            return None
        slope = torch.arange(self.critics).view(1, -1, 1)
        return torch.tensor([1.0, 2.0]).view(-1, 1, 1) * slope * obs.squeeze(-1).unsqueeze(1)


class Walk(WorldModel):
    """s' = s + a, ending beyond `wall`."""

    def __init__(self, wall):
        super().__init__()
        self.wall = wall

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        next_obs = (obs + action).unsqueeze(0)
        ended = next_obs.squeeze(-1) > self.wall
        return Step(next_obs, torch.zeros(ended.shape), ended, torch.zeros(obs.shape[:-1]))


def probe_for(critics=3, wall=100.0, edge=None, horizon=HORIZON):
    obs = torch.zeros(20, 1)
    data = build(
        name="line",
        spec=SPEC,
        obs=obs.numpy(),
        action=obs.numpy(),
        reward=obs[:, 0].numpy(),
        next_obs=obs.numpy(),
        terminated=torch.zeros(20, dtype=torch.bool).numpy(),
        truncated=(torch.arange(20) == 19).numpy(),
        reference=None,
        origin={},
        clip_actions=False,
    )
    mixture = Mixture({"real": Replay.of(data.transitions)}, {"real": 4}, seeds=SEEDS)
    source = BranchedRollouts(
        model=Walk(wall),
        transition_filter=KeepAll(),
        horizon=horizon,
        starts=50,
        every=1,
        retain=1,
        actions="policy",
    )
    return ValueProbe(
        agent=Stepper(critics),
        mixture=mixture,
        sources={"synthetic": source},
        data=data,
        starts=STARTS,
        edge_of_reach=edge,
    )


def test_spread_and_pessimism_follow_from_the_critics():
    measured = probe_for(edge=lambda obs, horizon: obs.squeeze(-1) > horizon - 0.5).measure(None)
    unit = torch.tensor([0.0, 1.0, 2.0]).std(correction=0)
    scale = torch.tensor([1.0, 2.0])
    # States inside are 0, 1, 2 and all ends are 3.
    torch.testing.assert_close(measured["reach/spread_inside"], 1.0 * unit * scale)
    torch.testing.assert_close(measured["reach/spread_ends"], 3.0 * unit * scale)
    torch.testing.assert_close(measured["reach/pessimism_inside"], 1.0 * scale)
    torch.testing.assert_close(measured["reach/pessimism_ends"], 3.0 * scale)
    torch.testing.assert_close(measured["reach/auc"], torch.ones(SEEDS))
    torch.testing.assert_close(measured["reach/edge_share"], torch.ones(SEEDS))


def test_a_long_horizon_asks_the_critics_no_more_than_a_medium_one(monkeypatch):
    distances = []
    cdist = torch.cdist
    monkeypatch.setattr(
        torch, "cdist", lambda a, b, **how: distances.append((a, b)) or cdist(a, b, **how)
    )
    for horizon in (MEASURED_AGES, 1000):
        probe = probe_for(wall=1e4, horizon=horizon)
        probe.measure(None)
        inside, ends = probe.agent.asked
        assert inside.shape[1] == MEASURED_AGES * STARTS and ends.shape[1] == STARTS
        assert inside.min() == 0 and inside.max() == horizon - 1 and (ends == horizon).all()
    half = MEASURED_AGES * STARTS // 2
    assert {a.shape[1] for a, _ in distances} == {half, STARTS // 2}
    assert half in {b.shape[1] for _, b in distances}


@pytest.mark.parametrize("horizon", range(1, MEASURED_AGES + 1))
def test_every_age_of_a_short_horizon_is_measured(horizon):
    assert measured_ages(horizon).tolist() == list(range(horizon))


def test_ages_of_a_long_horizon_are_evenly_spread():
    elapsed = measured_ages(100)
    assert len(elapsed) == MEASURED_AGES and elapsed[0] == 0 and elapsed[-1] == 99
    assert set(elapsed.diff().tolist()) == {5, 6}


def test_a_rollout_that_terminates_has_no_end_and_no_rows_after_it():
    measured = probe_for(wall=1.5, edge=lambda obs, horizon: obs.squeeze(-1) > 0).measure(None)
    # It ends on the way to 2, so the states inside are 0 and 1, and no end is left.
    unit = torch.tensor([0.0, 1.0, 2.0]).std(correction=0)
    torch.testing.assert_close(
        measured["reach/spread_inside"], 0.5 * unit * torch.tensor([1.0, 2.0])
    )
    assert measured["reach/spread_ends"].isnan().all()
    assert measured["reach/edge_share"].isnan().all()


def test_values_at_starts_are_compared_with_what_followed():
    episodes = Episodes(
        returns=torch.ones(SEEDS, 2, dtype=torch.float64),
        lengths=torch.ones(SEEDS, 2, dtype=torch.int64),
        starts=torch.full((SEEDS, 2, 1), -4.0),
        discounted_returns=torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64),
    )
    measured = probe_for().measure(episodes)
    assert measured["start/value"].tolist() == [-8.0, -16.0]  # the smallest of 0, -4, -8
    assert measured["start/return"].tolist() == [1.5, 4.0]


@pytest.mark.parametrize("critics", [0, 1])
def test_agents_without_an_ensemble_get_no_spread(critics):
    measured = probe_for(critics).measure(None)
    assert set(measured) == {"reach/edge_share"}


def test_too_few_rollouts_are_refused():
    probe = probe_for()
    with pytest.raises(ValueError, match="probe_starts=1 must be 0"):
        ValueProbe(
            agent=probe.agent,
            mixture=probe.mixture,
            sources=probe.sources,
            data=None,
            starts=1,
            edge_of_reach=None,
        )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ([0.0, 1.0], [2.0, 3.0], 1.0),
        ([2.0, 3.0], [0.0, 1.0], 0.0),
        ([1.0, 1.0], [1.0, 1.0], 0.5),
        ([0.0, float("nan"), 2.0], [1.0, float("nan"), 1.0], 0.5),
    ],
)
def test_auc_counts_pairs(low, high, expected):
    assert auc(torch.tensor([low]), torch.tensor([high])).item() == expected


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.02, 0.09), (50.0, 1.0, 1.0)])
def test_distance_tells_ends_that_are_like_the_inside_from_those_beyond(shift, low, high):
    torch.manual_seed(0)
    rollouts = 1200
    reached = Reached(
        inside=torch.randn(1, 2, rollouts, 3),
        present=torch.ones(1, 2, rollouts, dtype=torch.bool),
        ends=torch.randn(1, rollouts, 3) + shift,
        ended_well=torch.ones(1, rollouts, dtype=torch.bool),
    )
    share = edge_share(reached, torch.randn(1, 500, 3), torch.ones(3)).item()
    assert low <= share <= high


def test_absent_rows_are_no_neighbours():
    rollouts = 40
    present = torch.ones(1, 2, rollouts, dtype=torch.bool)
    present[:, 1] = False
    inside = torch.randn(1, 2, rollouts, 2)
    inside[:, 1] += 30.0  # would make the ends look well known
    ends = torch.randn(1, rollouts, 2) + 30.0
    there = torch.ones(1, rollouts, dtype=torch.bool)
    reached = Reached(inside=inside, present=present, ends=ends, ended_well=there)
    assert edge_share(reached, torch.randn(1, 50, 2), torch.ones(2)).item() == 1.0
