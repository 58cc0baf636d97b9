"""Teacher forcing: what is carried, drawn to the record, weighed and stopped by."""

import math
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from reverie.datasets import stack
from reverie.mistake import Mistake
from reverie.training.launch.options import read_option
from reverie.world_models.fitting import EarlyStopping, bootstrap, moments, shuffle, split
from reverie.world_models.forcing import (
    LOST,
    AdaptiveAlpha,
    Cell,
    Forcing,
    Window,
    WindowRows,
    forced_losses,
    free_errors,
    jacobian_norms,
    window_starts,
)
from reverie.world_models.gaussian_cell import GaussianCell
from reverie.world_models.optimiser import Adam
from reverie.world_models.selection import WindowErrors
from reverie.world_models.windows import room_of
from tests.world_models.conftest import dataset
from tests.world_models.test_any_step import numbered


class Linear(Cell):
    """z' = M z + a, of every lane its own M; with hidden units that count the steps."""

    def __init__(self, matrices, hidden=0):
        self.network = nn.Module()
        self.network.matrix = nn.Parameter(torch.as_tensor(matrices))
        self.hidden = hidden

    def begin(self, obs):
        return torch.cat([obs, obs.new_zeros(*obs.shape[:-1], self.hidden)], -1)

    def move(self, state, action):
        dim = self.network.matrix.shape[-1]
        obs = state[..., :dim] @ self.network.matrix.mT + action
        return torch.cat([obs, state[..., dim:] + 1], -1), ()


def scalar(factor, states, hidden=0):
    """One lane and one window of a scalar system with these recorded states and no action."""
    states = torch.tensor(states)
    steps = len(states) - 1
    window = Window(
        obs=states[:1].view(1, 1, 1, 1),
        action=torch.zeros(1, 1, 1, steps, 1),
        next_obs=states[1:].view(1, 1, 1, steps, 1),
        reward=torch.zeros(1, 1, 1, steps, 1),
        counts=torch.ones(1, 1, 1, steps),
    )
    return Linear([[[[factor]]]], hidden), window


def forced(changes, spec, seeds=1):
    settings = read_option("world_model/forced") | {
        "members": 3,
        "elites": 2,
        "hidden": [16],
        "weight_decay": [0.0, 0.0],
        "max_epochs": 4,
        "termination": "none",
        "heldout_episodes": 0,
    }
    settings["forcing"] |= changes.pop("forcing", {})
    settings.pop("path")
    return instantiate(settings | changes)(spec=spec, seeds=seeds, seed=0)


def test_the_state_goes_on_between_prediction_and_record():
    """z' = 2 z from 1, recorded 1, 3, 4, 5, alpha .25, by hand."""
    cell, window = scalar(2.0, [1.0, 3.0, 4.0, 5.0])
    # 2 | .75 * 2 + .25 * 3 = 2.25 -> 4.5 | .75 * 4.5 + .25 * 4 = 4.375 -> 8.75
    errors = [1.0, 0.25, 3.75**2]
    loss, found = forced_losses(cell, window, 0.25, 0.0)
    torch.testing.assert_close(found.flatten(), torch.tensor(errors))
    assert loss.item() == pytest.approx(sum(errors) / 3)
    # An alpha for each lane is the same.
    each, _ = forced_losses(cell, window, torch.full((1, 1), 0.25), 0.0)
    torch.testing.assert_close(each, loss)


def test_without_forcing_nothing_but_the_first_state_is_seen():
    cell, window = scalar(2.0, [1.0, 3.0, 4.0, 5.0])
    assert free_errors(cell, window).flatten().tolist() == [1.0, 0.0, 9.0]


def test_whole_forcing_is_training_on_single_steps():
    cell, window = scalar(2.0, [1.0, 3.0, 4.0, 5.0])
    at_once = forced_losses(cell, window, 1.0, 0.0)
    in_turn = forced_losses(cell, window, torch.ones(1, 1), 0.0)
    for one, other in zip(at_once, in_turn, strict=True):
        torch.testing.assert_close(one, other)
    assert at_once[1].flatten().tolist() == [1.0, 4.0, 9.0]


@pytest.mark.parametrize(("alpha", "last"), [(1.0, 25.0), (0.5, 16.0), (0.0, 9.0)])
def test_sparse_forcing_draws_to_the_record_at_every_second_step_alone(alpha, last):
    """z' = 2 z from 1, recorded 1, 3, 5, 5: 2, then 4, from where alpha leads, by hand."""
    cell, window = scalar(2.0, [1.0, 3.0, 5.0, 5.0])
    _, errors = forced_losses(cell, window, alpha, 0.0, 2)
    torch.testing.assert_close(errors.flatten(), torch.tensor([1.0, 1.0, last]))
    # An alpha for each lane is the same.
    each = forced_losses(cell, window, torch.full((1, 1), alpha), 0.0, 2)[1]
    torch.testing.assert_close(each, errors)


def test_gradients_end_where_sparse_forcing_takes_over_the_record():
    cell, window = scalar(1.5, [1.0, 0.0, 0.0, 0.0, 0.0], hidden=1)
    window = window._replace(obs=window.obs.requires_grad_(True))
    reached = []
    judge = cell.judge
    cell.judge = lambda state, following, *more: (
        reached.append(following) or judge(state, following, *more)
    )
    forced_losses(cell, window, 1.0, 0.0, 3)
    slopes = [
        torch.autograd.grad(reached[0][0, 0, t, 0], window.obs, retain_graph=True)[0].item()
        for t in range(4)
    ]
    assert slopes == pytest.approx([1.5, 1.5**2, 1.5**3, 0.0])


def test_an_interval_is_told_apart_and_refused_beside_an_adaptive_alpha():
    data = dataset(episodes=6, length=20)
    weights = []
    for interval in (1, 4):
        model = forced(
            {"max_epochs": 1, "forcing": {"alpha": 1.0, "interval": interval}}, data.spec
        )
        assert ("interval" in model.signature()["forcing"]) == (interval > 1)
        model.fit(data)
        weights.append(model.gaussians.network.state_dict())
    assert not all(torch.equal(a, b) for a, b in zip(*map(dict.values, weights), strict=True))
    numbers = {"steps": 8, "causality": 0.0, "adapt_every": 5, "adapt_rate": 0.1}
    with pytest.raises(Mistake, match=r"forcing\.interval=2 .* set one of them to 1"):
        Forcing(alpha="adaptive", interval=2, **numbers)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_gradients_through_the_state_fade_by_what_the_record_takes(alpha):
    cell, window = scalar(1.5, [1.0, 0.0, 0.0, 0.0, 0.0], hidden=2)
    window = window._replace(obs=window.obs.requires_grad_(True))
    reached = []
    judge = cell.judge
    cell.judge = lambda state, following, *more: (
        reached.append(following) or judge(state, following, *more)
    )
    forced_losses(cell, window, alpha, 0.0)
    (gradient,) = torch.autograd.grad(reached[-1][..., -1, 0].sum(), window.obs)
    assert gradient.item() == pytest.approx(1.5**4 * (1 - alpha) ** 3)
    # Hidden units go on whatever is forced.
    assert reached[-1][0, 0, -1, 1:].tolist() == [4.0, 4.0]


def test_columns_that_the_record_gives_are_never_carried():
    cell = Linear(2 * torch.eye(2).view(1, 1, 2, 2))
    cell.given = (1,)
    _, window = scalar(2.0, [1.0, 3.0, 4.0])
    window = Window(*(torch.cat([each, each], -1) for each in window[:3]), *window[3:])
    errors = free_errors(cell, window).flatten()
    # The first column 2, 4; the second 2, then 2 * 3.
    wanted = torch.tensor([1.0, (0.0 + 4.0) / 2])
    torch.testing.assert_close(errors, wanted)
    sparse = forced_losses(cell, window, 1.0, 0.0, 2)[1].flatten()
    torch.testing.assert_close(sparse, wanted)


def test_later_steps_count_by_how_well_earlier_ones_are_told():
    cell, window = scalar(2.0, [1.0, 3.0, 4.0, 5.0])
    loss, errors = forced_losses(cell, window, 0.25, 0.5)
    one, two, three = errors.flatten().tolist()
    wanted = one + math.exp(-0.5 * one) * two + math.exp(-0.5 * (one + two)) * three
    assert loss.item() == pytest.approx(wanted / 3)


def test_alpha_adapts_to_the_jacobian():
    """Spectral norms 4 and .5: at once up to 1 - 1/4, and by a rate towards 0."""
    matrices = torch.stack([torch.diag(torch.tensor([4.0, 1.0])), 0.5 * torch.eye(2)])
    matrices = matrices.unsqueeze(1)  # two seeds of one member
    cell = Linear(matrices, hidden=1)
    window = Window(
        *(torch.randn(2, 1, 5, 2), torch.zeros(2, 1, 5, 3, 2), torch.randn(2, 1, 5, 3, 2)),
        *(torch.zeros(2, 1, 5, 3, 1), torch.ones(2, 1, 5, 3)),
    )
    norms = jacobian_norms(cell, cell.begin(window.obs), window.action[..., 0, :], 2)
    torch.testing.assert_close(norms[:, 0, 0], torch.tensor([4.0, 0.5]))
    adaptive = AdaptiveAlpha((2, 1), 0.1, torch.device("cpu"))
    adaptive.adapt(cell, window)
    torch.testing.assert_close(adaptive.value.flatten(), torch.tensor([0.975, 0.9]))
    adaptive.value = torch.zeros(2, 1)
    adaptive.adapt(cell, window)
    torch.testing.assert_close(adaptive.value.flatten(), torch.tensor([0.75, 0.0]))


def test_a_lost_state_is_an_error_and_a_broken_network_is_none():
    cell, window = scalar(1e30, [1.0, 1.0, 1.0, 1.0])
    assert free_errors(cell, window).flatten().tolist() == [LOST] * 3
    broken, window = scalar(math.nan, [1.0, 1.0])
    assert free_errors(broken, window).isnan().all()


def test_windows_end_where_episodes_do():
    """Terminations and time limits end one alike; what lies behind counts for nothing."""
    terminated = torch.zeros(12, dtype=torch.bool)
    terminated[2] = True  # in the midst of the first episode
    data = numbered([5, 2, 5], terminated=terminated)
    room = room_of(data, torch.ones(12, dtype=torch.bool))
    # Stretches 0-2, 3-4, 5-6, 7-11: whole windows, and shorter stretches from their beginning.
    assert window_starts(room, 4).tolist() == [0, 3, 5, 7, 8]
    table = WindowRows(data, room, torch.zeros(2), torch.ones(2))
    window = table.cut(window_starts(room, 4), 4)
    assert window.counts.sum(-1).tolist() == [3.0, 2.0, 2.0, 4.0, 4.0]
    assert window.next_obs[0, :3, 0].tolist() == [1.0, 2.0, 3.0]
    lanes = Window(*(each.expand(1, 1, *each.shape) for each in window))
    cell = Linear(torch.eye(2).view(1, 1, 2, 2))
    cell.move = lambda state, action: (state + 1, ())
    clean = forced_losses(cell, lanes, 0.5, 0.0)[0]
    assert clean.item() == 0.0
    behind = (1 - lanes.counts).unsqueeze(-1) * 1e3
    spoilt = lanes._replace(next_obs=lanes.next_obs + behind)
    assert torch.equal(forced_losses(cell, spoilt, 0.5, 0.0)[0], clean)


def test_lanes_do_not_meet():
    matrices = torch.randn(2, 3, 2, 2)
    window = Window(
        *(torch.randn(2, 3, 5, 2), torch.randn(2, 3, 5, 4, 2), torch.randn(2, 3, 5, 4, 2)),
        *(torch.zeros(2, 3, 5, 4, 1), torch.ones(2, 3, 5, 4)),
    )
    clean, _ = forced_losses(Linear(matrices), window, 0.3, 0.1)
    matrices[1, 2] = math.nan
    dirty, _ = forced_losses(Linear(matrices), window, 0.3, 0.1)
    assert dirty[1, 2].isnan()
    spared = torch.tensor([[True] * 3, [True, True, False]])
    assert torch.equal(clean[spared], dirty[spared])


def test_the_plain_ensemble_is_fitted_as_ever(make_ensemble):
    """Its recipe, written out: the same random numbers, the same bits."""
    data = dataset(episodes=10, length=20)
    model = make_ensemble(max_epochs=2, patience=9)
    model.fit(data)

    other = make_ensemble()
    torch.manual_seed(0)
    gaussians = other.gaussians
    gaussians.reset()
    rows = data.transitions[~torch.isin(torch.arange(200) // 20, other.held_out(data))]
    inputs = torch.cat([rows.obs, rows.action], -1)
    table = torch.cat([inputs, rows.next_obs - rows.obs, rows.reward.unsqueeze(-1)], -1)
    train, held = split(torch.arange(len(table)).unsqueeze(0), int(0.2 * len(table)))
    gaussians.normalise_by(*moments(inputs, train))
    gaussians.requires_grad_(True)
    order = bootstrap(train, other.members)
    optimiser = Adam(gaussians.trained_parameters(), other.learning_rate)
    stopping = EarlyStopping.start(1, other.members, improvement=0.01, patience=9)
    best, batch, count = gaussians.snapshot(), other.batch, train.shape[1]
    for _ in range(2):
        order = shuffle(order)
        for begin in range(0, count, batch):
            position = torch.arange(begin, begin + batch)
            weight = (position < count).float()
            gaussians.update(optimiser, table[order[..., position.remainder(count)]], weight)
        improved = stopping.observe(gaussians.errors(table[held].unsqueeze(1)))
        best = gaussians.merge(best, improved, torch.ones(1, dtype=torch.bool))
    gaussians.restore(best)
    for name, value in gaussians.state_dict().items():
        assert torch.equal(value, model.gaussians.state_dict()[name]), name


@pytest.mark.parametrize(("updates", "epochs"), [(0, 3), (9, 6)])
def test_a_forced_fit_waits_for_so_many_updates(monkeypatch, updates, epochs):
    """240 rows to fit in windows of 8: two updates of 15 windows an epoch."""
    data = dataset(episodes=10, length=30)
    losses = iter([1.0, *[2.0] * 20])
    measure = WindowErrors.measure
    monkeypatch.setattr(
        WindowErrors, "measure", lambda own: torch.full_like(measure(own), next(losses))
    )
    changes = {"batch": 15, "patience": 2, "patience_updates": updates, "max_epochs": None}
    model = forced(changes | {"forcing": {"steps": 8}}, data.spec)
    assert model.fit(data)["epochs"] == [epochs]


@pytest.mark.parametrize("alpha", [0.2, 1.0, "adaptive"])
@pytest.mark.parametrize("select_by", ["one_step", "multi_step"])
def test_the_chosen_error_stops_and_selects(alpha, select_by):
    data = dataset(episodes=10, length=30)
    changes = {"select_by": select_by, "learning_rate": 1e-2, "max_epochs": 10}
    model = forced(changes | {"forcing": {"alpha": alpha, "steps": 8}}, data.spec)
    said = model.fit(data)
    assert said["holdout_loss"][0] == said[f"{select_by}_error"][0]
    other = ({"one_step", "multi_step"} - {select_by}).pop()
    assert said["holdout_loss"][0] != said[f"{other}_error"][0]
    assert said["multi_step_error"][0][-1] < 0.8 * said["multi_step_error"][0][0]
    assert ("alpha" in said) == (alpha == "adaptive")
    if "alpha" in said:
        assert all(0 < value < 1 for value in said["alpha"][0])
    best = torch.tensor(said["best_loss"][0])
    assert said["elites"][0] == best.argsort()[:2].tolist()


def test_a_forced_ensemble_is_not_the_plain_one_and_is_not_fitted_again():
    data = dataset(episodes=4, length=10)
    model = forced({}, data.spec)
    assert model.signature() != forced({"forcing": {"alpha": 0.9}}, data.spec).signature()
    with pytest.raises(Mistake, match=r"online\.refit_every=0"):
        model.require_refit()
    alone = data.transitions[:1]
    one = replace(
        data,
        transitions=alone,
        truncated=data.truncated[:1],
        valid_next=data.valid_next[:1],
        episode_starts=data.episode_starts[:1],
    )
    with pytest.raises(Mistake, match="give more data"):
        model.fit(one)


def test_copies_are_carried_exactly_and_exogenous_columns_come_from_the_record():
    """A history of two: the older state is the carried one, not what members say of it."""
    data = stack(dataset(episodes=6, length=20), 2)
    model = forced({"max_epochs": 1}, data.spec)
    model.fit(data)
    cell = GaussianCell(model.gaussians, model.copies, (), torch.tensor(1.0), 0.0)
    state = torch.randn(1, 3, 5, data.spec.obs_dim)
    action = torch.randn(1, 3, 5, 1)
    following, _ = cell.move(state, action)
    raw, after = (each * cell.std + cell.mean for each in (state, following))
    sources = torch.cat([raw, action], -1)
    assert len(data.spec.copies) >= 2
    for column, source in data.spec.copies:
        torch.testing.assert_close(after[..., column], sources[..., source])

    driven = replace(data, spec=replace(data.spec, copies=(), exogenous=(1,)))
    model = forced({"max_epochs": 2}, driven.spec)
    said = model.fit(driven)
    assert all(math.isfinite(each) for each in said["best_loss"][0])
    step = model.step(torch.randn(1, 4, driven.spec.obs_dim), torch.zeros(1, 4, 1))
    assert step.next_obs.isfinite().all()
