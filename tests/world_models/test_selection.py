"""What stops a fit and chooses weights: windows of whole episodes, and the errors on them."""

import logging
from dataclasses import replace

import pytest
import torch

from reverie.datasets import stack
from reverie.world_models.ensemble import ProbabilisticEnsemble
from reverie.world_models.forcing import WindowRows, window_starts
from reverie.world_models.neural_ode import NeuralODE
from reverie.world_models.selection import Cut, WindowErrors, held_windows, windows_within
from tests.world_models.conftest import SMALL, dataset, ensemble
from tests.world_models.test_any_step import numbered
from tests.world_models.test_forcing import forced
from tests.world_models.test_neural_ode import SOLVED, irregular

CPU = torch.device("cpu")
MANY = {"select_by": "multi_step", "select_steps": 8, "max_epochs": 1}
"""After one epoch the best weights are the last ones, so that what was measured can be repeated."""


def everything(data):
    return torch.ones(len(data), dtype=torch.bool)


def cut_of(model, data):
    """The rows as the fit cuts them."""
    most = windows_within(model.holdout_limit, model.select_steps)
    return Cut.of(data, everything(data), model.holdout_fraction, model.seed, CPU, most)


def rolled(model, data, rows, steps):
    """Error of every member, window by window and step by step, from raw states: `[E]`."""
    dim, given = data.spec.obs_dim, list(data.spec.exogenous)
    learned = [column for column in range(dim) if column not in model.held.tolist()]
    total, count = torch.zeros(steps, model.members), torch.zeros(steps)
    for start in window_starts(torch.where(rows.held, rows.room, 0), steps).tolist():
        obs = data.transitions.obs[start].expand(model.members, 1, -1)
        for t in range(min(steps, int(rows.room[start]))):
            here = data.transitions[start + t]
            action = here.action.expand(model.members, 1, -1)
            told = [obs[:, 0], action[:, 0]]
            if data.dt is not None:
                told.append((data.dt[start + t] / data.nominal_dt).expand(model.members, 1))
            mean = model.gaussians(torch.cat(told, -1)[None, :, None])[0][0]
            obs = obs + mean[..., :-1]
            for column, source in data.spec.copies:
                before = torch.cat([told[0], told[1]], -1)
                obs[..., column] = before[:, source, None]
            off = (obs[:, 0] - here.next_obs) / rows.std[:dim]
            paid = (mean[:, 0, -1:] - here.reward) / rows.reward_std
            off = torch.cat([off[:, learned], paid], -1)
            total[t] += off.square().mean(-1).clamp(max=100)
            count[t] += 1
            obs[..., given] = here.next_obs[given]
    return (total / count[:, None]).mean(0)


def driven():
    """A history of two, of which the first column is exogenous, in units far from one."""
    base = dataset(episodes=8, length=20)
    rows = base.transitions
    unit, origin = torch.tensor([1e-3, 40.0]), torch.tensor([0.0, 2000.0])
    moved = replace(rows, obs=rows.obs * unit + origin, next_obs=rows.next_obs * unit + origin)
    spec = replace(base.spec, exogenous=(0,))
    return stack(replace(base, transitions=moved, spec=spec), 2)


DATA = {
    "plain": lambda: dataset(episodes=8, length=20),
    "terminating": lambda: dataset(episodes=8, length=20, terminal_above=1.0),
    "short": lambda: dataset(episodes=40, length=3),
    "driven": driven,
    "irregular": lambda: irregular(300),
}


@pytest.mark.parametrize("kind", DATA)
def test_the_error_of_many_steps_is_that_of_rollouts_from_the_first_state(kind):
    """Terminations and ends of episodes, copies, exogenous columns and durations are respected."""
    data = DATA[kind]()
    # A limit that takes every window, whose order then does not matter.
    settings = SMALL | {"spec": data.spec, "holdout_limit": 10**6} | MANY
    model = ProbabilisticEnsemble(**settings)
    if data.dt is not None:
        model = NeuralODE(**settings, **SOLVED)
    said = model.fit(data)
    rows = cut_of(model, data)
    wanted = rolled(model, data, rows, min(8, rows.longest))
    found = torch.tensor(said["best_loss"][0])
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-5)
    assert said["multi_step_error"][0] == said["holdout_loss"][0] != said["one_step_error"][0]
    assert said["elites"][0] == found.argsort()[:2].tolist()


def test_no_held_out_episode_is_learned_from():
    """What its actions are changes what is measured, and no weight."""
    data = dataset(episodes=10, length=20)
    model = ensemble(**MANY)
    said = model.fit(data)
    rows = cut_of(model, data)
    whole = rows.held.view(10, 20)
    assert whole.any(1).sum() == whole.all(1).sum() == 2
    assert not bool((rows.train & rows.held).any())
    assert (said["train_rows"], said["holdout_rows"], said["rows"]) == (160, 40, 200)
    action = torch.where(rows.held.unsqueeze(-1), -data.transitions.action, data.transitions.action)
    other = ensemble(**MANY)
    told = other.fit(replace(data, transitions=replace(data.transitions, action=action)))
    assert told["multi_step_error"] != said["multi_step_error"]
    for name, value in model.gaussians.state_dict().items():
        assert torch.equal(value, other.gaussians.state_dict()[name]), name


def test_no_more_episodes_are_held_out_than_windows_measure():
    data = dataset(episodes=60, length=4)
    model = ensemble(**(MANY | {"select_steps": 4, "holdout_limit": 20}))
    assert model.fit(data)["holdout_rows"] == 5 * 4
    assert windows_within(10**9, 16) < 10**4 and windows_within(3, 16) == 1


@pytest.mark.parametrize("kind", ["single rows", "no successors", "two rows"])
def test_where_nothing_goes_on_single_steps_select_and_a_line_says_so(kind, caplog):
    data = dataset(episodes=1, length=60)
    if kind == "single rows":
        data = replace(data, episode_starts=torch.arange(60))
    elif kind == "no successors":
        data = replace(data, valid_next=torch.arange(60) % 2 == 0)
    else:
        data = replace(data, episode_starts=torch.tensor([0, 58, 59]))
    fraction = {"holdout_fraction": 0.9} if kind == "two rows" else {}
    model, plain = ensemble(**(MANY | fraction)), ensemble(max_epochs=1, **fraction)
    with caplog.at_level(logging.WARNING):
        said = model.fit(data)
    (line,) = (each.getMessage() for each in caplog.records)
    assert "toy" in line and "select_by=one_step" in line and "\n" not in line
    wanted = plain.fit(data)
    assert said == wanted and "multi_step_error" not in said
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def test_of_a_single_episode_the_end_measures(caplog):
    model = ensemble(**MANY)
    said = model.fit(dataset(episodes=1, length=100))
    assert (said["train_rows"], said["holdout_rows"]) == (80, 20) and not caplog.records


def test_seeds_are_measured_each_for_itself():
    data = dataset(episodes=10, length=20)
    model = ensemble(**(MANY | {"seeds": 2}))
    said = model.fit(data)
    assert said["best_loss"][0] != said["best_loss"][1]
    rows = cut_of(model, data)
    table = WindowRows(data, rows.room, rows.mean[:2], rows.std[:2])
    windows = held_windows(table, rows, 8, 1000, (2, 3))
    errors = WindowErrors(model.cells(rows)[1], windows, "multi_step")
    clean = errors.measure()
    model.gaussians.network.layers[0].weight.data[1, 2] = torch.nan
    spoilt = errors.measure()
    assert spoilt[1, 2].isnan() and spoilt.isnan().sum() == 1
    spared = ~spoilt.isnan()
    assert torch.equal(clean[spared], spoilt[spared])


def test_many_steps_stop_a_fit_elsewhere_and_leave_a_lower_error_of_many():
    data = dataset(episodes=20, length=40, noise=0.02)
    settings = {"max_epochs": 30, "patience": 30, "learning_rate": 1e-2, "improvement": 0.0}
    model = ensemble(**(MANY | settings | {"holdout_limit": 200}))
    said = model.fit(data)
    curve = torch.tensor(said["multi_step_error"][0])
    assert said["holdout_loss"][0] == said["multi_step_error"][0]
    assert torch.tensor(said["best_loss"][0]).mean() <= curve.min()
    assert curve.min() < 0.5 * curve[0]


def test_old_fits_have_the_same_names():
    """An added key at its old value names no other fit."""
    plain, many = ensemble(), ensemble(**MANY)
    assert "select_by" not in plain.signature() and "select_steps" not in plain.signature()
    assert many.signature()["select_by"] == "multi_step"
    assert many.signature() != ensemble(**(MANY | {"select_steps": 4})).signature()
    own = forced({}, plain.spec).signature()
    assert own["select_by"] == "multi_step" and "select_steps" not in own
    assert forced({"select_steps": 16}, plain.spec).signature() == own
    assert forced({"select_steps": 5}, plain.spec).signature()["select_steps"] == 5


def test_forced_fits_are_measured_on_windows_of_their_own_length():
    data = dataset(episodes=10, length=30)
    errors = {
        steps: forced({"select_steps": steps, "max_epochs": 1}, data.spec).fit(data)
        for steps in (None, 2, 16)
    }
    assert errors[None]["multi_step_error"] == errors[16]["multi_step_error"]
    assert errors[2]["multi_step_error"][0][0] < errors[16]["multi_step_error"][0][0]


def test_a_refit_to_collected_rows_is_stopped_by_single_steps(caplog):
    data = dataset(episodes=4, length=20)
    model = ensemble(**MANY)
    model.fit(data)
    added = dataset(episodes=1, length=20, seed=1).transitions.map(lambda column: column[None])
    told = model.refit(data, added, warm=True)
    assert told["rows"].tolist() == [100.0] and told["holdout_loss"].isfinite().all()


def test_short_held_out_stretches_have_windows_of_their_length():
    data = numbered([3] * 10)
    rows = Cut.of(data, everything(data), 0.2, 0, CPU)
    assert rows.longest == 3
    table = WindowRows(data, rows.room, torch.zeros(2), torch.ones(2))
    windows = held_windows(table, rows, 16, 1000, (1, 2))
    assert windows.action.shape[-2] == 3 and bool((windows.counts == 1).all())
