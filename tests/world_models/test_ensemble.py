"""The ensemble's fit and step: what is used, what is kept, and that seeds never touch."""

import math
from dataclasses import replace

import pytest
import torch

from reverie.mistake import Mistake
from reverie.world_models.base import Step
from reverie.world_models.ensemble import ProbabilisticEnsemble


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def fit_table(model, inputs, targets, rows, seed=0):
    """Fit from the present weights on a fresh random stream."""
    torch.manual_seed(seed)
    return model.fit_rows(inputs, targets, rows)


def table(rows=300, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 3, generator=generator)
    targets = inputs @ torch.randn(3, 3, generator=generator)
    return inputs, targets + 0.1 * torch.randn(rows, 3, generator=generator)


def constant_model(make_ensemble, mean, std, **changes):
    """A fitted model whose member e predicts mean[e] with std[e], whatever the input."""
    model = make_ensemble(**({"members": len(mean)} | changes))
    with torch.no_grad():
        for parameter in model.gaussians.network.parameters():
            parameter.zero_()
        model.gaussians.low.fill_(-60.0)
        model.gaussians.high.fill_(60.0)
        bias = model.gaussians.network.layers[-1].bias  # [L, E, 1, 2 (D + 1)]
        bias[..., :3] = torch.tensor(mean).view(1, -1, 1, 1)
        bias[..., 3:] = 2 * torch.tensor(std).log().view(1, -1, 1, 1)
    model.ready = True
    return model


# ---------------------------------------------------------------------------- fit


def test_a_fit_learns_the_dynamics_and_describes_itself(make_ensemble, make_dataset):
    data = make_dataset(noise=0.01)
    epochs = []
    model = make_ensemble(max_epochs=120, patience=30, learning_rate=1e-2)
    described = model.fit(data, lambda epoch, loss: epochs.append((epoch, loss)))
    assert described["rows"] == 1000 and described["holdout_rows"] == 200
    assert described["train_rows"] == 800 and described["heldout_episodes"] == 0
    assert [epoch for epoch, _ in epochs] == list(range(1, described["epochs"][0] + 1))
    assert [loss for _, loss in epochs] == pytest.approx(described["holdout_loss"][0])
    assert described["holdout_loss"][0][-1] < 0.05 * described["holdout_loss"][0][0]
    assert all(isinstance(loss, float) for loss in described["best_loss"][0])
    assert described["termination"]["kind"] == "none"
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_elites_are_the_members_with_the_lowest_best_loss(make_ensemble, make_dataset):
    model = make_ensemble(members=5, elites=3, seeds=2)
    described = model.fit(make_dataset(noise=0.05))
    for losses, elites in zip(described["best_loss"], described["elites"], strict=True):
        assert elites == sorted(range(5), key=losses.__getitem__)[:3]
    assert model.elite_members.tolist() == described["elites"]


def test_the_restored_weights_are_those_of_the_best_epoch(make_ensemble, monkeypatch):
    """Errors are scripted: member 0 is best in epoch 2, member 1 in epoch 1."""
    model = make_ensemble(members=2, elites=1, patience=2, max_epochs=None)
    script = iter([[5.0, 1.0], [3.0, 9.0], [8.0, 9.0], [8.0, 9.0], [0.0, 0.0]])
    seen = []

    def errors(rows):
        seen.append(model.gaussians.snapshot())
        return torch.tensor([next(script)])

    monkeypatch.setattr(model.gaussians, "errors", errors)
    inputs, targets = table()
    described = fit_table(model, inputs, targets, torch.arange(300).expand(1, -1))
    assert described["epochs"] == [4] and len(seen) == 4
    assert described["best_loss"] == [[3.0, 1.0]] and described["elites"] == [[1]]
    *network, low, high = model.gaussians.trained_parameters()
    for i, parameter in enumerate(network):
        assert torch.equal(parameter[:, 0], seen[1][i][:, 0])
        assert torch.equal(parameter[:, 1], seen[0][i][:, 1])
    # The bounds belong to no member: they stay as the last epoch left them.
    assert torch.equal(low, seen[3][-2]) and torch.equal(high, seen[3][-1])
    assert not torch.equal(low, seen[1][-2])


def test_a_seed_that_stopped_is_frozen_while_others_go_on(make_ensemble, monkeypatch):
    model = make_ensemble(seeds=2, members=1, elites=1, patience=2, max_epochs=None)
    losses = iter([[8.0, 8.0], [9.0, 4.0], [9.0, 2.0], [1.0, 1.0], [0.1, 9.0], [0.1, 9.0]])
    seen = []

    def errors(rows):
        seen.append(model.gaussians.snapshot())
        return torch.tensor(next(losses)).unsqueeze(-1)

    monkeypatch.setattr(model.gaussians, "errors", errors)
    inputs, targets = table()
    described = fit_table(model, inputs, targets, torch.arange(300).expand(2, -1))
    assert described["epochs"] == [3, 6]
    assert described["holdout_loss"] == [[8.0, 9.0, 9.0], [8.0, 4.0, 2.0, 1.0, *[9.0] * 2]]
    *network, low, high = model.gaussians.trained_parameters()
    for i, parameter in enumerate(network):
        assert torch.equal(parameter[0], seen[0][i][0])  # its best epoch
        assert torch.equal(parameter[1], seen[3][i][1])
    for i, bound in ((-2, low), (-1, high)):
        assert torch.equal(bound[0], seen[2][i][0])  # the epoch it stopped in
        assert torch.equal(bound[1], seen[5][i][1])


def test_every_member_trains_on_its_bootstrap_rows_each_epoch(make_ensemble, monkeypatch):
    """Each epoch shows a member the same multiset, and never a holdout row."""
    model = make_ensemble(members=2, elites=1, batch=32, max_epochs=3, patience=9)
    inputs, targets = table(130)
    inputs[:, 0] = torch.arange(130)  # a row's number
    batches = []

    def update(optimiser, rows, weight):
        batches.append((rows[0, :, weight > 0, 0], rows.shape[2]))
        return torch.zeros(1)

    held = []
    true_errors = model.gaussians.errors
    monkeypatch.setattr(model.gaussians, "update", update)
    monkeypatch.setattr(
        model.gaussians, "errors", lambda rows: held.append(rows[0, 0, :, 0]) or true_errors(rows)
    )
    described = fit_table(model, inputs, targets, torch.arange(130).expand(1, -1))
    assert described["train_rows"] == 104 and described["holdout_rows"] == 26
    # 104 rows: three full batches and one of 8 rows, filled up to the common shape.
    assert [rows.shape[1] for rows, _ in batches] == [32, 32, 32, 8] * 3
    assert {size for _, size in batches} == {32}
    epochs = [torch.cat([rows for rows, _ in batches[i : i + 4]], 1) for i in (0, 4, 8)]
    for epoch in epochs[1:]:
        assert not torch.equal(epoch, epochs[0])
        assert torch.equal(epoch.sort(-1).values, epochs[0].sort(-1).values)
    assert not torch.equal(epochs[0][0].sort().values, epochs[0][1].sort().values)
    assert len(held[0].unique()) == 26
    assert not set(held[0].tolist()) & set(epochs[0].flatten().tolist())


@pytest.mark.parametrize(("updates", "epochs"), [(9, 2), (1, 1)])
def test_an_automatic_cap_counts_updates_and_leaves_one_epoch(
    make_ensemble, monkeypatch, updates, epochs
):
    monkeypatch.setattr("reverie.world_models.fitting.AUTO_UPDATES", updates)
    model = make_ensemble(batch=32, max_epochs="auto", patience=9)
    inputs, targets = table(130)  # 104 rows to fit, four batches an epoch
    assert fit_table(model, inputs, targets, torch.arange(130).expand(1, -1))["epochs"] == [epochs]


@pytest.mark.parametrize(("least", "epochs"), [(0, 3), (8, 3), (9, 4), (400, 101)])
def test_patience_has_at_least_so_many_updates(make_ensemble, monkeypatch, least, epochs):
    model = make_ensemble(members=2, elites=1, batch=32, patience=2, max_epochs=None)
    losses = iter([1.0, *[2.0] * 200])
    monkeypatch.setattr(model.gaussians, "errors", lambda rows: torch.full((1, 2), next(losses)))
    inputs, targets = table(130)  # 104 rows to fit, four batches an epoch
    rows = torch.arange(130).expand(1, -1)
    assert model.fit_rows(inputs, targets, rows, None, least)["epochs"] == [epochs]


def test_small_data_are_fitted_with_the_patience_that_is_set(make_ensemble, make_dataset):
    epochs = {}
    for least in (0, 60):
        model = make_ensemble(batch=64, patience=1, improvement=0.9, patience_updates=least)
        model.max_epochs = 40
        epochs[least] = model.fit(make_dataset(episodes=10, length=20))["epochs"][0]
        assert ("patience_updates" in model.signature()) == bool(least)
    assert epochs[60] >= 20 > epochs[0]


def test_the_input_scaler_sees_training_rows_only(make_ensemble, monkeypatch):
    model = make_ensemble(max_epochs=1)
    kept = []
    original = model.gaussians.errors
    monkeypatch.setattr(
        model.gaussians, "errors", lambda rows: kept.append(rows[0, 0]) or original(rows)
    )
    inputs, targets = table(100)
    fit_table(model, inputs, targets, torch.arange(100).expand(1, -1))
    held = kept[0][:, :3]
    train = inputs[~(inputs[:, None] == held).all(-1).any(1)]
    assert len(train) == 80
    torch.testing.assert_close(model.gaussians.input_mean.flatten(), train.mean(0))
    torch.testing.assert_close(model.gaussians.input_std.flatten(), train.std(0, correction=0))


def test_rows_without_a_true_next_observation_are_never_used(make_ensemble, make_dataset):
    data = make_dataset(noise=0.01)
    ends = data.truncated.nonzero().flatten()
    valid = data.valid_next.clone()
    valid[ends] = False
    broken = data.transitions.next_obs.clone()
    broken[ends] = torch.nan
    poisoned = replace(
        data, valid_next=valid, transitions=replace(data.transitions, next_obs=broken)
    )
    model = make_ensemble()
    described = model.fit(poisoned)
    assert described["rows"] == 980
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_time_limit_rows_with_a_true_next_observation_are_used(make_ensemble, make_dataset):
    data = make_dataset()
    assert data.truncated.any()
    assert make_ensemble(max_epochs=1).fit(data)["rows"] == len(data)


def test_held_out_episodes_stay_out_of_the_fit(make_ensemble, make_dataset):
    data = make_dataset(episodes=40, length=20, noise=0.01)
    model = make_ensemble(heldout_episodes=3, max_epochs=2)
    episodes = model.held_out(data)
    broken = data.transitions.next_obs.clone().view(40, 20, 2)
    broken[episodes] = torch.nan
    poisoned = replace(data, transitions=replace(data.transitions, next_obs=broken.view(-1, 2)))
    described = model.fit(poisoned)
    assert described["heldout_episodes"] == 3 and described["rows"] == 37 * 20


def test_a_fit_follows_from_its_seed_and_leaves_the_callers_stream_alone(
    make_ensemble, make_dataset
):
    data = make_dataset(noise=0.01, terminal_above=1.5)
    torch.manual_seed(5)
    first = make_ensemble(seed=7, termination="learned")
    before = torch.get_rng_state()
    first.fit(data)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = make_ensemble(seed=7, termination="learned")
    second.fit(data)
    other = make_ensemble(seed=8, termination="learned")
    other.fit(data)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.gaussians.low, other.gaussians.low)


def test_fitting_again_starts_over(make_ensemble, make_dataset):
    data = make_dataset(noise=0.01, terminal_above=1.5)
    model = make_ensemble(termination="learned")
    model.fit(data)
    once = state(model)
    model.fit(data)
    assert all(torch.equal(value, once[name]) for name, value in model.state_dict().items())


def test_one_shared_ensemble_equals_a_solo_one(make_ensemble, make_dataset):
    data = make_dataset(noise=0.01)
    shared, solo = make_ensemble(seeds=3, per_seed=False), make_ensemble(seeds=1)
    assert shared.fit(data) == solo.fit(data)
    for name, value in shared.state_dict().items():
        assert torch.equal(value, solo.state_dict()[name])
    obs, action = torch.randn(3, 5, 2), torch.randn(3, 5, 1)
    torch.manual_seed(1)
    together = shared.step(obs, action, 4)
    torch.manual_seed(1)
    folded = solo.step(obs.view(1, 15, 2), action.view(1, 15, 1), 4)
    assert torch.equal(together.next_obs, folded.next_obs.view(4, 3, 5, 2))
    assert torch.equal(together.reward, folded.reward.view(4, 3, 5))
    assert torch.equal(together.uncertainty, folded.uncertainty.view(3, 5))
    mean, std = shared.predict(obs, action)
    flat_mean, flat_std = solo.predict(obs.view(1, 15, 2), action.view(1, 15, 1))
    assert torch.equal(mean, flat_mean.view(2, 3, 5, 3).transpose(0, 1))
    assert torch.equal(std, flat_std.view(2, 3, 5, 3).transpose(0, 1))


# ----------------------------------------------------------------- seeds stay apart


def replica(model, seed):
    """What belongs to one seed of a model."""
    return [
        *(parameter.detach()[seed] for parameter in model.gaussians.trained_parameters()),
        model.gaussians.input_mean[seed],
        model.gaussians.input_std[seed],
        model.elite_members[seed],
    ]


def assert_same_but(poisoned, clean, victim):
    for seed in range(clean.replicas):
        pairs = zip(replica(poisoned, seed), replica(clean, seed), strict=True)
        if seed != victim:
            assert all(torch.equal(a, b) for a, b in pairs)
        else:
            assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("victim", [0, 2])
def test_poisoned_weights_of_one_seed_leave_the_fit_of_others_bitwise_alone(make_ensemble, victim):
    inputs, targets = table()
    rows = torch.arange(300).expand(3, -1)
    hyperparameters = {"seeds": 3, "max_epochs": None, "patience": 2, "improvement": 0.05}
    torch.manual_seed(0)
    clean = make_ensemble(**hyperparameters)
    described = fit_table(clean, inputs, targets, rows)
    torch.manual_seed(0)
    poisoned = make_ensemble(**hyperparameters)
    with torch.no_grad():
        poisoned.gaussians.network.layers[1].weight[victim] = torch.nan
    with pytest.raises(Mistake, match=f"seed {victim} at epoch 1"):
        fit_table(poisoned, inputs, targets, rows)
    # The poisoned seed gives up after two epochs, the others much later.
    assert min(described["epochs"]) > 2
    assert len(set(described["epochs"])) > 1
    assert_same_but(poisoned, clean, victim)


def test_poisoned_data_of_one_seed_leave_the_fit_of_others_bitwise_alone(make_ensemble):
    inputs, targets = table(600)
    rows = torch.arange(600).view(2, 300)  # each seed has data of its own
    broken = targets.clone()
    broken[310] = torch.nan
    hyperparameters = {"seeds": 2, "max_epochs": 6, "patience": 2}
    torch.manual_seed(0)
    clean = make_ensemble(**hyperparameters)
    fit_table(clean, inputs, targets, rows)
    torch.manual_seed(0)
    poisoned = make_ensemble(**hyperparameters)
    with pytest.raises(Mistake, match="seed 1"):
        fit_table(poisoned, inputs, broken, rows)
    assert_same_but(poisoned, clean, victim=1)


def test_poisoned_weights_of_one_seed_leave_the_steps_of_others_bitwise_alone(
    make_ensemble, make_dataset
):
    model = make_ensemble(seeds=3, termination="learned", members=3, elites=2)
    model.fit(make_dataset(noise=0.05, terminal_above=1.5))
    obs, action = torch.randn(3, 40, 2), torch.rand(3, 40, 1)
    torch.manual_seed(1)
    clean = model.step(obs, action, 4)
    with torch.no_grad():
        for parameter in (
            *model.gaussians.trained_parameters(),
            *model.termination.network.parameters(),
        ):
            parameter[1] = torch.nan
        model.gaussians.input_mean[1] = torch.nan
    obs[1] = torch.nan
    torch.manual_seed(1)
    poisoned = model.step(obs, action, 4)
    assert poisoned.next_obs[:, 1].isnan().all() and not poisoned.uncertainty[1].isfinite().any()
    for seed in (0, 2):
        for name in ("next_obs", "reward", "terminated"):
            assert torch.equal(getattr(poisoned, name)[:, seed], getattr(clean, name)[:, seed])
        assert torch.equal(poisoned.uncertainty[seed], clean.uncertainty[seed])


def test_a_seed_learns_as_well_as_a_solo_run(make_ensemble, make_dataset):
    """Eight seeds against eight solo runs: the holdout errors come from one distribution."""
    data = make_dataset(noise=0.1, episodes=10)
    hyperparameters = {"members": 2, "elites": 1, "max_epochs": 6, "patience": 9}
    together = make_ensemble(seeds=8, **hyperparameters).fit(data)["best_loss"]
    solos = [
        make_ensemble(seed=s, **hyperparameters).fit(data)["best_loss"][0] for s in range(1, 9)
    ]
    together, alone = (torch.tensor(x).log().mean(1) for x in (together, solos))
    spread = ((together.var() + alone.var()) / 8).sqrt()
    assert (together.mean() - alone.mean()).abs() < 3 * spread
    assert 0.2 < together.std() / alone.std() < 5
    assert together.unique().numel() == 8


# ---------------------------------------------------------------------------- step


def test_each_elite_is_used_equally_often_and_no_other_member(make_ensemble):
    model = constant_model(make_ensemble, mean=[0.0, 1.0, 2.0, 3.0, 4.0], std=[1e-6] * 5, elites=3)
    model.elite_members.copy_(torch.tensor([[4, 1, 3]]))
    step = model.step(torch.zeros(1, 6000, 2), torch.zeros(1, 6000, 1))
    used = step.reward[0, 0].round().long().bincount(minlength=5)
    assert used[0] == used[2] == 0
    # Binomial with standard deviation 36.5.
    assert ((used[[1, 3, 4]] - 2000).abs() < 150).all()
    torch.testing.assert_close(step.next_obs[0, 0, :, 0], step.reward[0, 0], atol=1e-4, rtol=0)


def test_candidates_take_the_elites_in_turn_from_a_random_first(make_ensemble):
    model = constant_model(make_ensemble, mean=[0.0, 1.0, 2.0, 3.0], std=[1e-6] * 4, elites=3)
    model.elite_members.copy_(torch.tensor([[2, 0, 3]]))
    step = model.step(torch.zeros(1, 900, 2), torch.zeros(1, 900, 1), candidates=6)
    used = step.reward[:, 0].round().long()  # [6, 900]
    for member in (2, 0, 3):
        assert ((used == member).sum(0) == 2).all()
    assert torch.equal(used[:3], used[3:])
    firsts = used[0].bincount(minlength=4)
    assert (firsts[[0, 2, 3]] > 230).all()


def test_candidates_have_noise_of_their_own(make_ensemble):
    model = constant_model(make_ensemble, mean=[0.0, 0.0], std=[1.0, 1.0], elites=2)
    step = model.step(torch.zeros(1, 4000, 2), torch.zeros(1, 4000, 1), candidates=4)
    samples = torch.cat([step.next_obs, step.reward.unsqueeze(-1)], -1)[:, 0]
    columns = samples.transpose(0, 1).reshape(4000, 12)
    correlation = torch.corrcoef(columns.T) - torch.eye(12)
    assert correlation.abs().max() < 0.08  # five standard deviations


def test_samples_have_the_predicted_mean_and_std(make_ensemble):
    model = constant_model(make_ensemble, mean=[1.5], std=[0.3], members=1, elites=1)
    obs = torch.full((1, 20_000, 2), 10.0)
    step = model.step(obs, torch.zeros(1, 20_000, 1))
    for sample, mean in ((step.next_obs[0, 0, :, 0], 11.5), (step.reward[0, 0], 1.5)):
        assert sample.mean().item() == pytest.approx(mean, abs=0.01)
        assert sample.std().item() == pytest.approx(0.3, rel=0.03)
    # |(0.3, 0.3, 0.3)| over two observation columns and the reward.
    torch.testing.assert_close(step.uncertainty, torch.full((1, 20_000), 0.3 * math.sqrt(3)))


def test_uncertainty_is_over_all_members_not_only_elites(make_ensemble):
    model = constant_model(make_ensemble, mean=[0.0, 0.0, 0.0], std=[1.0, 2.0, 9.0], elites=2)
    step = model.step(torch.zeros(1, 3, 2), torch.zeros(1, 3, 1))
    torch.testing.assert_close(step.uncertainty, torch.full((1, 3), 9.0 * math.sqrt(3)))


def test_the_largest_distance_is_in_standard_deviations_of_the_observations(make_ensemble):
    # The means of each member are alike in all columns: 0, 1 and 4, and the reward's do not count.
    model = constant_model(
        make_ensemble, mean=[0.0, 1.0, 4.0], std=[1.0] * 3, uncertainty="max_pairwise"
    )
    obs, action = torch.zeros(1, 3, 2), torch.zeros(1, 3, 1)
    model.gaussians.input_std[..., :2] = torch.tensor([4.0, 2.0])
    expected = torch.full((1, 3), math.hypot(4 / 4, 4 / 2))
    torch.testing.assert_close(model.step(obs, action).uncertainty, expected)


def test_termination_judges_the_sampled_next_observation_of_every_candidate(make_ensemble):
    model = constant_model(make_ensemble, mean=[0.0, 0.0], std=[1.0, 1.0], elites=2, seeds=2)

    class Above(torch.nn.Module):
        def forward(self, obs, action, next_obs):
            assert obs.shape == next_obs.shape and action.shape == (*obs.shape[:-1], 1)
            return next_obs[..., 0] > obs[..., 0] + 0.5

    model.termination = Above()
    obs = torch.randn(2, 50, 2)
    step = model.step(obs, torch.zeros(2, 50, 1), candidates=3)
    assert torch.equal(step.terminated, step.next_obs[..., 0] > obs[..., 0] + 0.5)
    assert step.terminated.any() and not step.terminated.all()


def test_shapes_are_candidates_then_seeds_then_rows(make_ensemble):
    model = constant_model(make_ensemble, mean=[0.0] * 3, std=[1.0] * 3, seeds=2)
    step = model.step(torch.zeros(2, 7, 2), torch.zeros(2, 7, 1), candidates=5)
    assert isinstance(step, Step)
    assert step.next_obs.shape == (5, 2, 7, 2) and step.reward.shape == (5, 2, 7)
    assert step.terminated.shape == (5, 2, 7) and step.terminated.dtype == torch.bool
    assert step.uncertainty.shape == (2, 7)


def test_more_rows_than_fit_the_cache_give_the_same_predictions(make_ensemble, make_dataset):
    model = make_ensemble()
    model.fit(make_dataset(noise=0.05))
    obs, action = torch.randn(1, 1300, 2), torch.rand(1, 1300, 1)
    whole, _ = model.predict(obs, action)
    last, _ = model.predict(obs[:, 1200:], action[:, 1200:])
    torch.testing.assert_close(whole[:, :, 1200:], last, rtol=1e-5, atol=1e-5)


def test_predict_gives_the_elites_next_observation_and_reward(make_ensemble):
    model = constant_model(make_ensemble, mean=[0.0, 1.0, 2.0], std=[1.0, 2.0, 3.0], elites=2)
    model.elite_members.copy_(torch.tensor([[2, 1]]))
    mean, std = model.predict(torch.full((1, 4, 2), 10.0), torch.zeros(1, 4, 1))
    assert mean.shape == std.shape == (1, 2, 4, 3)
    torch.testing.assert_close(mean[0, :, 0], torch.tensor([[12.0, 12.0, 2.0], [11.0, 11.0, 1.0]]))
    torch.testing.assert_close(std[0, :, 0, 0], torch.tensor([3.0, 2.0]))


def test_gradients_flow_through_a_step_but_not_into_the_model(make_ensemble):
    model = constant_model(make_ensemble, mean=[0.0] * 3, std=[1.0] * 3)
    action = torch.zeros(1, 4, 1, requires_grad=True)
    obs = torch.zeros(1, 4, 2, requires_grad=True)
    step = model.step(obs, action)
    step.next_obs.sum().backward()
    torch.testing.assert_close(obs.grad, torch.ones(1, 4, 2))
    assert action.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())


# ------------------------------------------------------------- storing and refusing


def test_a_loaded_model_steps_as_the_saved_one(make_ensemble, make_dataset):
    hyperparameters = {"seeds": 2, "termination": "learned"}
    model = make_ensemble(**hyperparameters)
    model.fit(make_dataset(noise=0.05, terminal_above=1.5))
    copy = make_ensemble(**hyperparameters)
    copy.load_state_dict(model.state_dict())
    obs, action = torch.randn(2, 9, 2), torch.rand(2, 9, 1)
    steps = []
    for one in (model, copy):
        torch.manual_seed(3)
        steps.append(one.step(obs, action, 2))
    for name in ("next_obs", "reward", "terminated", "uncertainty"):
        assert torch.equal(getattr(steps[0], name), getattr(steps[1], name))
    assert copy.signature() == model.signature()


def test_the_signature_changes_with_everything_that_changes_the_fit(make_ensemble):
    base = make_ensemble().signature()
    changes = {
        "seeds": 2,
        "seed": 1,
        "members": 4,
        "elites": 1,
        "hidden": [8, 9],
        "activation": "relu",
        "learning_rate": 1e-4,
        "batch": 32,
        "weight_decay": [0.0, 0.0, 0.0],
        "log_variance_bounds": [-9.0, 0.5],
        "bound_coefficient": 0.001,
        "holdout_fraction": 0.1,
        "holdout_limit": 10,
        "improvement": 0.0,
        "patience": 10,
        "max_epochs": None,
        "termination": "learned",
        "heldout_episodes": 5,
    }
    for name, value in changes.items():
        assert make_ensemble(**{name: value}).signature() != base, name
    # Several seeds that share one ensemble can use a solo run's, and a penalty fits nothing.
    assert make_ensemble(seeds=4, per_seed=False).signature() == base
    assert make_ensemble(uncertainty="ensemble_std").signature() == base


def test_a_model_that_was_not_fitted_refuses_to_step(make_ensemble):
    with pytest.raises(RuntimeError, match="not fitted"):
        make_ensemble().step(torch.zeros(1, 2, 2), torch.zeros(1, 2, 1))
    empty = make_ensemble()
    empty.load_state_dict(make_ensemble().state_dict())
    with pytest.raises(RuntimeError, match="not fitted"):
        empty.predict(torch.zeros(1, 2, 2), torch.zeros(1, 2, 1))


def test_a_wrong_number_of_seeds_is_refused(make_ensemble):
    model = constant_model(make_ensemble, mean=[0.0] * 3, std=[1.0] * 3, seeds=2)
    with pytest.raises(ValueError, match="seeds=2"):
        model.step(torch.zeros(3, 4, 2), torch.zeros(3, 4, 1))


def test_a_state_that_nobody_gave_out_is_refused(make_ensemble, make_dataset):
    model = make_ensemble()
    model.fit(make_dataset())
    obs, action = torch.zeros(1, 2, 2), torch.zeros(1, 2, 1)
    assert model.initial_state(obs) is None and model.step(obs, action).state is None
    with pytest.raises(ValueError, match="carries no state"):
        model.step(obs, action, state=torch.zeros(1, 2, 1))


def test_data_of_another_task_are_refused(make_ensemble, make_dataset, toy_spec):
    data = make_dataset()
    other = replace(toy_spec, obs_dim=3)
    with pytest.raises(ValueError, match=r"the world model .* dataset toy"):
        make_ensemble(spec=other).fit(data)


def test_too_few_rows_are_refused(make_ensemble, make_dataset):
    with pytest.raises(ValueError, match="4 usable transitions"):
        make_ensemble().fit(make_dataset(episodes=1, length=4))


def test_a_diverging_fit_names_seed_epoch_and_remedy(make_ensemble, make_dataset):
    data = make_dataset()
    huge = replace(data.transitions, reward=data.transitions.reward * 1e30)
    model = make_ensemble()
    with pytest.raises(Mistake, match=r"seed 0 at epoch 1; check the data .*rescale"):
        model.fit(replace(data, transitions=huge))
    assert not model.fitted
    with pytest.raises(RuntimeError, match="not fitted"):
        model.step(torch.zeros(1, 2, 2), torch.zeros(1, 2, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elites": 4}, "elites <= members"),
        ({"elites": 0}, "elites <= members"),
        ({"hidden": []}, "hidden"),
        ({"weight_decay": [1e-5]}, "3 values of weight_decay"),
        ({"log_variance_bounds": [1.0, 0.0]}, "log_variance_bounds"),
        ({"holdout_fraction": 1.0}, "holdout_fraction"),
        ({"improvement": -0.1}, "improvement"),
        ({"patience": 0}, "patience"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"heldout_episodes": -1}, "heldout_episodes"),
        ({"uncertainty": "entropy"}, "uncertainty"),
        ({"members": 1, "elites": 1, "uncertainty": "ensemble_std"}, "nothing to compare"),
        ({"termination": "sometimes"}, "termination"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make_ensemble, changes, message):
    with pytest.raises(ValueError, match=message):
        make_ensemble(**changes)


def test_an_ensemble_of_one_is_a_single_model(make_ensemble, make_dataset):
    model = make_ensemble(members=1, elites=1)
    described = model.fit(make_dataset(noise=0.05))
    assert described["elites"] == [[0]]
    step = model.step(torch.zeros(1, 3, 2), torch.zeros(1, 3, 1), candidates=2)
    assert step.next_obs.isfinite().all()


def test_the_training_step_goes_through_the_given_wrapper(make_ensemble, make_dataset):
    data = make_dataset(noise=0.05)
    plain, wrapped = make_ensemble(), make_ensemble()
    shapes = set()

    def wrapper(function):
        def call(batch, weight):
            shapes.add((tuple(batch.shape), tuple(weight.shape)))
            return function(batch, weight)

        return call

    wrapped.compile_update(wrapper)
    assert plain.fit(data) == wrapped.fit(data)
    assert shapes == {((1, 3, 64, 6), (64,))}


def test_the_ensemble_is_a_world_model():
    from reverie.world_models.base import WorldModel

    assert issubclass(ProbabilisticEnsemble, WorldModel)
