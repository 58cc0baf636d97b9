"""Histories, hidden columns and copies: rows by hand, what the spec says, what is refused."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from reverie.datasets import chunk, hide, load, stack, with_copies
from reverie.datasets.check.report import report
from reverie.datasets.subset import choose_episodes
from reverie.datasets.transforms.copies import FEWEST, describe_copies, find_copies
from reverie.datasets.transforms.history import Lengths
from reverie.datasets.transition import column_names
from reverie.mistake import Mistake
from reverie.settings import misfit
from reverie.world_models.fitting import held_out_episodes


def two_episodes(**changes):
    """Three rows that a limit cuts, two that terminate; two columns, one action."""
    obs = np.array([[1, 10], [2, 20], [3, 30], [7, 70], [8, 80]], np.float32)
    columns = {
        "observations": obs,
        "next_observations": obs + np.float32([1, 10]),
        "actions": np.array([[0.1], [0.2], [0.3], [0.7], [0.8]], np.float32),
        "rewards": np.arange(5.0),
        "terminals": np.array([0, 0, 0, 0, 1]),
        "timeouts": np.array([0, 0, 1, 0, 0]),
    }
    return load(columns, **changes)


def same_rows(one, other):
    return all(
        torch.equal(getattr(one.transitions, name), getattr(other.transitions, name))
        for name in column_names(one.transitions)
    )


def test_rows_and_padding_of_two_episodes():
    data = stack(two_episodes(), 3)
    expected = [
        # o_t, o_{t-1}, o_{t-2}, a_{t-1}, a_{t-2}
        [1, 10, 1, 10, 1, 10, 0, 0],
        [2, 20, 1, 10, 1, 10, 0.1, 0],
        [3, 30, 2, 20, 1, 10, 0.2, 0.1],
        [7, 70, 7, 70, 7, 70, 0, 0],
        [8, 80, 7, 70, 7, 70, 0.7, 0],
    ]
    following = [
        [2, 20, 1, 10, 1, 10, 0.1, 0],
        [3, 30, 2, 20, 1, 10, 0.2, 0.1],
        [4, 40, 3, 30, 2, 20, 0.3, 0.2],  # the true successor, at a limit too
        [8, 80, 7, 70, 7, 70, 0.7, 0],
        [9, 90, 8, 80, 7, 70, 0.8, 0.7],
    ]
    rows = data.transitions
    assert torch.equal(rows.obs, torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(rows.next_obs, torch.tensor(following, dtype=torch.float32))
    assert rows.terminated.tolist() == [False, False, False, False, True]
    assert data.truncated.tolist() == [False, False, True, False, False]
    assert data.episode_starts.tolist() == [0, 3] and data.valid_next.all()
    assert data.recorded.transitions.obs.shape == (5, 2) and data.returns.tolist() == [3, 7]


def test_observations_and_actions_are_counted_apart():
    data = two_episodes()
    assert stack(data, 2, 0).transitions.obs[2].tolist() == [3, 30, 2, 20]
    alone = stack(data, 1, 2)
    assert alone.transitions.obs[2].tolist() == pytest.approx([3, 30, 0.2, 0.1])
    assert alone.spec.copies == ((2, 4), (3, 2))
    for setting in (3, {"obs": 3}, {"obs": 3, "actions": 2}):
        assert same_rows(two_episodes(history=setting), stack(data, 3))


def test_one_observation_is_the_very_dataset():
    data = two_episodes()
    assert stack(data, 1) is data
    for setting in (1, {"obs": 1, "actions": 0}, None):
        same = two_episodes(history=setting)
        assert same.fingerprint == data.fingerprint and same.spec == data.spec
    kinds = [data, *(stack(data, *each) for each in ((2,), (3,), (2, 0), (1, 1)))]
    assert len({each.fingerprint for each in kinds}) == len(kinds)


def test_where_the_successor_is_unknown_it_repeats_the_observation():
    data = two_episodes()
    valid = torch.tensor([True, True, True, True, False])
    made = stack(replace(data, valid_next=valid), 2)
    assert torch.equal(made.transitions.next_obs[4], made.transitions.obs[4])
    assert torch.equal(made.valid_next, valid)


def test_the_spec_names_the_columns_and_their_age():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        np.random.default_rng(0).uniform(size=(150, 5)),
        columns=["level [cm]", "demand", "valve [%]", "pump", "reward"],
    )
    data = load(
        table,
        columns={"actions": ["valve [%]", "pump"], "exogenous": "demand"},
        action_low=[0, -1],
        action_high=[100, 1],
        history=2,
    )
    assert data.spec.obs_names == (
        *("level [cm]", "demand", "level -1 [cm]", "demand -1", "valve -1 [%]", "pump -1"),
    )
    assert data.spec.exogenous == (1,)  # as it is now: what it was before is known
    assert data.spec.copies == ((2, 0), (3, 1), (4, 6), (5, 7))
    assert data.spec.scaled_labels[4:] == ("(valve -1 [%] - 50) / 50", "(pump -1 - 0) / 1")
    told = data.spec.told_obs(data.transitions.obs[1:2].numpy())[0]
    assert told[4] == pytest.approx(table["valve [%]"].iloc[0], abs=1e-4)
    assert data.spec.newest.obs_names == ("level [cm]", "demand")
    assert data.spec.newest == data.recorded.spec
    plain = stack(two_episodes(), 2).spec
    assert plain.obs_labels == ("obs 0", "obs 1", "obs 0 -1", "obs 1 -1", "action 0 -1")


def test_hidden_columns_are_gone():
    data = hide(two_episodes(), "obs 1")
    assert data.transitions.obs.flatten().tolist() == [1, 2, 3, 7, 8]
    assert data.transitions.next_obs.flatten().tolist() == [2, 3, 4, 8, 9]
    assert (data.spec.hidden, data.spec.obs_names) == ((1,), ("obs 0",))
    assert data.fingerprint != two_episodes().fingerprint
    assert same_rows(two_episodes(hide=[1], history=2), stack(data, 2))
    assert hide(two_episodes(), np.array([1])).spec == data.spec
    assert two_episodes(hide=None).spec == two_episodes().spec
    moved = load("builtin/two-tanks", episodes=4, hide="h1*")
    assert [moved.spec.obs_names[dim] for dim in moved.spec.exogenous] == ["setpoint [cm]"]


def test_the_copies_of_a_history_are_found_in_its_rows():
    data = load("builtin/pendulum-mixed", episodes=6, history=3)
    assert find_copies(data) == data.spec.copies
    assert describe_copies(data.spec) == (
        "columns 3..8 copy columns 0..5, column 9 copies action 0, column 10 copies column 9"
    )
    told = replace(data, spec=replace(data.spec, copies=()))
    assert with_copies(told).spec == data.spec
    (line,) = [each for each in report(told).warnings if "copies" in each]
    assert "columns 3..8 copy columns 0..5" in line and "set dataset.copies=auto" in line
    assert not [each for each in report(data).warnings if "copies" in each]


def test_what_is_no_copy_is_not_found():
    assert find_copies(load("builtin/hopper-random", steps=600)) == ()
    assert find_copies(load("builtin/two-tanks", episodes=4)) == ()
    rng = np.random.default_rng(0)
    rows = 300
    obs = np.zeros((rows, 6), np.float32)
    obs[:, 0] = rng.normal(size=rows)
    obs[1:, 1] = obs[:-1, 0]  # the only copy
    obs[:, 2] = 3.0  # never changes, as its copy would not
    obs[:, 3] = 3.0
    obs[:, 4] = np.arange(rows) >= 150  # changes once
    obs[1:, 5] = obs[:-1, 4]
    columns = {
        "observations": obs,
        "actions": rng.uniform(-1, 1, (rows, 1)),
        "rewards": np.zeros(rows),
        "terminals": np.zeros(rows),
        "timeouts": np.arange(rows) == rows - 1,
    }
    assert find_copies(load(columns)) == ((1, 0),)
    assert load(columns, copies="auto").spec.copies == ((1, 0),)
    assert load(columns, exogenous=[1], copies="auto").spec.copies == ()
    few = {name: column[: FEWEST - 2] for name, column in columns.items()}
    few["timeouts"][-1] = True
    assert find_copies(load(few)) == ()
    broken = {**columns, "observations": obs.copy()}
    broken["observations"][200, 1] += 1e-3
    assert find_copies(load(broken)) == ()


def test_copies_change_no_row(caplog):
    plain = two_episodes()
    told = with_copies(plain)
    assert told is plain and "found no column" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: stack(data, 0), "dataset.history.obs=0 must be a whole number, at least 1"),
        (lambda data: stack(data, 2, -1), "dataset.history.actions=-1 must be a whole number"),
        (lambda data: stack(data, 5), "dataset.history={obs: 5, actions: 4} reaches further back"),
        (lambda data: stack(stack(data, 2), 2), "the rows of arrays are histories already"),
        (lambda data: chunk(stack(data, 2), 2, discount=1.0), "dataset.chunks=2 and histories"),
        (lambda data: stack(chunk(data, 2, discount=1.0), 2), "dataset.history={obs: 2, actions"),
        (lambda data: hide(data, [0, 1]), "arrays: dataset.hide names every observation"),
        (lambda data: hide(data, "v"), "arrays has no observation 'v', which dataset.hide names"),
        (lambda data: hide(stack(data, 2), 0), "the rows of arrays are transformed already"),
        (lambda data: two_episodes(history={"frames": 3}), "dataset.history={'frames': 3} must be"),
        (lambda data: two_episodes(history="three"), "dataset.history=three must be"),
        (lambda data: two_episodes(history=2.5), "dataset.history=2.5 must be"),
        (lambda data: two_episodes(copies="yes"), "dataset.copies=yes must be auto or null"),
        (
            lambda data: two_episodes(exogenous=[0], hide=[1]),
            "arrays: dataset.hide leaves exogenous observations alone",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(Mistake, match=re.escape(message)):
        make(two_episodes())


def test_rows_on_disk_are_refused_and_whole_episodes_chosen_before(tmp_path):
    np.savez(tmp_path / "log.npz", **_columns())
    on_disk = {"path": str(tmp_path / "log.npz"), "action_low": -1, "action_high": 1}
    for changes in ({"history": 2}, {"hide": [0]}):
        with pytest.raises(Mistake, match=r"in memory; set dataset\.storage=memory"):
            load("file", **on_disk, storage="memmap", **changes)
    mapped = load("file", **on_disk, storage="memmap", copies="auto")
    assert mapped.mapped
    with pytest.raises(Mistake, match=r"was transformed; choose before"):
        choose_episodes(stack(two_episodes(), 2), {"episodes": 1, "fraction": None, "seed": 0})
    kept = load("builtin/pendulum-mixed", episodes=8, history=2, subset={"episodes": 3})
    assert len(kept) == 600 and held_out_episodes(kept, 1, 0).tolist() == []


def _columns():
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(30, 2)),
        "actions": rng.uniform(-1, 1, (30, 1)),
        "rewards": np.zeros(30),
        "terminals": np.zeros(30),
        "timeouts": np.arange(30) % 10 == 9,
    }


@pytest.mark.parametrize("said", [[3], "3", 2.5, 0])
def test_a_history_of_no_such_form_is_told_both_forms(said):
    told = "at least 1, or {obs: 3, actions: 2}, or null"
    assert str(misfit("dataset.history", said, Lengths)).endswith(told)
    assert misfit("dataset.history", {"obs": 3}, Lengths) is None
