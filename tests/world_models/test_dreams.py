"""Recorded and imagined traces, of models whose dreams are known in closed form."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.world_models import dreams
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.dreams import BAND, DREAMS, STEPS, plot, trace


class Linear(WorldModel):
    """The dynamics of the toy dataset plus noise; ends, or breaks, where the first state is high.

    With a `predict`, by which a picture knows that dreams differ.
    """

    def __init__(self, seeds=1, noise=0.0, end=math.inf, broken=math.inf, held=()):
        super().__init__()
        self.seeds, self.noise, self.end, self.broken = seeds, noise, end, broken
        self.held = torch.tensor(held, dtype=torch.int64)

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def held_out(self, data):
        return self.held

    def predict(self, obs, action):
        raise NotImplementedError

    def step(self, obs, action, candidates=1, state=None):
        assert obs.isfinite().all()  # no step goes on from a broken one
        drift = torch.stack([0.1 * obs[..., 1], 0.2 * action[..., 0] - 0.1 * obs[..., 0]], -1)
        after = (obs + drift).expand(candidates, *obs.shape)
        after = after + self.noise * torch.randn(after.shape)
        after = torch.where(after[..., :1] > self.broken, torch.nan, after)
        reward = -obs.square().sum(-1).expand(candidates, *obs.shape[:-1])
        return Step(after, reward, after[..., 0] > self.end, reward[0])


@pytest.fixture
def data(make_dataset):
    return make_dataset(episodes=30, length=40)


def still(obs):
    return torch.zeros(*obs.shape[:-1], 1)


def array(rows):
    return np.array(rows, float)


def test_an_exact_model_dreams_what_was_recorded(data):
    found = trace(Linear(seeds=3, held=(4, 7, 9, 11)), data)
    assert found["panels"] == ["obs 0", "obs 1", "action 0", "return so far"]
    assert found["held_out"] and found["dreams"] == DREAMS and found["seeds"] == 3
    returns = [each["return"] for each in found["episodes"]]
    assert returns == sorted(returns) and len(returns) == 3
    assert {each["episode"] for each in found["episodes"]} <= {4, 7, 9, 11}
    for each in found["episodes"]:
        recorded, replayed = array(each["recorded"]), array(each["replayed"]["median"])
        assert recorded.shape == replayed.shape == (4, 41)
        np.testing.assert_allclose(replayed[[0, 1, 3]], recorded[[0, 1, 3]], atol=1e-2)
        assert np.isnan(replayed[2]).all() and np.isnan(recorded[2, -1])  # no action at the end
        assert recorded[3, 0] == 0.0 and recorded[3, -1] == pytest.approx(each["return"], rel=1e-3)
        rows = data.transitions.obs[40 * each["episode"] :][:40, 0]
        np.testing.assert_allclose(recorded[0, :-1], rows, rtol=1e-4)
        assert "policy" not in each


def test_a_policy_acts_from_the_same_starts(data):
    found = trace(Linear(), data, policy=still, seeds=2)
    for each in found["episodes"]:
        own, recorded = array(each["policy"]["median"]), array(each["recorded"])
        np.testing.assert_allclose(own[:2, 0], recorded[:2, 0])
        assert (own[2, :-1] == 0).all()
        level, speed = own[:2, 0]
        np.testing.assert_allclose(own[:2, 1], [level + 0.1 * speed, speed - 0.1 * level], 1e-3)


def test_the_band_is_as_wide_as_the_model_is_unsure(data):
    for each in trace(Linear(noise=0.1), data)["episodes"]:
        low, high = array(each["replayed"]["low"]), array(each["replayed"]["high"])
        assert high[0, 0] == low[0, 0]
        width = 2 * 1.2816 * 0.1  # of the middle 80 % of a normal distribution
        assert (high - low)[:2, 1] == pytest.approx(width, rel=0.5) and BAND == (0.1, 0.9)
        assert (high - low)[0, 30] > 2 * width
    certain = trace(Linear(), data)["episodes"][0]["replayed"]
    assert certain["low"] == certain["high"] == certain["median"]


def test_terminations_end_a_dream_and_not_a_replay(data):
    low = data.transitions.obs[:, 0].max().item() / 4
    for each in trace(Linear(end=low), data, policy=still)["episodes"]:
        recorded, own = array(each["recorded"])[0], array(each["policy"]["median"])[0]
        assert np.isfinite(array(each["replayed"]["median"])[0]).all()
        ended = np.flatnonzero(own[1:] > low)
        if len(ended):  # its last state is shown
            assert np.isnan(own[ended[0] + 2 :]).all() and np.isfinite(own[: ended[0] + 2]).all()
        assert len(own) == len(recorded)


def test_a_broken_dream_stops_and_the_picture_is_drawn(data):
    found = trace(Linear(broken=-100.0), data, policy=still)
    for each in found["episodes"]:
        assert np.isnan(array(each["replayed"]["median"])[:2, 1:]).all()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    plot(found, "broken").canvas.draw()


def test_short_and_long_episodes_and_unknown_ends(make_dataset):
    long = make_dataset(episodes=2, length=STEPS + 50)
    (each,) = trace(Linear(), long)["episodes"]
    assert array(each["recorded"]).shape == (4, STEPS + 1)
    short = make_dataset(episodes=12, length=3)
    cut = replace(short, valid_next=torch.arange(36) % 3 != 2)
    (each,) = trace(Linear(), cut)["episodes"]
    assert array(each["recorded"]).shape == (4, 3)
    single = make_dataset(episodes=4, length=1)
    plot(trace(Linear(), single, policy=still), "short").canvas.draw()


@pytest.mark.pictures
def test_pictures_name_columns_and_tell_actions_in_their_units(data, tmp_path):
    spec = replace(
        data.spec,
        obs_names=("level $_1 [cm]", "speed"),
        action_names=("valve [V]",),
        action_low=(0.0,),
        action_high=(10.0,),
    )
    found = trace(Linear(noise=0.01), replace(data, spec=spec), policy=still, seeds=2)
    assert found["panels"] == ["level $_1 [cm]", "speed", "valve [V]", "return so far"]
    assert found["episodes"][0]["policy"]["median"][2][0] == 5.0
    figure = plot(found, "SAC $ on tanks")
    figure.savefig(tmp_path / "dreams.png")
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == found["panels"]
    assert "first of 2 seeds" in figure.get_suptitle()


def test_an_axis_shows_all_that_the_policy_does_and_one_episode_has_a_narrow_legend(data):
    quiet = replace(data.transitions, action=0.01 * data.transitions.action)
    found = trace(
        Linear(noise=0.01, held=[3]),
        replace(data, transitions=quiet),
        policy=lambda obs: torch.ones(*obs.shape[:-1], 1),
    )
    figure = plot(found, "far")
    axes = {each.get_ylabel(): each for each in figure.axes}
    assert axes["action 0"].get_ylim()[1] > 1.0 > found["episodes"][0]["recorded"][2][0]
    assert len(found["episodes"]) == 1
    figure.canvas.draw()
    (legend,) = figure.legends
    assert legend.get_window_extent().width < figure.bbox.width


def test_many_columns_are_left_out_and_said_so(data):
    wide = data.transitions.obs.repeat(1, 10)
    wide[:, 0] = 7.0  # never changes
    spec = replace(data.spec, obs_dim=20)
    columns = replace(data.transitions, obs=wide, next_obs=wide)

    class Still(Linear):
        def step(self, obs, action, candidates=1, state=None):
            reward = torch.zeros(candidates, *obs.shape[:-1])
            return Step(obs.unsqueeze(0), reward, reward > 0, reward[0])

    found = trace(Still(), replace(data, spec=spec, transitions=columns))
    assert found["panels"] == [*(f"obs {dim}" for dim in range(1, 9)), "action 0", dreams.RETURN]
    assert found["left_out"] == 12
    assert "(12 more columns" in plot(found, "wide").get_suptitle()
