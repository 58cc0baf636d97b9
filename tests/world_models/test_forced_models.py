"""Forcing as an option of models that are fitted without it: what a step of each is."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from reverie.mistake import Mistake
from reverie.training.launch.options import build_option, load_option
from reverie.world_models.fitting import EarlyStopping
from reverie.world_models.forcing import (
    Window,
    WindowRows,
    forced_losses,
    free_errors,
    jacobian_norms,
    window_starts,
)
from reverie.world_models.gaussian import gaussian_loss
from reverie.world_models.jumps import JumpCell
from reverie.world_models.optimiser import Adam
from reverie.world_models.selection import cut
from reverie.world_models.sindy.refinement import EquationsCell
from reverie.world_models.windows import (
    WindowTable,
    holdout_errors,
    holdout_rows,
    room_of,
    sequence_of,
    windows,
)
from tests.world_models.conftest import SPEC, dataset
from tests.world_models.test_any_step import numbered
from tests.world_models.test_neural_ode import irregular, linear_field

PERCEPTRONS = {"members": 3, "elites": 2, "hidden": [16], "weight_decay": [0.0, 0.0]}
SMALL = {
    "ensemble": PERCEPTRONS,
    "single": PERCEPTRONS | {"members": 1, "elites": 1},
    "neural_ode": PERCEPTRONS,
    "any_step": {"backtrack": 3, "width": 8, "layers": 2, "blocks": 1},
    "sindy": {"members": 3, "degree": 1, "reward_degree": 2, "gate_steps": 10},
}
SHORT = {
    **{"learning_rate": 1e-2, "batch": 32, "max_epochs": 2, "dropout": 0.0},
    **{"termination": "none", "heldout_episodes": 0},
}
QUICK = {"refinement": {"learning_rate": 1e-2, "max_epochs": 2}}


def forcing(**changes):
    return load_option("forcing", "alpha") | {"steps": 4} | changes


def model_of(name, spec=SPEC, seeds=1, forced=None, **changes):
    """A small model, with forcing where it is given."""
    known = load_option("world_model", name)
    small = SHORT | SMALL[name] | (QUICK if name == "sindy" else {}) | changes
    settings = {key: value for key, value in small.items() if key in known}
    settings |= {} if forced is None else {"forcing": forced}
    return build_option("world_model", name, changes=settings, spec=spec, seeds=seeds, seed=0)


def lanes_of(window, *lead):
    return Window(*(each.expand(*lead, *each.shape) for each in window))


def windows_of(data, rows, steps=4, driving=None):
    """All windows of so many steps, standardised as in a fit."""
    table = WindowRows(data, rows.room, rows.mean[:2], rows.std[:2], driving)
    whole = rows.room >= steps
    return table.cut(whole.nonzero().flatten(), steps)


@pytest.mark.parametrize("name", SMALL)
def test_without_forcing_nothing_tells_of_it(name):
    plain = model_of(name).signature()
    assert not {"forcing", "refinement"} & set(plain)
    forced = [model_of(name, forced=forcing(alpha=a)).signature() for a in (0.2, "adaptive")]
    assert plain != forced[0] != forced[1] and plain["model"] == forced[0]["model"]
    assert {**forced[0], **plain} == forced[0]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("alpha", [0.3, "adaptive"])
def test_a_forced_fit_is_the_same_again_and_tells_both_errors(name, alpha):
    data = dataset(episodes=5, length=12, noise=0.05)
    states = []
    for _ in range(2):
        model = model_of(name, data.spec, seeds=2, forced=forcing(alpha=alpha))
        before = torch.get_rng_state()
        said = model.fit(data)
        assert torch.equal(before, torch.get_rng_state())
        states.append(model.state_dict())
        assert len(said["one_step_error"]) == len(said["multi_step_error"]) == 2
        assert min(said["multi_step_error"][0]) <= said["multi_step_error"][0][0]
        assert ("alpha" in said) == (alpha == "adaptive")
        json.dumps(said, allow_nan=False)
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    step = model.step(torch.randn(2, 4, 2) / 3, torch.zeros(2, 4, 1))
    assert step.reward.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_no_window_of_a_fit_goes_on_behind_an_end(name, monkeypatch):
    """Rows are numbered, so that a window shows which it holds."""
    lengths = [9, 14] * 3
    ends = torch.zeros(sum(lengths), dtype=torch.bool)
    ends[[4, 50]] = True  # in the midst of episodes
    data = numbered(lengths, terminated=ends)
    cuts, whole = [], WindowRows.cut

    def spy(self, starts, steps):
        window = whole(self, starts, steps)
        cuts.append((starts, window.counts))
        return window

    monkeypatch.setattr(WindowRows, "cut", spy)
    model_of(name, data.spec, forced=forcing(steps=8)).fit(data)
    last = torch.tensor(lengths).cumsum(0) - 1
    last = torch.cat([last, ends.nonzero().flatten()]).sort().values
    assert len(cuts) > 2
    for starts, counts in cuts:
        end = starts.long() + counts.sum(-1).long() - 1
        assert (end <= last[torch.searchsorted(last, starts.long().contiguous())]).all()
        assert (counts[..., 0] == 1).all()


def test_no_window_is_longer_than_the_longest_episode(monkeypatch):
    """Steps behind it would take time and count nothing."""
    lengths, whole = set(), WindowRows.cut

    def spy(self, starts, steps):
        lengths.add(steps)
        return whole(self, starts, steps)

    monkeypatch.setattr(WindowRows, "cut", spy)
    model_of("ensemble", forced=forcing(steps=1000)).fit(dataset(episodes=6, length=9))
    assert lengths == {9}


@pytest.mark.parametrize("name", [name for name in SMALL if name != "any_step"])
def test_what_saw_windows_is_not_fitted_again_to_rows(name):
    with pytest.raises(Mistake, match=r"online\.refit_every=0"):
        model_of(name, forced=forcing()).require_refit()
    model_of(name).require_refit()


def test_single_rows_are_as_many_in_windows():
    assert model_of("ensemble", batch=256, forced=forcing(steps=16)).windows == 16
    assert model_of("ensemble", batch=8, forced=forcing(steps=16)).windows == 1


# Any-step dynamics


def jumping(data, forced, **changes):
    """A model, its cell and what both are in units of, with weights that nobody fitted."""
    model = model_of("any_step", data.spec, forced=forced, **changes)
    model.ready = True
    everything = torch.ones(len(data), dtype=torch.bool)
    rows = cut(data, everything, 0.2, 0, torch.device("cpu"))
    table = WindowTable(data, torch.device("cpu"), model.held)
    model.network.normalise_by(*table.statistics(windows(data, everything, model.backtrack)))
    given = (rows, model.copies, data.spec.exogenous, model.backtrack - 1)
    return model, JumpCell(model.network, model.answers, model._following, *given), rows, table


def test_plain_jumps_are_fitted_as_ever():
    """The recipe written out: the same random numbers, the same bits."""
    data = dataset(episodes=10, length=20)
    model = model_of("any_step", data.spec, dropout=0.1)
    model.fit(data)

    other = model_of("any_step", data.spec, dropout=0.1)
    torch.manual_seed(0)
    everything = torch.ones(len(data), dtype=torch.bool)
    holdout = holdout_rows(data, everything, other.holdout_fraction, 0)
    train, held = (windows(data, chosen, 3) for chosen in (~holdout, holdout))
    table = WindowTable(data, torch.device("cpu"), other.held)
    network = other.network
    network.load_state_dict(other._build().state_dict())
    network.normalise_by(*table.statistics(train))
    tests = [
        table.batch(held.starts[:count][torch.randperm(count)[:1000]], k)
        for k, count in enumerate(held.counts, 1)
    ]
    network.requires_grad_(True)
    optimiser = Adam(network.parameters(), other.learning_rate)
    stopping = EarlyStopping.start(1, 1, improvement=0.0, patience=25)
    best = network.snapshot()
    for _ in range(2):
        for _ in range(train.counts[0] // 32 * 3):
            k = int(torch.randint(1, 4, ()))
            drawn = torch.randint(train.counts[k - 1], (1, 32))
            obs, driving, target = table.batch(train.starts[drawn], k)
            network.update(optimiser, sequence_of(obs, driving), target)
        error = holdout_errors(network, tests).mean(-1)
        if stopping.observe(error.unsqueeze(-1)).item():
            best = network.snapshot()
    for one, two in zip(best, model.network.parameters(), strict=True):
        assert torch.equal(one, two)


def test_whole_forcing_of_jumps_is_the_fit_to_recorded_states():
    """alpha 1: of every step the mean over the jumps of the loss that each has in the plain fit."""
    data = dataset(episodes=3, length=6)
    model, cell, rows, table = jumping(data, forcing(alpha=1.0))
    window = lanes_of(windows_of(data, rows), 1, 1)
    loss, _ = forced_losses(cell, window, 1.0, 0.0)
    begun = (rows.room >= 4).nonzero().flatten()
    wanted = []
    for t in range(4):
        told = []
        for k in range(1, min(t + 1, 3) + 1):
            obs, driving, target = table.batch((begun + t - k + 1).unsqueeze(0), k)
            mean, log_variance, target = model.network._residuals(
                sequence_of(obs, driving), target, 0.0
            )
            told.append(gaussian_loss(mean, log_variance, target, torch.ones(len(begun))))
        wanted.append(torch.stack(told).mean())
    torch.testing.assert_close(loss.flatten(), torch.stack(wanted).mean().unsqueeze(0))


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_forced_jumps_begin_at_the_states_that_were_carried(alpha):
    data = dataset(episodes=3, length=8)
    model, cell, rows, _ = jumping(data, forcing(alpha=alpha))
    window = windows_of(data, rows, steps=5)
    _, errors = forced_losses(cell, lanes_of(window, 1, 1), alpha, 0.0)
    mean, std = rows.mean[:2], rows.std[:2]
    obs, state, wanted = (window.obs * std + mean).unsqueeze(0), None, []
    for t in range(5):
        told = model.expect(obs, window.action[:, t].unsqueeze(0), 1, state)
        truth = window.next_obs[:, t] * std + mean
        off = torch.cat([(told.next_obs[0, 0] - truth) / std], -1)
        reward = (told.reward[0, 0] - window.reward[:, t, 0]) / rows.reward_std
        wanted.append(torch.cat([off, reward.unsqueeze(-1)], -1).square().mean())
        obs = torch.lerp(told.next_obs[0], truth.unsqueeze(0), alpha)
        state = told.state[0]
    torch.testing.assert_close(errors.flatten(), torch.stack(wanted))


def test_the_slope_of_jumps_is_the_sum_over_all_states_that_they_begin_at():
    data = dataset(episodes=3, length=8)
    _, cell, rows, _ = jumping(data, forcing(alpha="adaptive"))
    window = lanes_of(windows_of(data, rows, steps=5), 1, 1)
    state = cell.begin(window.obs[..., :2, :])
    for t in range(3):  # until the queue is full
        action = window.action[..., :2, t, :]
        norms = jacobian_norms(cell, state, action, 2)
        for row in range(2):

            def after(one, row=row, action=action):
                return cell.move(one.view(1, 1, 1, -1), action[..., row : row + 1, :])[0][..., :2]

            slope = torch.autograd.functional.jacobian(after, state[0, 0, row]).view(2, -1)
            parts = [slope[:, first : first + 2] for first in (0, 2, 5)]
            wanted = sum(torch.linalg.matrix_norm(part, 2) for part in parts)
            torch.testing.assert_close(norms[0, 0, row], wanted)
            assert sum(bool(part.any()) for part in parts) == t + 1
        with torch.no_grad():
            state = cell.move(state, action)[0]


def test_a_killed_forced_fit_of_jumps_goes_on_to_the_same_bits():
    data = dataset(episodes=5, length=12)
    changes = {"seeds": 2, "max_epochs": 5, "checkpoint_every": 2, "dropout": 0.1}
    changes["forced"] = forcing(alpha="adaptive", adapt_every=3)
    whole = model_of("any_step", data.spec, **changes)
    described = whole.fit(data)
    kept = []

    def killed(done, loss):
        if done == 3:
            raise KeyboardInterrupt

    first = model_of("any_step", data.spec, **changes)
    first.keep_partial_fits(lambda: None, lambda state: kept.append(copy.deepcopy(state)))
    with pytest.raises(KeyboardInterrupt):
        first.fit(data, killed)
    second, seen = model_of("any_step", data.spec, **changes), []
    second.keep_partial_fits(lambda: kept[-1], kept.append)
    assert second.fit(data, lambda done, loss: seen.append(done)) == described
    assert second.fit_first == 2 and seen == [2, 3, 4, 5]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_seeds_of_forced_jumps_do_not_meet(monkeypatch):
    data = dataset(episodes=5, length=12)
    judge = JumpCell.judge

    def poisoned(self, state, following, told, next_obs, reward):
        spoilt = torch.tensor([1.0, 7.0]).view(2, 1, 1, 1) * next_obs
        return judge(self, state, following, told, spoilt, reward)

    states = []
    for each in (judge, poisoned):
        monkeypatch.setattr(JumpCell, "judge", each)
        model = model_of("any_step", data.spec, seeds=2, dropout=0.1, forced=forcing())
        model.fit(data)
        states.append(model.state_dict())
    own = [name for name, each in states[0].items() if each.ndim == 3]
    assert all(torch.equal(states[0][name][0], states[1][name][0]) for name in own)
    assert not all(torch.equal(states[0][name][1], states[1][name][1]) for name in own)


def test_exogenous_columns_of_jumps_come_from_the_record():
    data = dataset(episodes=6, length=12)
    data = replace(data, spec=replace(data.spec, exogenous=(1,)))
    _, cell, rows, _ = jumping(data, forcing(alpha=0.0))
    window = windows_of(data, rows, steps=5)
    carried, move = [], cell.move
    cell.move = lambda state, action: (carried.append(state[0, 0]), move(state, action))[1]
    free_errors(cell, lanes_of(window, 1, 1))
    recorded = torch.cat([window.obs.unsqueeze(1), window.next_obs[:, :-1]], 1)
    for t, state in enumerate(carried):
        assert torch.equal(state[:, 1], recorded[:, t, 1])
        if t > 1:
            assert torch.equal(state[:, 6], recorded[:, t - 1, 1])  # and so in the queue


# Differential equations


def test_a_forced_field_is_integrated_over_the_time_that_each_row_lasted():
    """ds/dt = (s_2, -s_1) by hand, along its own exact turns of unequal durations."""
    data = dataset(episodes=4, length=10)
    dt = 0.05 + 0.3 * torch.rand(40, generator=torch.Generator().manual_seed(0))
    here, at = data.transitions, torch.cumsum(dt.view(4, 10), 1)
    x, v = here.obs.view(4, 10, 2)[:, :1].unbind(-1)
    turned = torch.stack([at.cos() * x + at.sin() * v, at.cos() * v - at.sin() * x], -1)
    obs = torch.cat([here.obs.view(4, 10, 2)[:, :1], turned[:, :-1]], 1)
    rows = replace(
        here, obs=obs.flatten(0, 1), next_obs=turned.flatten(0, 1), reward=0 * here.reward
    )
    data = replace(data, transitions=rows, dt=dt)
    model = model_of("neural_ode", data.spec, forced=forcing(), substeps=2)
    linear_field(model)
    whole = cut(data, torch.ones(40, dtype=torch.bool), 0.25, 0, torch.device("cpu"))
    model.gaussians.normalise_by(whole.mean.unsqueeze(0), whole.std.unsqueeze(0))
    # A second is a nominal step: the field that was put in is one per second.
    model.nominal.fill_(1.0)
    _, cell = model.cells(whole)
    scale, shift = whole.std[:2], whole.mean[:2]

    def network(inputs, dropout=0.0, masks=()):
        state = inputs[..., :2] * scale + shift
        slope = torch.stack([state[..., 1], -state[..., 0]], -1)
        return torch.cat([slope, inputs.new_zeros(*inputs.shape[:-1], 4)], -1)

    model.gaussians.network.forward = network
    window = windows_of(data, whole, 8, model.driving(data))
    assert window.action.shape[-1] == 2
    assert free_errors(cell, lanes_of(window, 1, 3)).max() < 1e-8
    without = window._replace(action=window.action[..., :1])
    assert free_errors(cell, lanes_of(without, 1, 3)).max() > 0.1


def test_whole_forcing_of_fields_is_their_loss_with_its_local_error():
    data = irregular(rows=200)
    changes = {"local_regularisation": 3.0, "local_half_life": 2.0}
    model = model_of("neural_ode", data.spec, forced=forcing(), **changes)
    whole = cut(data, torch.ones(200, dtype=torch.bool), 0.2, 0, torch.device("cpu"))
    model.gaussians.normalise_by(whole.mean.unsqueeze(0), whole.std.unsqueeze(0))
    model.gaussians.updates.fill_(1.0)
    train, test = model.cells(whole)
    window = lanes_of(windows_of(data, whole, 1, model.driving(data)), 1, 3)
    torch.manual_seed(1)
    forced = forced_losses(train, window, 1.0, 0.0)[0].sum(-1) + train.penalty()

    begun = (whole.room >= 1).nonzero().flatten()
    inputs, targets = model.examples(data.transitions[begun], data.dt[begun])
    rows = torch.cat([inputs, targets], -1).expand(1, 3, -1, -1)
    torch.manual_seed(1)
    plain = model.gaussians.loss(rows, torch.ones(len(begun)))
    torch.testing.assert_close(forced, plain)
    # What is measured knows no such term, and the weight of it halves by the update.
    unforced = forced_losses(test, window, 1.0, 0.0)[0].sum(-1) + test.penalty()
    assert (forced > unforced).all()
    model.gaussians.requires_grad_(True)
    train.descend(Adam(train.parameters(), 1e-3), forced_losses(train, window, 1.0, 0.0)[0].sum(-1))
    assert model.gaussians.updates.item() == 3.0  # one by the loss above, one by the descent


# Equations


def equations(noise=0.0, **changes):
    data = dataset(episodes=12, length=30, noise=noise)
    return data, model_of("sindy", data.spec, threshold=1e-3, reward_threshold=1e-3, **changes)


def test_whole_forcing_of_equations_is_their_error_of_one_step():
    data, model = equations(noise=0.1)
    model.fit(data)
    rows = cut(data, torch.ones(len(data), dtype=torch.bool), 0.2, 0, torch.device("cpu"))
    chosen = data.transitions
    changes = torch.cat([chosen.next_obs - chosen.obs, chosen.reward.unsqueeze(-1)], -1)
    cell = EquationsCell(model, rows, torch.cat([chosen.obs, chosen.action], -1), changes)
    inside = ((chosen.next_obs > model.box[0, 0]) & (chosen.next_obs < model.box[0, 1])).all()
    assert inside
    _, errors = forced_losses(cell, lanes_of(windows_of(data, rows, 1), 1, 4), 1.0, 0.0)
    values, _ = model._predict(chosen.obs.unsqueeze(0), chosen.action.unsqueeze(0))
    truth = torch.cat([chosen.next_obs, chosen.reward.unsqueeze(-1)], -1)
    wanted = ((values - truth) / cell.unit).square().mean((-1, -2))
    torch.testing.assert_close(errors.squeeze(-1), wanted)


def test_gradients_of_coefficients_go_through_carried_states():
    """x' = x + w x of one term: d/dw of the error of two steps, by hand, forced by a half."""
    data, model = equations()
    model.fit(data)
    keep = torch.zeros_like(model.coefficients)
    names = {term: column for column, term in enumerate(_terms(model))}
    keep[0, 0, names["x0"]] = 0.5
    model.coefficients.copy_(keep)
    model.members.copy_(keep.unsqueeze(1).expand_as(model.members))
    model.box[:] = torch.tensor([-100.0, 100.0]).view(1, 2, 1)
    rows = cut(data, torch.ones(len(data), dtype=torch.bool), 0.2, 0, torch.device("cpu"))
    rows = replace(rows, mean=0 * rows.mean, std=torch.ones_like(rows.std))
    rows = replace(rows, reward_std=torch.ones(()))
    cell = EquationsCell(model, rows, torch.ones(4, 3), torch.randn(4, 3))
    recorded, zero = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]]), torch.zeros(1, 2, 1)
    window = Window(torch.tensor([[1.0, 0.0]]), zero, recorded, zero, torch.ones(1, 2))
    loss, _ = forced_losses(cell, lanes_of(window, 1, 4), 0.5, 0.0)
    (gradient,) = torch.autograd.grad(loss[0, 0], cell.network.moved)
    # z = 1 -> 1.5, carried (1.5 + 2) / 2 = 1.75 -> 2.625. Mean over three columns and two steps.
    # d/dw: 1 * (1.5 - 2) * 2 and (1.75 + 1.5 * .5 * 1) * (2.625 - 2) * 2.
    wanted = (2 * 1.0 * -0.5 + 2 * (1.75 + 1.5 * 0.5) * 0.625) / 6
    place = (cell.start[0, 0] != 0).nonzero()
    assert place.tolist() == [[0, 0]]
    assert gradient[0, 0, 0, 0] / cell.step[0, 0, 0, 0] == pytest.approx(wanted)
    assert not gradient[0, 1:].any()


def _terms(model):
    from reverie.world_models.sindy.dictionary import term_names

    return term_names(model.powers, model.inputs)


def test_refinement_keeps_the_terms_and_lessens_the_error_of_many_steps():
    settings = {"refinement": {"learning_rate": 1e-2, "max_epochs": 15, "batch": 8}}
    data, plain = equations(**settings)
    seen = _through_noise(data, 0.3)
    plain.fit(seen)
    _, forced = equations(forced=forcing(alpha=0.2, steps=16), **settings)
    said = forced.fit(seen)
    assert torch.equal(plain.coefficients != 0, forced.coefficients != 0)
    assert torch.equal(plain.members != 0, forced.members != 0)
    assert not torch.equal(plain.members, forced.members)
    assert min(said["multi_step_error"][0]) < 0.8 * said["multi_step_error"][0][0]
    assert not torch.equal(plain.residual_std, forced.residual_std)
    ahead = [_error_ahead(model, data, 16) for model in (plain, forced)]
    assert ahead[1] < 0.5 * ahead[0]


def _through_noise(data, size):
    from reverie.benchmarks.claims.open_loop import noisy

    return noisy(data, size, seed=1)


@torch.no_grad()
def _error_ahead(model, data, steps):
    rows = data.transitions
    begun = window_starts(room_of(data, torch.ones(len(data), dtype=torch.bool)), steps)
    obs = rows.obs[begun].unsqueeze(0)
    for t in range(steps):
        obs = model.predict(obs, rows.action[begun + t].unsqueeze(0))[0][:, 0, :, :-1]
    return (obs[0] - rows.next_obs[begun + steps - 1]).square().mean().item()


def test_equations_that_do_not_improve_stay_as_regression_found_them():
    data, plain = equations()
    plain.fit(data)
    wild = {"refinement": {"learning_rate": 10.0, "max_epochs": 2}}
    _, forced = equations(forced=forcing(), **wild)
    said = forced.fit(data)
    assert torch.equal(plain.coefficients, forced.coefficients)
    assert torch.equal(plain.members, forced.members)
    assert said["multi_step_error"][0][0] == min(said["multi_step_error"][0])
