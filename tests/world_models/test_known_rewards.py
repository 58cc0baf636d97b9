"""world_model.reward=known: exact rewards, which networks neither learn nor doubt."""

import logging
from dataclasses import replace

import pytest
import torch

from reverie.datasets import load
from reverie.mistake import Mistake
from reverie.training.export.world_model import require_ensemble
from reverie.training.launch.options import build_option, load_option
from reverie.world_models import diagnostics
from reverie.world_models.rewards import compare, resolve_reward
from reverie.world_models.uncertainty import DISAGREEMENTS

SMALL = {
    "ensemble": {"members": 3, "elites": 2, "hidden": [16], "weight_decay": [0.0, 0.0]},
    "forced": {
        **{"members": 3, "elites": 2, "hidden": [16], "weight_decay": [0.0, 0.0]},
        "forcing": {"steps": 4},
    },
    "recurrent": {"members": 3, "elites": 2, "width": 8, "forcing": {"steps": 4}},
    "shallow_plrnn": {"members": 3, "elites": 2, "bends": 8, "forcing": {"steps": 4}},
    "neural_ode": {"members": 3, "elites": 2, "hidden": [16], "weight_decay": [0.0, 0.0]},
    "any_step": {"backtrack": 2, "width": 16, "layers": 1, "blocks": 1, "batch": 64},
}


def build(kind, spec, **changes):
    changes = SMALL[kind] | {"max_epochs": 1, "heldout_episodes": 0} | changes
    return build_option("world_model", kind, changes=changes, spec=spec, seeds=1, seed=0)


@pytest.fixture(scope="module")
def data():
    return load("builtin/refrigerator", episodes=6)


@pytest.mark.parametrize("kind", SMALL)
def test_every_outcome_pays_the_rule_of_its_next_observation(data, kind):
    model = build(kind, data.spec, reward="known")
    described = model.fit(data)
    exact = {"kind": "known", "difference": pytest.approx(0, abs=1e-6), "disagree": 0}
    assert described["reward"] == exact
    obs, action = data.transitions.obs[None, :40], data.transitions.action[None, :40]
    for outcome in (
        model.advance(obs, action, 2, model.begin(obs)),
        model.advance(obs, action, 1, model.begin(obs), expected=True),
    ):
        assert torch.equal(outcome.reward, -(outcome.next_obs[..., 0] - 5.0).abs() / 10.0)
        if kind != "any_step":  # which doubts no first step, see below
            assert (outcome.uncertainty > 0).all()
    mean, std = model.predict(obs, action)
    assert torch.equal(mean[..., 1], -(mean[..., 0] - 5.0).abs() / 10.0)
    assert (std[..., 1] == 0).all() and (std[..., 0] > 0).all()


@pytest.mark.parametrize("forced", [False, True])
def test_jumps_neither_learn_nor_doubt_a_known_reward(data, forced):
    """Rewards that are nothing but noise change nothing, on the second step either."""
    noise = 100 * torch.randn(len(data))
    noisy = replace(data, transitions=replace(data.transitions, reward=noise))
    forcing = load_option("forcing", "alpha") | {"steps": 4} if forced else None
    outcomes = []
    for rows in (data, noisy):
        model = build("any_step", data.spec, reward="known", forcing=forcing)
        model.fit(rows)
        obs, action = data.transitions.obs[None, :9], data.transitions.action[None, :9]
        first = model.expect(obs, action)
        outcomes.append(model.expect(first.next_obs[0], action, state=first.state[0]))
    assert torch.equal(outcomes[0].next_obs, outcomes[1].next_obs)
    assert torch.equal(outcomes[0].uncertainty, outcomes[1].uncertainty)
    assert (outcomes[0].uncertainty > 0).all()


def test_a_known_reward_counts_for_no_error_and_no_uncertainty(data):
    """Rewards that are nothing but noise leave the fit, and what it doubts, as they are."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(data), generator=generator) * 100
    noisy = replace(data, transitions=replace(data.transitions, reward=noise))
    outcomes = {}
    for reward in ("known", "learned"):
        for name, rows in (("clean", data), ("noisy", noisy)):
            model = build("ensemble", data.spec, reward=reward)
            losses = model.fit(rows)["best_loss"]
            obs, action = data.transitions.obs[None, :9], data.transitions.action[None, :9]
            outcomes[reward, name] = torch.tensor(losses), model.expect(obs, action).uncertainty
    for clean, dirty in zip(outcomes["known", "clean"], outcomes["known", "noisy"], strict=True):
        assert torch.equal(clean, dirty)
    assert (outcomes["learned", "noisy"][0] > 2 * outcomes["learned", "clean"][0]).all()


@pytest.mark.parametrize("name", ["max_aleatoric", *DISAGREEMENTS, "dropout"])
def test_every_doubt_is_of_the_observations(data, name):
    """The forms that leave out the reward must not leave out an observation for it."""
    model = build("ensemble", data.spec, reward="known", uncertainty=name, dropout=0.1)
    model.fit(data)
    obs, action = data.transitions.obs[None, :9], data.transitions.action[None, :9]
    assert (model.step(obs, action).uncertainty > 0).all()


def test_diagnostics_leave_a_known_reward_out(data):
    model = build("ensemble", data.spec, reward="known")
    model.fit(data)
    measured = diagnostics.measure(model, data)
    assert measured["one_step"]["reward_rmse"] == [None]
    assert all(value is not None for value in measured["likelihood"]["member"])
    assert len(measured["likelihood"]["per_column"][0]) == 1


def test_a_known_reward_is_not_exported(data, tmp_path):
    with pytest.raises(Mistake, match=r"world_model\.reward=learned, or choose what=policy"):
        require_ensemble(build("ensemble", data.spec, reward="known"), tmp_path)


def test_a_rule_sees_what_the_record_moves(data):
    """Of an exogenous target the reward is that of the next one, which no model can know."""
    spec = replace(data.spec, obs_dim=2, exogenous=(1,), env_id=None, task="neorl2/Pipeline")
    rows = data.transitions
    target = 80.0 + torch.arange(len(data)) % 7

    def beside(column, later):
        return torch.stack([column[:, 0], target.roll(-later)], -1)

    moved = replace(rows, obs=beside(rows.obs, 0), next_obs=beside(rows.next_obs, 1))
    model = build("ensemble", spec, reward="known", termination="none")
    model.fit(replace(data, spec=spec, transitions=moved))
    model.replay_exogenous(replace(data, spec=spec, transitions=moved))
    start = torch.arange(10)
    obs, action = moved.obs[None, start], moved.action[None, start]
    outcome = model.advance(obs, action, 1, model.begin(obs, start[None]))
    assert torch.equal(outcome.next_obs[0, 0, :, 1], moved.next_obs[start, 1])
    error = (outcome.next_obs[..., 0] - outcome.next_obs[..., 1]).abs()
    assert torch.allclose(outcome.reward, ((200 - error) / 100).square() - 3)


def test_fits_of_learned_and_known_rewards_are_not_exchanged(data):
    learned, known = (build("ensemble", data.spec, reward=each) for each in ("learned", "known"))
    assert "reward" not in learned.signature()  # earlier fits stay what they are
    assert known.signature() == learned.signature() | {"reward": "known"}


def test_tasks_without_a_rule_are_refused(data):
    with pytest.raises(Mistake, match=r"the dataset names none.*=learned.*dataset.env_id="):
        build("ensemble", replace(data.spec, env_id=None), reward="known")
    with pytest.raises(Mistake, match="1 hidden columns"):
        resolve_reward("known", replace(data.spec, hidden=(0,)))


def test_other_rewards_than_the_rules_are_remarked(data, caplog):
    paid = data.transitions
    halved = replace(data, transitions=replace(paid, reward=paid.reward / 2))
    rule, rows = resolve_reward("known", data.spec), torch.ones(len(data), dtype=torch.bool)
    with caplog.at_level(logging.WARNING):
        assert compare(rule, halved, rows)["disagree"] > 0.5
    assert "differs from" in caplog.text and "world_model.reward=learned" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        compare(rule, data, rows)
    assert not caplog.text
