"""Rollouts are cut where members disagree more than on the data, and what is cut bootstraps."""

from dataclasses import replace

import pytest
import torch

from reverie.agents.losses import bellman_target
from reverie.mistake import Mistake
from reverie.world_models.base import Step
from reverie.world_models.sources import BranchedRollouts
from reverie.world_models.truncation import SLACK, UncertaintyQuantile
from tests.world_models.test_halt import Ruler


@pytest.fixture
def data(make_dataset):
    """Hundred rows; the first column of the states is 0, 0.01, ..., 0.99."""
    found = make_dataset(episodes=2)
    obs = found.transitions.obs.clone()
    obs[:, 0] = torch.arange(100) / 100
    return replace(found, transitions=replace(found.transitions, obs=obs))


def cut(data, quantile=1.0, keep_last=False, seeds=2):
    judge = UncertaintyQuantile(quantile=quantile, keep_last=keep_last)
    told = judge.prepare(data, Ruler(), seeds=seeds, discount=0.9)
    return judge, told


def test_the_limit_is_a_quantile_of_every_seed_and_stays_where_it_was(data):
    judge, told = cut(data, 0.9)
    limit = torch.tensor([[0.89], [1.78]]) * (1 + SLACK)
    torch.testing.assert_close(judge.limit, limit)
    torch.testing.assert_close(judge.metrics()["beyond_limit"], torch.full((2,), 0.1))
    assert told is not None and "0.8909, 1.782" in told
    place = judge.limit.data_ptr()
    judge.prepare(data, Ruler(), seeds=2, discount=0.9)
    assert judge.limit.data_ptr() == place and not judge.state_dict()


@pytest.mark.parametrize("keep_last", [False, True])
def test_a_cut_is_a_truncation_that_bootstraps_and_changes_nothing_else(data, keep_last):
    judge, _ = cut(data, keep_last=keep_last, seeds=1)
    step = Step(
        next_obs=torch.randn(1, 1, 4, 2),
        reward=torch.randn(1, 1, 4),
        terminated=torch.tensor([[[False, True, False, False]]]),
        uncertainty=torch.tensor([[0.5, 0.5, 2.0, float("nan")]]),
        state=torch.randn(1, 1, 4, 3),
    )
    found = judge(torch.zeros(1, 4, 2), torch.zeros(1, 4, 1), step)
    assert found.step is step
    assert found.goes_on.tolist() == [[True, True, False, False]]
    assert found.keep.tolist() == [[True, True, keep_last, keep_last]]
    # Rows of rollouts from 0.5 to the right: the one that leaves the data is no end of anything.
    source = BranchedRollouts(
        model=Ruler(),
        transition_filter=judge,
        horizon=9,
        starts=1,
        every=1,
        retain=1,
        actions="policy",
    )
    starts = torch.full((1, 4, 2), 0.5)
    rows, keep = source.generate(lambda obs: torch.full_like(obs[..., :1], 0.2), starts)
    assert not rows.terminated.any()
    # At 0.5, 0.7 and 0.9 the model is known; 1.1 is beyond.
    assert keep.view(9, 4).sum(0).tolist() == [3 + keep_last] * 4
    target = bellman_target(rows.reward, rows.terminated, torch.ones_like(rows.reward), 0.9)
    torch.testing.assert_close(target[keep], rows.reward[keep] + 0.9)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_recorded_rows_are_never_cut_at_quantile_one_and_far_states_always_are(
    make_ensemble, make_dataset, layer_norm
):
    recorded = make_dataset(noise=0.05)
    # A column in other units must not drown the others, nor one that hardly moves at all.
    model = make_ensemble(
        seeds=2,
        members=8,
        elites=5,
        uncertainty="scaled_ensemble_std",
        layer_norm=layer_norm,
        max_epochs=20,
        rollout_member="rollout",
    )
    model.fit(recorded)
    judge = UncertaintyQuantile(quantile=1.0, keep_last=False)
    judge.prepare(recorded, model, seeds=2, discount=0.99)
    rows = recorded.transitions

    def goes_on(obs, action):
        obs, action = obs.expand(2, -1, -1), action.expand(2, -1, -1)
        return judge(obs, action, model.step(obs, action, 1, model.begin(obs))).goes_on

    # In batches of another size than the limit was measured in.
    assert goes_on(rows.obs, rows.action).all()
    for few in (1, 7):
        assert goes_on(rows.obs[:few], rows.action[:few]).all()
    directions = torch.nn.functional.normalize(torch.randn(200, 2), dim=-1)
    far = rows.obs.mean(0) + 40 * rows.obs.std(0) * directions
    assert not goes_on(far, rows.action[:200]).any()
    strict = UncertaintyQuantile(quantile=0.5, keep_last=False)
    strict.prepare(recorded, model, seeds=2, discount=0.99)
    torch.testing.assert_close(strict.beyond_limit, torch.full((2,), 0.5), atol=0.02, rtol=0)


def test_scaled_doubt_counts_in_deviations_and_constants_are_no_unit(make_ensemble, make_dataset):
    model = make_ensemble(members=4, elites=2, uncertainty="scaled_ensemble_std")
    model.fit(make_dataset(noise=0.05))
    obs, action = torch.randn(1, 6, 2), torch.rand(1, 6, 1)
    for deviations in ([2.0, 0.5], [2.0, 1e-8]):
        model.gaussians.input_std[..., :2] = torch.tensor(deviations)
        mean, _ = model.all_members(obs, action)
        unit = torch.tensor([2.0, 0.5 if deviations[1] > 1e-6 else 1.0])
        wanted = (mean[..., :2] / unit).var(1, correction=0).mean(-1).sqrt()
        torch.testing.assert_close(model.step(obs, action).uncertainty, wanted)


def test_a_model_without_a_finite_doubt_sets_no_limit(data):
    broken = replace(data.transitions, obs=data.transitions.obs * torch.nan)
    with pytest.raises(Mistake, match="is not finite, so it sets no limit"):
        cut(replace(data, transitions=broken))
    obs, action = torch.zeros(1, 1, 2), torch.zeros(1, 1, 1)
    with pytest.raises(RuntimeError, match="not measured; call prepare"):
        UncertaintyQuantile(quantile=1.0, keep_last=False)(obs, action, Ruler().step(obs, action))
