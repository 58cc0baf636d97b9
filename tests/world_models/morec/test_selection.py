"""Selection by a dynamics reward: exact choices, frequencies, and what a cut leaves in a replay."""

from math import exp

import pytest
import torch

from reverie.datasets.replay import Replay
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import Chain, UncertaintyPenalty
from reverie.world_models.morec.dynamics_reward import DynamicsReward
from reverie.world_models.morec.selection import PenalisedSelection, RewardSelection
from reverie.world_models.sources import BranchedRollouts


class FirstColumn(DynamicsReward):
    """The reward of a transition is the first coordinate of its next observation, nan if broken."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def score(self, obs, action, next_obs):
        finite = next_obs.isfinite().all(-1)
        return torch.where(finite, next_obs[..., 0], torch.nan)


HYPERPARAMETERS = {
    "dynamics_reward": FirstColumn(),
    "candidates": 3,
    "select": "argmax",
    "temperature": 0.1,
    "min_reward": 0.6,
    "min_length": 0,
    "on_cut": "terminal",
    "bound": None,
}


def selection(**changes):
    return RewardSelection(**{**HYPERPARAMETERS, **changes})


def proposal(scores):
    """Candidates [K, S, B] of given rewards; reward, state and end tell which one they were."""
    scores = torch.tensor(scores)
    number = torch.arange(len(scores)).view(-1, 1, 1).expand_as(scores).float()
    return Step(
        next_obs=torch.stack([scores, number], -1),
        reward=number,
        terminated=number == 2,
        uncertainty=torch.ones(scores.shape[1:]),
        state=number.unsqueeze(-1),
    )


def judge(judge, step, elapsed_steps=0):
    lead = step.reward.shape[1:]
    return judge(torch.zeros(*lead, 2), torch.zeros(*lead, 1), step, elapsed_steps)


NAN = float("nan")


def test_argmax_takes_the_best_the_first_of_equals_and_never_what_is_broken():
    #                       best is 1  equal 0, 2  nan at 0   all broken
    step = proposal([[[0.7, 1.0, NAN, NAN]], [[1.1, 0.9, 0.8, NAN]], [[0.9, 1.0, 0.7, NAN]]])
    filtered = judge(selection(), step)
    assert filtered.step.reward[0, 0].tolist() == [1, 0, 1, 0]
    assert torch.equal(filtered.step.next_obs[0, ..., 1], filtered.step.reward[0])
    assert torch.equal(filtered.step.state[0, ..., 0], filtered.step.reward[0])
    assert filtered.goes_on[0].tolist() == [True, True, True, False]
    assert filtered.step.terminated[0, 0].tolist() == [False, False, False, True]


def test_softmax_and_random_draw_with_their_probabilities():
    rows, scores, kappa = 20_000, [0.7, 0.9, 0.8], 0.2
    step = proposal([[[score] * rows] for score in scores])
    weights = torch.tensor([exp(score / kappa) for score in scores])
    for select, expected in (("softmax", weights / weights.sum()), ("random", torch.ones(3) / 3)):
        picked = judge(selection(select=select, temperature=kappa), step).step.reward.flatten()
        share = torch.bincount(picked.long(), minlength=3) / rows
        assert torch.allclose(share, expected, atol=0.015)  # more than four standard errors
    cold = judge(selection(select="softmax", temperature=1e-4), step).step
    assert (cold.reward == 1).all()
    broken = proposal([[[NAN] * 50], [[0.7] * 50], [[NAN] * 50]])
    assert (judge(selection(select="softmax"), broken).step.reward == 1).all()


@pytest.mark.parametrize("select", ["argmax", "softmax", "random"])
def test_an_infinite_candidate_loses_even_where_the_clip_would_make_it_finite(select):
    step = proposal([[[float("inf")] * 50], [[0.7] * 50], [[0.7] * 50]])
    step.reward[2] = NAN
    assert (judge(selection(select=select, bound=25.0), step).step.reward == 1).all()


def test_rollouts_under_selection_are_not_compiled_whole():
    def source(judge):
        return BranchedRollouts(
            model=Decline(),
            transition_filter=judge,
            horizon=2,
            starts=1,
            every=1,
            retain=1,
            actions="policy",
        )

    assert not source(PenalisedSelection(**HYPERPARAMETERS, penalty=1.0)).compiles
    assert source(UncertaintyPenalty(penalty=1.0, unit="raw")).compiles


def test_a_candidate_brings_its_own_termination_along():
    filtered = judge(selection(), proposal([[[0.7]], [[0.8]], [[0.9]]]))
    assert filtered.step.terminated.all() and filtered.keep.all()


def test_nothing_is_cut_before_the_least_length_or_at_the_least_reward():
    step = proposal([[[0.5, 0.5, 0.625]], [[0.1] * 3], [[0.1] * 3]])
    at_least = selection(min_length=2, min_reward=0.625)
    assert judge(at_least, step, elapsed_steps=1).goes_on.all()
    assert judge(at_least, step, elapsed_steps=2).goes_on[0].tolist() == [False, False, True]
    elapsed = torch.tensor([[1, 2, 2]])
    assert judge(at_least, step, elapsed_steps=elapsed).goes_on[0].tolist() == [True, False, True]
    assert judge(selection(min_reward=0.0), step).goes_on.all()


def test_observations_are_clipped_before_they_are_judged_and_stored():
    step = proposal([[[30.0]], [[0.7]], [[-40.0]]])
    filtered = judge(selection(bound=0.5), step)
    assert filtered.step.next_obs[0, 0, 0].tolist() == [0.5, 0.0] and not filtered.goes_on.any()


class Decline(WorldModel):
    """The reward that `FirstColumn` sees falls by 0.25 a step, and the better of two is the last.

    From 1.0 the chosen rewards are 0.75 and 0.5, the last of which is cut.
    """

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        worse = torch.tensor([0.1, 0.1, 0.0]).view(-1, 1, 1, 1)
        next_obs = obs - 0.25 - worse
        lead = next_obs.shape[:-1]
        return Step(
            next_obs, torch.ones(lead), torch.zeros(lead, dtype=torch.bool), torch.ones(lead[1:])
        )


@pytest.mark.parametrize(
    ("on_cut", "stored", "terminal"),
    [("terminal", [0.75, 0.5], [0.5]), ("timeout", [0.75, 0.5], []), ("drop", [0.75], [])],
)
def test_what_a_cut_leaves_in_the_replay(on_cut, stored, terminal):
    source = BranchedRollouts(
        model=Decline(),
        transition_filter=PenalisedSelection(**{**HYPERPARAMETERS, "on_cut": on_cut}, penalty=0.25),
        horizon=4,
        starts=2,
        every=1,
        retain=1,
        actions="policy",
    )
    rows, keep = source.generate(lambda obs: obs[..., :1], torch.ones(1, 2, 2))
    replay = Replay(rows[0, :1], seeds=1, capacity=source.capacity)
    replay.add(rows, keep)
    assert replay.size.tolist() == [2 * len(stored)]
    held = replay.sample(1, 200)
    assert sorted(set(held.next_obs[..., 0].flatten().tolist())) == sorted(stored)
    assert set(held.next_obs[held.terminated][:, 0].tolist()) == set(terminal)
    assert set(held.reward.flatten().tolist()) == {0.75}  # the penalty, after the selection


def test_selection_composes_with_other_filters_first_in_the_chain():
    step = proposal([[[0.7]], [[0.8]], [[0.1]]])
    chain = Chain(filters=[selection(), UncertaintyPenalty(penalty=2.0, unit="raw")])
    assert chain.candidates == 3
    assert judge(chain, step).step.reward.item() == 1 - 2
    late = Chain(
        filters=[
            selection(min_length=1, min_reward=9.0),
            UncertaintyPenalty(penalty=2.0, unit="raw"),
        ]
    )
    assert (
        judge(late, step, elapsed_steps=0).goes_on.all()
        and not judge(late, step, elapsed_steps=1).goes_on.any()
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"select": "best"}, r"filter.select='best' is unknown; use one of \['argmax'"),
        ({"on_cut": "end"}, r"filter.on_cut='end' is unknown; use one of \['terminal'"),
        ({"temperature": 0.0}, "select=argmax"),
        ({"candidates": 0}, "filter.candidates=0"),
        ({"bound": 0.0}, "null for no clip"),
    ],
)
def test_wrong_numbers_are_refused(changes, expected):
    with pytest.raises(ValueError, match=expected):
        selection(**changes)
