import pytest
import torch

from reverie.world_models.base import Step, WorldModel
from reverie.world_models.filters import FilterResult, KeepAll, TransitionFilter, UncertaintyPenalty
from reverie.world_models.sources import BranchedRollouts


class Counter(WorldModel):
    """Adds one to every state; ends a rollout at `end`; breaks down at `broken`."""

    def __init__(self, end=1e9, broken=1e9):
        super().__init__()
        self.end, self.broken = end, broken

    def fit(self, data, progress=None):
        return {}

    def signature(self):
        return {}

    def step(self, obs, action, candidates=1, state=None):
        next_obs = obs + 1
        next_obs = torch.where(next_obs >= self.broken, float("nan"), next_obs)
        return Step(
            next_obs=next_obs.expand(candidates, *obs.shape),
            reward=obs[..., 0].expand(candidates, *obs.shape[:-1]),
            terminated=(next_obs[..., 0] >= self.end).expand(candidates, *obs.shape[:-1]),
            uncertainty=obs[..., 0],
        )


class StopAt(TransitionFilter):
    """Ends rollouts at a state without calling it terminal, with or without that last row."""

    def __init__(self, limit, keep_last):
        super().__init__()
        self.limit, self.keep_last = limit, keep_last

    def forward(self, obs, action, step, elapsed_steps=0):
        inside = step.next_obs[0, ..., 0] < self.limit
        keep = torch.ones_like(inside) if self.keep_last else inside
        return FilterResult(step, keep=keep, goes_on=inside)


def policy(obs):
    return torch.zeros(*obs.shape[:-1], 2)


def rollouts(model, transition_filter=None, horizon=4, **options):
    return BranchedRollouts(
        model=model,
        transition_filter=transition_filter or KeepAll(),
        horizon=horizon,
        starts=3,
        every=10,
        retain=2,
        **({"actions": "policy"} | options),
    )


STARTS = torch.tensor([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]).unsqueeze(-1).expand(2, 3, 3)


def test_rows_follow_each_other_along_a_rollout():
    rows, keep = rollouts(Counter()).generate(policy, STARTS)
    assert rows.shape == (2, 12) and keep.all()
    by_step = rows.map(lambda column: column.unflatten(1, (4, 3)))
    assert torch.equal(by_step.obs[:, 1:], by_step.next_obs[:, :-1])
    assert torch.equal(by_step.obs[:, 0], STARTS)
    assert not rows.is_real.any()
    assert rollouts(Counter()).capacity == 4 * 3 * 2


def test_rollouts_stop_after_their_end_and_keep_the_terminal_row():
    rows, keep = rollouts(Counter(end=3.0)).generate(policy, STARTS)
    keep = keep.unflatten(1, (4, 3))
    # From 0 the terminal state 3 is reached in three steps, from 1 in two, from 2 in one.
    assert keep[0].sum(0).tolist() == [3, 2, 1]
    assert rows.terminated.unflatten(1, (4, 3))[0, 2, 0]
    # The second seed starts behind the end: one terminal row each.
    assert keep[1].sum(0).tolist() == [1, 1, 1]


def test_rows_that_are_not_finite_are_absent_and_end_their_rollout():
    rows, keep = rollouts(Counter(broken=3.0)).generate(policy, STARTS)
    assert keep.unflatten(1, (4, 3))[0].sum(0).tolist() == [2, 1, 0]
    assert rows.obs.isfinite().all()
    assert rows.next_obs[keep].isfinite().all()


@pytest.mark.parametrize("keep_last", [True, False])
def test_a_filter_can_end_a_rollout_without_a_terminal(keep_last):
    rows, keep = rollouts(Counter(), StopAt(3.0, keep_last)).generate(policy, STARTS)
    kept = keep.unflatten(1, (4, 3))[0].sum(0).tolist()
    assert kept == ([3, 2, 1] if keep_last else [2, 1, 0])
    assert not rows.terminated.any()


def test_the_share_of_steps_at_which_the_filter_cuts_is_measured():
    source = rollouts(Counter(), StopAt(3.0, True))
    assert source.metrics() == {}
    source.generate(policy, STARTS)
    # Three cuts in 3 + 2 + 1 steps; the second seed starts behind the limit.
    assert source.metrics()["cut"].tolist() == [0.5, 1.0]
    source = rollouts(Counter(end=3.0))
    source.generate(policy, STARTS)
    assert source.metrics()["cut"].tolist() == [0.0, 0.0]


def test_a_penalty_reaches_the_stored_reward():
    rows, _ = rollouts(Counter(), UncertaintyPenalty(penalty=2.0, unit="raw")).generate(
        policy, STARTS
    )
    assert torch.equal(rows.reward, rows.obs[..., 0] - 2 * rows.obs[..., 0])


def test_numbers_that_make_no_rollout_are_refused():
    with pytest.raises(ValueError, match=r"source\.horizon must be at least 1, got 0"):
        rollouts(Counter(), horizon=0)


def test_uniform_actions_fill_the_box_whatever_the_policy_does():
    starts = torch.zeros(2, 500, 1)
    rows, _ = rollouts(Counter(), actions="uniform").generate(policy, starts)
    assert rows.action.shape == (2, 2000, 2) and rows.action.abs().max() <= 1
    assert rows.action.flatten().histc(4, -1, 1).div(8000).sub(0.25).abs().max() < 0.03
    by_policy, _ = rollouts(Counter()).generate(policy, starts)
    assert (by_policy.action == 0).all()
