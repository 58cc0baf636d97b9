"""Copied columns: exact in every dreamed step, no part of losses, uncertainty or diagnostics."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.datasets import stack
from reverie.datasets.build import build
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training.launch.options import build_option
from reverie.world_models import diagnostics
from reverie.world_models.copies import Copies
from reverie.world_models.filters import KeepAll
from reverie.world_models.gaussian import gaussian_loss
from reverie.world_models.sources import BranchedRollouts


@pytest.fixture(scope="module")
def log():
    """A level that follows the action, and a demand that counts up, exogenous; two pumps."""
    rng = np.random.default_rng(0)
    episodes, length = 8, 70
    obs = np.zeros((episodes, length + 1, 2))
    action = rng.uniform(-1, 1, (episodes, length, 2))
    obs[:, 0] = rng.normal(size=(episodes, 2))
    for t in range(length):
        obs[:, t + 1, 0] = 0.9 * obs[:, t, 0] + 0.2 * action[:, t, 0] + 0.1 * obs[:, t, 1]
        obs[:, t + 1, 1] = obs[:, t, 1] + 0.5
    ends = np.zeros((episodes, length), bool)
    ends[:, -1] = True
    return build(
        name="log",
        spec=Spec(None, 2, 2, (-1.0, 0.0), (1.0, 10.0), exogenous=(1,)),
        obs=obs[:, :-1].reshape(-1, 2),
        next_obs=obs[:, 1:].reshape(-1, 2),
        action=(action * [1, 5] + [0, 5]).reshape(-1, 2),
        reward=-np.abs(obs[:, :-1, 0]).ravel(),
        terminated=np.zeros(episodes * length),
        truncated=ends.ravel(),
        reference=None,
        origin={},
        clip_actions=False,
    )


@pytest.fixture(scope="module")
def histories(log):
    return stack(log, 3)


def fitted(make_ensemble, data, **changes):
    model = make_ensemble(spec=data.spec, seeds=2, **changes)
    model.fit(data)
    return model


def follow(model, data, steps, **more):
    """Dreamed observations `[steps + 1, 2, 5, D]` and actions `[steps, 2, 5, A]`."""
    torch.manual_seed(0)
    obs = data.transitions.obs[:5].expand(2, -1, -1)
    state = model.begin(obs, torch.arange(5).expand(2, -1))
    seen, done = [obs], []
    for _ in range(steps):
        action = torch.rand(2, 5, 2) * 2 - 1
        step = model.advance(obs, action, 1, state, **more)
        obs, state = step.next_obs[0], None if step.state is None else step.state[0]
        seen.append(obs)
        done.append(action)
    return torch.stack(seen), torch.stack(done)


@pytest.mark.parametrize("kind", [{}, {"sampled": True}, {"expected": True}])
@pytest.mark.parametrize("changes", [{}, {"members": 1, "elites": 1}, {"per_seed": False}])
def test_fifty_dreamed_steps_keep_their_own_past(make_ensemble, histories, changes, kind):
    model = fitted(make_ensemble, histories, max_epochs=1, **changes)
    model.replay_exogenous(histories)
    seen, done = follow(model, histories, 50, **kind)
    assert torch.equal(seen[1:, ..., 2:4], seen[:-1, ..., :2])
    assert torch.equal(seen[2:, ..., 4:6], seen[:-2, ..., :2])
    assert torch.equal(seen[1:, ..., 6:8], done)
    assert torch.equal(seen[2:, ..., 8:10], done[:-1])
    # The demand of now comes from the record, and its past from what was met.
    recorded = histories.transitions.next_obs[torch.arange(5)[:, None] + torch.arange(50), 1]
    assert torch.equal(seen[1:, 0, :, 1], recorded.T)


def test_what_is_expected_keeps_its_own_past_too(make_ensemble, histories):
    model = fitted(make_ensemble, histories, max_epochs=1)
    model.replay_exogenous(histories)
    seen, done = follow(model, histories, 5, expected=True)
    assert torch.equal(seen[1:, ..., 2:4], seen[:-1, ..., :2])
    assert torch.equal(seen[1:, ..., 6:8], done)


def test_a_kept_member_and_the_row_of_the_record_share_a_state(make_ensemble, histories):
    model = fitted(make_ensemble, histories, max_epochs=1, rollout_member="rollout")
    model.replay_exogenous(histories)
    obs = histories.transitions.obs[:5].expand(2, -1, -1)
    state = begun = model.begin(obs, torch.arange(5).expand(2, -1))
    assert state.shape == (2, 5, 2) and state.dtype == torch.float64
    for t in range(1, 4):
        step = model.advance(obs, torch.zeros(2, 5, 2), 1, state)
        obs, state = step.next_obs[0], step.state[0]
        assert torch.equal(state[..., 0], begun[..., 0])
        assert torch.equal(state[..., 1], begun[..., 1] + t)
    planned = model.begin(obs, torch.arange(5).expand(2, -1), expected=True)
    assert planned.shape == (2, 5, 1)  # the row alone: plans answer by the mean
    assert model.advance(obs, torch.zeros(2, 5, 2), 1, planned, expected=True).state.shape[-1] == 1


def test_all_elites_copy_and_gradients_pass(make_ensemble, histories):
    model = fitted(make_ensemble, histories, max_epochs=1)
    rows = histories.transitions[:6]
    obs, action = (each.expand(2, -1, -1).clone() for each in (rows.obs, rows.action))
    mean, std = model.predict(obs, action)
    assert mean.shape == (2, 2, 6, 11)
    copied = rows.next_obs[:, 2:].expand(2, 2, -1, -1)
    assert torch.equal(mean[..., 2:-1], copied) and (std[..., 1:-1] == 0).all()
    assert (std[..., 0] > 0).all()
    action.requires_grad_()
    model.step(obs, action, 3).next_obs[..., 6].sum().backward()
    assert torch.equal(action.grad, torch.tensor([3.0, 0.0]).expand(2, 6, 2))


def test_loss_error_and_uncertainty_are_those_of_fresh_columns(make_ensemble, histories):
    model = fitted(make_ensemble, histories, max_epochs=1)
    gaussians = model.gaussians
    assert gaussians.learned.tolist() == [0, 10]
    rows = model.table(histories)[:20].expand(2, 3, -1, -1)
    other = rows.clone()
    other[..., 12 + 1 : 12 + 10] += 5.0  # targets of what is exogenous or copied
    weight = torch.ones(20)
    assert torch.equal(gaussians.loss(rows, weight), gaussians.loss(other, weight))
    assert torch.equal(gaussians.errors(rows), gaussians.errors(other))
    inputs, target = rows.split(gaussians.widths, -1)
    mean, log_variance = gaussians(inputs)
    by_hand = gaussian_loss(
        *(each[..., [0, 10]] for each in (mean, log_variance, target)), weight
    ).sum(-1)
    bounds = (gaussians.high - gaussians.low).sum((1, 2, 3))
    assert torch.allclose(gaussians.loss(rows, weight), by_hand + 0.01 * bounds)
    obs, action = (each[:, 0] for each in rows[..., :12].split([10, 2], -1))
    wide = log_variance.mul(0.5).exp()[..., [0, 10]]
    assert torch.allclose(
        model.step(obs, action).uncertainty, torch.linalg.vector_norm(wide, dim=-1).amax(1)
    )


def test_copies_can_be_learned_like_all_others(make_ensemble, histories):
    model = fitted(make_ensemble, histories, max_epochs=1, respect_copies=False)
    assert model.gaussians.learned.tolist() == [0, *range(2, 11)]
    seen, _ = follow(model, histories, 3)
    assert not torch.equal(seen[1:, ..., 2], seen[:-1, ..., 0])
    respecting = make_ensemble(spec=histories.spec)
    assert "copies" in respecting.signature() and "copies" not in model.signature()
    plain = replace(histories.spec, copies=())
    assert make_ensemble(spec=plain).signature() == make_ensemble(
        spec=histories.spec, respect_copies=False
    ).signature() | {"replicas": 1}


def test_diagnostics_judge_fresh_columns(make_ensemble, histories):
    model = fitted(make_ensemble, histories, max_epochs=2)
    measured = diagnostics.measure(model, histories, episodes=torch.arange(2))
    one_step = measured["one_step"]["rmse"][0]
    assert one_step[0] is not None and one_step[1:] == [None] * 9
    errors = measured["open_loop"]["constant"]["column_median"][0]
    assert all(error > 0 for error in errors)


def test_rollouts_branch_off_histories(make_ensemble, histories):
    model = fitted(make_ensemble, histories, max_epochs=1)
    source = BranchedRollouts(
        model=model,
        transition_filter=KeepAll(),
        horizon=4,
        starts=6,
        every=1,
        retain=1,
        actions="policy",
    )
    starts = histories.transitions.obs[:6].expand(2, -1, -1)
    rows, _ = source.generate(lambda obs: obs[..., :2].tanh(), starts)
    assert torch.equal(rows.next_obs[..., 2:4], rows.obs[..., :2])
    assert torch.equal(rows.next_obs[..., 6:8], rows.action)


def test_nothing_is_copied_where_nothing_is_told():
    copies = Copies(Spec(None, 2, 1, (-1.0,), (1.0,)))
    next_obs = torch.randn(3, 2)
    assert copies(torch.randn(3, 2), torch.randn(3, 1), next_obs) is next_obs


def test_equations_of_copies_are_refused(histories):
    with pytest.raises(Mistake, match=r"choose world_model=ensemble, or set both to null"):
        build_option("world_model", "sindy", changes={}, spec=histories.spec, seeds=1, seed=0)


def test_an_exported_model_copies_too(make_ensemble, histories, tmp_path):
    pytest.importorskip("onnxruntime")
    from reverie.training.export import world_model

    found = replace(histories.spec, stacked_obs=1, stacked_actions=0)  # as in a log of a plant
    data = replace(histories, spec=found)
    model = fitted(make_ensemble, data, max_epochs=1)
    unit = data.transitions.action[:20].numpy()
    inputs = {"obs": data.transitions.obs[:20].numpy()}
    inputs["action"] = (unit * [1, 5] + [0, 5]).astype(np.float32)
    wanted = world_model.expected(model, 1, inputs["obs"], unit)
    measured = world_model.export(model, 1, found, inputs, wanted, tmp_path, 2)
    assert measured.difference < 1e-5
    assert np.array_equal(wanted["next_obs"][:, 2:4], inputs["obs"][:, :2])
