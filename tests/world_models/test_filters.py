from dataclasses import replace

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import (
    Chain,
    FilterResult,
    KeepAll,
    TransitionFilter,
    UncertaintyPenalty,
    Unending,
)


def proposal(candidates=1):
    return Step(
        next_obs=torch.randn(candidates, 2, 4, 3),
        reward=torch.ones(candidates, 2, 4),
        terminated=torch.zeros(candidates, 2, 4, dtype=torch.bool),
        uncertainty=torch.arange(8.0).view(2, 4),
    )


class Best(TransitionFilter):
    """Takes the second of two candidates and drops rows of low uncertainty."""

    candidates = 2

    def forward(self, obs, action, step, elapsed_steps=0):
        chosen = Step(
            step.next_obs[1:], step.reward[1:] + 10, step.terminated[1:], step.uncertainty
        )
        keep = step.uncertainty > 2
        return FilterResult(chosen, keep=keep, goes_on=keep)


def test_the_penalty_is_paid_once_per_unit_of_uncertainty():
    filtered = UncertaintyPenalty(penalty=0.5, unit="raw")(
        torch.zeros(2, 4, 3), torch.zeros(2, 4, 2), proposal()
    )
    assert torch.equal(filtered.step.reward[0], 1 - 0.5 * torch.arange(8.0).view(2, 4))
    assert filtered.keep.all() and filtered.goes_on.all()


def test_keep_all_changes_nothing():
    step = proposal()
    filtered = KeepAll()(torch.zeros(2, 4, 3), torch.zeros(2, 4, 2), step)
    assert torch.equal(filtered.step.reward, step.reward) and filtered.keep.all()


def test_unending_rollouts_go_on_and_forget_their_ends():
    step = replace(proposal(), terminated=torch.rand(1, 2, 4) < 0.5)
    assert step.terminated.any()
    filtered = Unending()(torch.zeros(2, 4, 3), torch.zeros(2, 4, 2), step)
    assert filtered.keep.all() and filtered.goes_on.all() and not filtered.step.terminated.any()
    assert torch.equal(filtered.step.next_obs, step.next_obs)


def test_a_chain_selects_first_and_then_penalises_what_was_selected():
    chain = Chain(filters=[Best(), UncertaintyPenalty(penalty=1.0, unit="raw")])
    assert chain.candidates == 2
    step = proposal(2)
    filtered = chain(torch.zeros(2, 4, 3), torch.zeros(2, 4, 2), step)
    assert torch.equal(filtered.step.next_obs[0], step.next_obs[1])
    assert torch.equal(filtered.step.reward[0], 11 - step.uncertainty)
    assert torch.equal(filtered.keep, step.uncertainty > 2)


def test_a_chain_refuses_a_selecting_filter_behind_another():
    with pytest.raises(ValueError, match="put the selecting filter first"):
        Chain(filters=[KeepAll(), Best()])


def test_a_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        UncertaintyPenalty(penalty=-1.0, unit="raw")


class Doubtful(WorldModel):
    """Is unsure of a row by the size of its first column, seed 1 twice as much."""

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        doubt = obs[..., 0].abs() * torch.arange(1.0, len(obs) + 1).unsqueeze(1)
        lead = (candidates, *obs.shape[:-1])
        return Step(
            next_obs=obs.expand(*lead, -1),
            reward=torch.zeros(lead),
            terminated=torch.zeros(lead, dtype=torch.bool),
            uncertainty=doubt,
        )


def test_a_penalty_in_units_of_the_data_pays_its_share_of_their_rewards_spread(make_dataset):
    data = make_dataset(episodes=2)
    doubt = data.transitions.obs[:, 0].abs().mean()
    spread = data.transitions.reward.std(correction=0)
    penalty = UncertaintyPenalty(penalty=0.5, unit="data")
    with pytest.raises(RuntimeError, match="call prepare first"):
        penalty(torch.zeros(2, 4, 3), torch.zeros(2, 4, 2), proposal())
    told = penalty.prepare(data, Doubtful(), seeds=2, discount=0.9)
    assert f"{float(0.5 * spread / doubt):.4g}, {float(0.25 * spread / doubt):.4g}" in told
    reward = penalty(torch.zeros(2, 4, 3), torch.zeros(2, 4, 2), proposal()).step.reward[0]
    usual = torch.stack([doubt, 2 * doubt]).unsqueeze(1)
    assert torch.allclose(reward, 1 - 0.5 * spread * proposal().uncertainty / usual)


def test_a_penalty_in_units_of_the_data_needs_a_model_that_is_ever_unsure(make_dataset):
    data = make_dataset(episodes=2)
    sure = replace(data, transitions=replace(data.transitions, obs=0 * data.transitions.obs))
    with pytest.raises(Mistake, match=r"set filter\.unit=raw"):
        UncertaintyPenalty(penalty=0.5, unit="data").prepare(
            sure, Doubtful(), seeds=1, discount=0.9
        )


def test_an_unknown_unit_of_a_penalty_is_refused():
    with pytest.raises(Exception, match="unit"):
        UncertaintyPenalty(penalty=1.0, unit="metres")
