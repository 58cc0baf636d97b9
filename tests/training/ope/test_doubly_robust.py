"""Doubly robust estimates are right where the values or the weights are, and sum as published."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reverie.agents.fitted_q_evaluation import FittedQEvaluation
from reverie.datasets.options import load
from reverie.training.ope.doubly_robust import correct, weigh
from reverie.training.ope.recorded import recorded_values
from reverie.world_models.diffusion.behaviour import BehaviourClone

DISCOUNT, MEAN, STD = 0.9, 0.2, 0.5
"""Of the recorded behaviour, before tanh."""
REPLICAS = 2


def record(lengths, ended, seed=0, reward=None):
    """Episodes of noise with given lengths, ended by a termination or by a cut."""
    rng = np.random.default_rng(seed)
    rows = sum(lengths)
    last = np.cumsum(lengths) - 1
    before = rng.normal(MEAN, STD, (rows, 1))
    terminals, timeouts = np.zeros((2, rows), bool)
    terminals[last[ended]] = True
    timeouts[last[~ended]] = True
    columns = {
        "observations": rng.normal(size=(rows, 2)),
        "next_observations": rng.normal(size=(rows, 2)),
        "actions": np.tanh(before),
        "rewards": before[:, 0] if reward is None else np.full(rows, reward),
        "terminals": terminals,
        "timeouts": timeouts,
    }
    return load(columns, name="toy")


def new_clone(data, **changes):
    settings = dict(hidden=[4], activation="relu", log_std_bounds=[-5.0, 2.0], learning_rate=1e-3)
    settings |= dict(steps=1, batch=4, heldout_episodes=1, measure_every=1) | changes
    return BehaviourClone(spec=data.spec, seeds=1, seed=0, **settings)


def known_clone(data, monkeypatch):
    """The very behaviour of `record`."""
    clone = new_clone(data)
    monkeypatch.setattr(
        clone,
        "_gaussian",
        lambda obs: (torch.full((1, 1, 1), MEAN), torch.full((1, 1, 1), float(np.log(STD)))),
    )
    return clone


class Values:
    """Fitted values that tests choose: V(s) = `value`, Q(s, a) = `value` + `slope` a."""

    def __init__(self, actions, value=0.0, slope=0.0):
        self.policies, self.discount = len(actions), DISCOUNT
        self.chosen = torch.tanh(torch.tensor(actions, dtype=torch.float32)).view(-1, 1, 1)
        self.value, self.slope = value, slope

    def parameters(self):
        yield torch.zeros(1)

    def policy(self, obs):
        return self.chosen.expand(self.policies, obs.shape[1], 1)

    def state_values(self, obs):
        return torch.full((self.policies, REPLICAS, len(obs)), float(self.value))

    def bellman_errors(self, batch):
        q = self.value + self.slope * batch.action[:, 0]
        error = batch.reward + DISCOUNT * ~batch.terminated * self.value - q
        return error.expand(self.policies, REPLICAS, -1)


def estimate(data, values, clone, effective=1):
    rows = data.episode_starts
    known = recorded_values(data, rows, horizon=50, discount=DISCOUNT)
    weighed = weigh(values, clone, data, rows, known.present, effective=effective)
    return SimpleNamespace(weighed=weighed, known=known, **correct(weighed, known.values))


def test_right_weights_mend_wrong_values(monkeypatch):
    data = record([1] * 4_000, np.ones(4_000, bool))
    clone = known_clone(data, monkeypatch)
    # The reward is the action before tanh, so a policy about m earns m on average.
    wrong = Values([0.5, MEAN, -0.3], value=7.0)
    found = estimate(data, wrong, clone)
    for (value, low, high), truth in zip(found.value, (0.5, MEAN, -0.3), strict=True):
        assert low <= truth <= high and high - low < 0.2
        assert value == pytest.approx(truth, abs=0.06)
    assert found.difference[0][1] > 0 > found.difference[2][2]
    assert found.difference[1] == pytest.approx([0, 0, 0], abs=1e-6)  # as recorded
    # exp(-(m - m')^2 / std^2) of the starts: the variance of a ratio of two Gaussians
    assert found.effective[0] == pytest.approx(4_000 * np.exp(-0.36), rel=0.05)
    assert found.effective[1] == 4_000


def test_right_values_need_no_weights(monkeypatch):
    data = record([5] * 40, np.zeros(40, bool), reward=1.0)
    right = Values([1.5], value=1 / (1 - DISCOUNT))
    found = estimate(data, right, known_clone(data, monkeypatch))
    assert found.steps[0] > 1 and found.weighed.errors.abs().max() < 1e-5
    assert found.value[0] == pytest.approx([10.0] * 3, abs=1e-4)


def test_the_sum_is_that_of_the_textbook(monkeypatch):
    lengths, ended = [3, 6, 2, 6, 4], np.array([True, False, True, False, False])
    data = record(lengths, ended)
    values = Values([0.6], value=2.0, slope=0.7)
    found = estimate(data, values, known_clone(data, monkeypatch))
    rows = data.transitions
    before = torch.atanh(rows.action[:, 0]).double()
    ratio = torch.exp(((before - MEAN) ** 2 - (before - 0.6) ** 2) / (2 * STD**2)).numpy()
    expected, steps = 2.0, 0
    for age in range(max(lengths)):
        weights, errors = [], []
        for start, length, over in zip(data.episode_starts.tolist(), lengths, ended, strict=True):
            if age >= length and not over:
                continue  # nobody knows how a cut episode went on
            weights.append(np.prod(ratio[start : start + min(age + 1, length)]))
            row = start + age
            goes_on = 2.0 * DISCOUNT * (not rows.terminated[row]) if age < length else 0.0
            own = 2.0 + 0.7 * float(rows.action[row, 0]) if age < length else 0.0
            paid = float(rows.reward[row]) if age < length else 0.0
            errors.append(paid + goes_on - own)
        expected += DISCOUNT**age * np.average(errors, weights=weights)
        steps += 1
    assert found.steps == [steps] and found.value[0][0] == pytest.approx(expected, rel=1e-4)
    assert found.difference[0][0] == pytest.approx(
        expected - float(found.known.values.mean()), rel=1e-4
    )


def test_weights_count_while_they_are_worth_enough_starts(monkeypatch):
    data = record([20] * 100, np.zeros(100, bool))
    clone = known_clone(data, monkeypatch)
    near, far = 0.25, 3.0
    found = estimate(data, Values([near, MEAN, far], value=1.0), clone, effective=50)
    assert 0 < found.steps[0] <= found.steps[1] == 20 and found.steps[2] == 0
    assert found.effective[1] == pytest.approx(100) and found.effective[2] < 10
    assert found.value[2] == [1.0] * 3  # nothing corrects it
    alone = estimate(data, Values([near], value=1.0), clone, effective=50)
    assert alone.value[0] == pytest.approx(found.value[0]) and alone.steps[0] == found.steps[0]
    none = estimate(data, Values([far]), clone, effective=50)
    assert none.steps == [0] and none.value[0] == [0.0] * 3


def test_a_start_that_is_cut_no_longer_counts_and_one_that_terminated_does(monkeypatch):
    lengths = [1] * 30 + [2] * 10
    for over, worth in ((True, 40), (False, 10)):
        ended = np.array([over] * 30 + [False] * 10)
        data = record(lengths, ended)
        found = estimate(data, Values([MEAN]), known_clone(data, monkeypatch))
        weights = found.weighed.weights[0, 1]
        assert (weights > 0).sum() == worth


def test_the_ratio_is_that_of_two_gaussians():
    data = record([8] * 4, np.zeros(4, bool))
    clone = new_clone(data, hidden=[8], steps=3, batch=8)
    clone.fit(data)
    obs, action = data.transitions.obs, data.transitions.action
    chosen = torch.rand(3, len(obs), 1) * 1.8 - 0.9
    mean, log_std = clone._gaussian(obs[None])
    taken, std = torch.atanh(action), log_std.exp()
    own = torch.distributions.Normal(torch.atanh(chosen), std.expand_as(chosen))
    cloned = torch.distributions.Normal(mean, std)
    expected = (own.log_prob(taken) - cloned.log_prob(taken)).sum(-1)
    found = clone.log_ratio(obs, action, chosen)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_bellman_errors_are_those_of_the_fitted_values():
    data = record([4] * 10, np.arange(10) % 2 == 0)
    learner = FittedQEvaluation(
        spec=data.spec,
        policy=lambda obs: torch.stack([0.1 * obs[0, :, :1], -0.2 * obs[1, :, :1]]).clamp(-1, 1),
        policies=2,
        replicas=3,
        hidden=[8],
        activation="relu",
        learning_rate=1e-3,
        discount=DISCOUNT,
        tau=0.5,
        offset_rate=0.01,
        clip_targets=True,
    )
    learner.prepare(data)
    rows = data.transitions
    own = learner.values(rows.obs.expand(6, -1, -1), rows.action.expand(6, -1, -1))
    after = learner.state_values(rows.next_obs)
    expected = rows.reward + DISCOUNT * ~rows.terminated * after - own.view(2, 3, -1)
    torch.testing.assert_close(learner.bellman_errors(rows), expected)
