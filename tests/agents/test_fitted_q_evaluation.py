"""Fitted Q evaluation against values that a linear system gives exactly."""

from dataclasses import replace

import pytest
import torch

from reverie.agents.fitted_q_evaluation import FittedQEvaluation
from reverie.datasets.build import build
from reverie.datasets.transition import Transition
from reverie.envs.specs import Spec

DISCOUNT = 0.9
SPEC = Spec(env_id=None, obs_dim=3, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
HYPERPARAMETERS = {
    "replicas": 2,
    "hidden": [32],
    "activation": "tanh",
    "learning_rate": 1e-2,
    "discount": DISCOUNT,
    "tau": 0.3,
    "offset_rate": 0.05,
    "clip_targets": True,
}
# Three states in a row. Right leads on, and out of the last one to the end; left leads back.
REWARD = {"right": [0.0, 0.5, 2.0], "left": [1.0, -0.2, 0.3]}


def rows():
    """Every state with both actions, `[6]`."""
    states = torch.eye(3)
    obs = torch.cat([states, states])
    following = torch.cat([states[[1, 2, 2]], states[[0, 0, 1]]])
    return Transition(
        obs=obs,
        action=torch.cat([torch.ones(3, 1), -torch.ones(3, 1)]),
        reward=torch.tensor(REWARD["right"] + REWARD["left"]),
        next_obs=following,
        terminated=torch.tensor([False, False, True, False, False, False]),
        is_real=torch.ones(6, dtype=torch.bool),
    )


def always_right(obs):
    return torch.ones_like(obs[..., :1])


def left_at_first(obs):
    return 1 - 2 * obs[..., :1]


def policies(obs):
    return torch.cat([always_right(obs[:1]), left_at_first(obs[1:])])


def exact(moves):
    """V = (I - discount P)^-1 r of the policy that takes these moves."""
    table = {"right": [1, 2, None], "left": [0, 0, 1]}
    matrix = torch.eye(3)
    for state, move in enumerate(moves):
        following = table[move][state]
        if following is not None:
            matrix[state, following] -= DISCOUNT
    reward = torch.tensor([REWARD[move][state] for state, move in enumerate(moves)])
    return torch.linalg.solve(matrix, reward)


def recorded(columns):
    return build(
        name="chain",
        spec=SPEC,
        **{
            name: getattr(columns, name).numpy()
            for name in ("obs", "action", "reward", "terminated", "next_obs")
        },
        truncated=torch.ones(6, dtype=torch.bool).numpy(),
        reference=None,
        origin={},
        clip_actions=False,
    )


@pytest.fixture
def data():
    return recorded(rows())


@pytest.fixture
def make_learner(data):
    def make(**changes):
        learner = FittedQEvaluation(
            **{"spec": SPEC, "policy": policies, "policies": 2, **HYPERPARAMETERS, **changes}
        )
        learner.prepare(data)
        return learner

    return make


def test_it_finds_the_values_of_a_known_chain(make_learner):
    learner = make_learner()
    batch = rows().map(lambda column: column.expand(4, *column.shape))
    for _ in range(400):
        measured = learner.update(batch)
    found = learner.state_values(torch.eye(3))
    assert found.shape == (2, 2, 3) and measured["critic_loss"].shape == (4,)
    right = exact(["right", "right", "right"])
    left = exact(["left", "right", "right"])
    assert right[2] == 2.0 and left[0] == pytest.approx(1 / (1 - DISCOUNT))  # by hand
    for replica in range(2):
        torch.testing.assert_close(found[0, replica], right, atol=0.15, rtol=0.02)
        torch.testing.assert_close(found[1, replica], left, atol=0.15, rtol=0.02)


def test_an_error_of_all_values_goes_within_few_updates():
    endless = replace(rows(), terminated=torch.zeros(6, dtype=torch.bool))
    batch = endless.map(lambda column: column.expand(2, *column.shape))
    far = {}
    for rate in (0.0, 0.05):
        torch.manual_seed(0)
        learner = FittedQEvaluation(
            **HYPERPARAMETERS
            | {"spec": SPEC, "policy": always_right, "policies": 1, "discount": 0.99}
            | {"offset_rate": rate}
        )
        learner.prepare(recorded(endless))
        start = learner.offset.clone()
        for _ in range(150):
            learner.update(batch)
        # The last state pays 2 for ever; before it, 0 and 0.5 once each.
        value = torch.tensor([0.99 * 0.5 + 0.99**2 * 200, 0.5 + 0.99 * 200, 200.0])
        far[rate] = (learner.state_values(torch.eye(3))[0] - value).abs().max(1).values
        assert learner.offset.eq(start).all() == (rate == 0)
    assert far[0.0].min() > 60 and far[0.05].max() < 30


def test_targets_stop_at_terminations_and_stay_within_what_can_be_earned(make_learner):
    learner = make_learner()
    batch = rows().map(lambda column: column.expand(4, *column.shape))
    far = replace(batch, next_obs=batch.next_obs + 1e6 * batch.terminated.unsqueeze(-1))
    assert torch.equal(learner.target(batch), learner.target(far))
    assert torch.equal(learner.target(batch)[:, 2], torch.full((4,), 2.0))
    least, most = -0.2 / (1 - DISCOUNT), 2.0 / (1 - DISCOUNT)
    torch.testing.assert_close(learner.bounds, torch.tensor([least, most]))
    learner.offset.fill_(1e4)
    assert learner.target(batch)[:, 0].eq(learner.bounds[1]).all()
    free = make_learner(clip_targets=False)
    free.offset.fill_(1e4)
    assert free.target(batch)[:, 0].min() > 1e3


def test_seeds_are_policies_first_and_do_not_touch_each_other(make_learner):
    learner = make_learner()
    obs = torch.eye(3).expand(4, -1, -1)
    action = learner.act(obs)
    assert torch.equal(action[0], always_right(obs[0])) and torch.equal(action[1], action[0])
    assert torch.equal(action[2], left_at_first(obs[2])) and torch.equal(action[3], action[2])
    torch.manual_seed(0)
    one, other = make_learner(), make_learner()
    other.load_state_dict(one.state_dict())
    batch = rows().map(lambda column: column.repeat(4, *[1] * column.ndim))
    poisoned = batch.map(torch.clone)
    poisoned.reward[1] = torch.nan
    for learner, given in ((one, batch), (other, poisoned)):
        for _ in range(3):
            learner.update(given)
    a, b = (learner.state_values(torch.eye(3)).flatten(0, 1) for learner in (one, other))
    assert b[1].isnan().all() and torch.equal(a[[0, 2, 3]], b[[0, 2, 3]])


def test_a_value_needs_a_discount(make_learner):
    with pytest.raises(ValueError, match=r"fqe.discount=1.0 must lie in \[0, 1\)"):
        make_learner(discount=1.0)
