"""The recurrent ensemble: what it remembers, of which steps, and what that is worth."""

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate

from reverie.datasets import hide
from reverie.mistake import Mistake
from reverie.training.launch.options import build_option, read_option
from reverie.world_models import diagnostics
from tests.world_models.conftest import dataset


def recurrent(spec, seeds=1, **changes):
    settings = read_option("world_model/recurrent") | {
        "members": 3,
        "elites": 2,
        "width": 8,
        "layers": 2,
        "learning_rate": 3e-3,
        "max_epochs": 2,
        "termination": "none",
        "heldout_episodes": 0,
    }
    settings["forcing"] |= changes.pop("forcing", {"steps": 6})
    settings.pop("path")
    return instantiate(settings | changes)(spec=spec, seeds=seeds, seed=0)


@pytest.fixture(scope="module")
def data():
    terminated = torch.zeros(80, dtype=torch.bool)
    terminated[10] = True  # in the midst of an episode
    found = dataset(episodes=4, length=20)
    return replace(found, transitions=replace(found.transitions, terminated=terminated))


@pytest.fixture(scope="module")
def model(data):
    found = recurrent(data.spec, seeds=2)
    found.fit(data)
    return found


def test_a_step_goes_on_from_the_memory_that_the_last_one_left(model):
    obs, action = torch.randn(2, 5, 2), torch.rand(2, 5, 1)
    first = model.expect(obs, action)
    after = model.expect(first.next_obs[0], action, 1, first.state[0])
    anew = model.expect(first.next_obs[0], action)
    assert not torch.allclose(after.next_obs, anew.next_obs)
    # Every member keeps its own: 3 members, 2 layers of 8.
    assert first.state.shape == (1, 2, 5, 48)
    followed = model.follow(obs, action, None)
    assert torch.equal(followed, first.state[0])
    # Whoever predicts, all remember the same.
    assert torch.equal(model.step(obs, action, 4).state[3], followed)


def test_the_recorded_past_is_that_of_the_episode_alone(model, data):
    """Six steps in a window: five before the row at most, none beyond an end."""
    rows = torch.tensor([0, 3, 10, 11, 13, 20, 39])
    found = model.recorded_state(data, rows)
    assert found.shape == (2, 7, 48)
    for at, (row, past) in enumerate(
        zip(rows.tolist(), (0, 3, 5, 0, 2, 0, 5), strict=True)
    ):  # 10 terminates, so 11 begins anew
        state = None
        for before in range(row - past, row):
            here = data.transitions[before]
            lanes = (each.expand(2, 1, -1) for each in (here.obs, here.action))
            state = model.follow(*lanes, state)
        wanted = torch.zeros(2, 48) if state is None else state[:, 0]
        torch.testing.assert_close(found[:, at], wanted)


def test_one_ensemble_can_serve_all_seeds(data):
    shared = recurrent(data.spec, seeds=3, per_seed=False)
    shared.fit(data)
    obs, action = torch.randn(3, 4, 2), torch.rand(3, 4, 1)
    step = shared.expect(obs, action)
    again = shared.expect(obs[1:2].expand(3, -1, -1), action[1:2].expand(3, -1, -1))
    torch.testing.assert_close(step.next_obs[0, 1], again.next_obs[0, 0])
    mean, std = shared.predict(obs, action, shared.initial_state(obs))
    assert mean.shape == std.shape == (3, 2, 4, 3)
    torch.testing.assert_close(mean[..., :2].mean(1), step.next_obs[0])
    found = diagnostics.measure(shared, data, segments=20)
    assert len(found["open_loop"]["mean"]["valid_steps"]) == 3


def test_blocks_of_rows_give_what_all_give(model, monkeypatch):
    obs, action = torch.randn(2, 7, 2), torch.rand(2, 7, 1)
    whole = model.expect(obs, action)
    monkeypatch.setattr("reverie.world_models.recurrent_ensemble._BLOCK", 3)
    with torch.no_grad():
        parts = model.expect(obs, action)
    for name in ("next_obs", "reward", "uncertainty", "state"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_plans_remember_the_episode_and_forget_the_last_one(model, data):
    planner = build_option(
        "planner",
        "mppi",
        changes={"horizon": 3, "samples": 8, "elites": 4, "policy_samples": 0, "iterations": 1},
        spec=data.spec,
        model=model,
        behaviour=None,
        moments=None,
        critics=None,
        value_discount=0.99,
    )
    obs = torch.randn(2, 1, 2)
    first = planner(obs)
    remembered = model.follow(obs, first, None)
    assert torch.equal(planner.past, remembered)
    second = planner(obs)
    assert torch.equal(planner.past, model.follow(obs, second, remembered))
    assert planner.restart().past is None


def test_what_only_ensembles_know_is_refused(data):
    with pytest.raises(Mistake, match=r"world_model\.uncertainty=ensemble_std"):
        recurrent(data.spec, uncertainty="dropout")
    with pytest.raises(Mistake, match="elites <= members"):
        recurrent(data.spec, elites=4)


@pytest.mark.slow
def test_memory_finds_what_an_observation_does_not_show():
    """An oscillator of which the second state is hidden: with a past, half the error or less."""
    data = hide(dataset(episodes=60, length=30), 1)
    changes = {"width": 32, "layers": 1, "max_epochs": 30, "learning_rate": 1e-2}
    model = recurrent(data.spec, **changes, forcing={"steps": 8, "alpha": 1.0})
    model.fit(data)
    rows = (torch.arange(len(data)) % 30 >= 8).nonzero().flatten()
    here = data.transitions[rows]
    obs, action = here.obs.unsqueeze(0), here.action.unsqueeze(0)

    def error(state):
        mean, _ = model.predict(obs, action, state)
        return (mean[0, :, :, 0].mean(0) - here.next_obs[:, 0]).square().mean().sqrt()

    assert error(model.recorded_state(data, rows)) < 0.5 * error(None)
