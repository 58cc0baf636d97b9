"""What the check finds, what it calls a problem, and how its command ends."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from reverie.datasets.build import build
from reverie.datasets.check import check, report, show
from reverie.envs.specs import Reference, Spec

ROOT = Path(__file__).resolve().parents[2]


def healthy(**changes):
    """Two episodes of three and four rows with true successors; keywords replace columns."""
    rng = np.random.default_rng(0)
    columns = {
        "obs": rng.normal(size=(7, 3)),
        "action": rng.uniform(-0.9, 0.9, size=(7, 2)),
        "reward": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        "terminated": np.array([0, 0, 1, 0, 0, 0, 0]),
        "truncated": np.zeros(7, bool),
        "next_obs": rng.normal(size=(7, 3)),
    }
    spec = Spec(
        env_id="Toy-v0",
        obs_dim=3,
        action_dim=2,
        action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0),
        max_episode_steps=4,
    )
    standard = {
        "name": "toy",
        "spec": spec,
        "reference": Reference(0.0, 20.0, "by hand"),
        "origin": {"file": "toy.npz"},
        "clip_actions": False,
    }
    return build(**{**standard, **columns, **changes})


def with_values(data, **columns):
    """The dataset with columns that `build` would refuse."""
    return replace(data, transitions=replace(data.transitions, **columns))


def test_counts_and_quantiles_are_those_of_the_data():
    found = report(healthy())
    assert (found.rows, found.episodes, found.terminals, found.time_limits) == (7, 2, 1, 1)
    assert (found.without_next, found.duplicates, found.not_finite) == (0, 0, {})
    assert (found.returns[0], found.returns[-1]) == (6.0, 22.0)
    assert (found.scores[0], found.scores[3], found.scores[-1]) == (30.0, 70.0, 110.0)
    assert (found.lengths[0], found.lengths[-1]) == (3.0, 4.0)
    assert found.rewards[3] == 4.0  # the median
    assert found.histogram == (1, 1)
    assert found.problems == ()
    assert found.warnings == ()


def test_scores_need_a_reference():
    assert report(healthy(reference=None)).scores is None


def test_constant_and_equal_dimensions_are_found():
    obs = np.random.default_rng(1).normal(size=(7, 3))
    obs[:, 0] = 2.0
    obs[:, 2] = obs[:, 1]
    action = np.full((7, 2), 0.5)
    action[:, 1] = np.linspace(-1, 1, 7)
    found = report(healthy(obs=obs, action=action))
    assert found.constant_obs == (0,)
    assert found.equal_obs == ((1, 2),)
    assert found.constant_action == (0,)
    assert found.saturation == pytest.approx((0.0, 2 / 7))
    assert any("actions 0 never change" in line for line in found.warnings)
    assert found.problems == ()


def test_exact_duplicates_are_counted_and_near_ones_are_not():
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 10, size=60)
    obs = rng.normal(size=(10, 3))[rows]
    same = {"obs": obs, "next_obs": obs, "action": obs[:, :2] / 10, "reward": obs[:, 0]}
    flags = {"terminated": np.zeros(60), "truncated": np.zeros(60)}
    assert report(healthy(**same, **flags)).duplicates == 60 - len(np.unique(rows))
    same["reward"] = same["reward"] + np.arange(60) * 1e-3
    assert report(healthy(**same, **flags)).duplicates == 0


def test_rows_without_successor_are_counted():
    assert report(healthy(next_obs=None)).without_next == 1


def test_nan_and_infinity_are_problems_with_their_place():
    data = healthy()
    obs = data.transitions.obs.clone()
    obs[3, 1], obs[5, 0] = float("nan"), float("inf")
    found = report(with_values(data, obs=obs))
    assert found.not_finite == {"obs": 2}
    assert len(found.problems) == 1
    assert "obs holds 2 NaN or Inf entries, first in row 3" in found.problems[0]


@pytest.mark.parametrize("column", ["obs", "next_obs", "reward"])
def test_huge_values_are_a_problem(column):
    data = healthy()
    values = getattr(data.transitions, column).clone()
    values[-1] = -2e6
    (problem,) = report(with_values(data, **{column: values})).problems
    assert f"{column} reaches 2e+06" in problem


def test_actions_outside_the_unit_box_are_a_problem():
    data = healthy()
    (problem,) = report(with_values(data, action=data.transitions.action * 2)).problems
    assert "actions reach" in problem


def test_constant_actions_are_a_problem():
    (problem,) = report(healthy(action=np.zeros((7, 2)))).problems
    assert "all actions are the same" in problem


def test_terminal_rows_only_are_a_problem():
    problems = report(healthy(terminated=np.ones(7))).problems
    assert any("every row is terminal" in line for line in problems)


def test_no_successor_at_all_is_a_problem():
    found = report(healthy(terminated=np.ones(7), next_obs=None))
    assert any("no row has its true next observation" in line for line in found.problems)


def test_reset_states_as_successors_are_a_problem():
    data = healthy()
    shifted = torch.roll(data.transitions.obs, -1, 0)
    (problem,) = report(with_values(data, next_obs=shifted)).problems
    assert "in 1 of 1 terminal rows the next observation is the first of the following" in problem


def test_a_time_limit_may_go_on_into_the_next_episode():
    data = healthy(terminated=np.zeros(7), truncated=np.array([0, 0, 1, 0, 0, 0, 0]))
    shifted = torch.roll(data.transitions.obs, -1, 0)
    assert report(with_values(data, next_obs=shifted)).problems == ()


def test_terminals_at_the_time_limit_only_are_suspicious():
    flags = np.array([0, 0, 0, 1, 0, 0, 0, 1])
    rng = np.random.default_rng(0)
    changes = {
        "obs": rng.normal(size=(8, 3)),
        "next_obs": rng.normal(size=(8, 3)),
        "action": rng.uniform(-1, 1, (8, 2)),
        "reward": np.arange(8.0),
        "terminated": flags,
        "truncated": np.zeros(8),
    }
    (warning,) = report(healthy(**changes)).warnings
    assert "time limit of 4 steps" in warning
    changes["terminated"] = np.array([0, 0, 1, 0, 0, 0, 1, 0])
    assert report(healthy(**changes)).warnings == ()


def test_everything_found_is_printed(tmp_path):
    with (tmp_path / "out").open("w") as file:
        data = healthy(action=np.zeros((7, 2)))
        show(data, report(data), Console(file=file, width=120))
    text = (tmp_path / "out").read_text()
    for expected in ("toy.npz", "Toy-v0", "14.29% of rows", "by hand", "110", "3 to", "problem: "):
        assert expected in text


def write(path, **changes):
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(7, 3)),
        "actions": rng.uniform(-1, 1, (7, 2)),
        "rewards": rng.normal(size=7),
        "terminals": np.array([0, 0, 1, 0, 0, 0, 0]),
        "next_observations": rng.normal(size=(7, 3)),
    }
    np.savez(path, **{**columns, **changes})
    return str(path)


def test_the_command_takes_the_options_of_a_dataset(tmp_path, capsys):
    path = write(tmp_path / "log.npz")
    assert check(["dataset=file", f"dataset.path={path}", "dataset.reference=[0,2]"]) == 0
    out = capsys.readouterr().out
    assert "nothing found" in out
    assert "given by the user" in out


def test_the_command_fails_on_a_problem(tmp_path, capsys):
    path = write(tmp_path / "log.npz", actions=np.zeros((7, 2)))
    assert check(["dataset=file", f"dataset.path={path}"]) == 1
    assert "problem: all actions are the same" in capsys.readouterr().out


def test_the_command_counts_nan_in_a_file_in_one_line(tmp_path, capsys):
    rewards = np.arange(7.0)
    rewards[[1, 4]] = np.nan
    path = write(tmp_path / "log.npz", rewards=rewards)
    assert check(["dataset=file", f"dataset.path={path}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: dataset log: reward 2 NaN and 0 Inf in 2 rows (first row 1)")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=d4rl/hoper-medium-v2"], "did you mean d4rl/hopper-medium-v2"),
        (["dataset=nonsense"], "use one of builtin/"),
        (["dataset=d4rl"], "dataset.id has no value"),
        (["dataset=file", "dataset.pth=x"], "there is no setting dataset.pth"),
        (["dataset=file", "dataset.path=nowhere.npz"], "nowhere.npz does not exist"),
        (["dataset=file", "dataset.path=[x"], "the options do not fit"),
        (["dataset=file", "seed=1"], "expected dataset=... and dataset.key=value only"),
        (["dataset.path=x"], "expected dataset=..."),
    ],
)
def test_wrong_options_end_in_one_line(arguments, message, capsys):
    assert check(arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_help_says_how_to_call_it(capsys):
    assert check(["--help"]) == 0
    assert "python -m datasets.check dataset=" in capsys.readouterr().out
    assert check([]) == 2


def test_the_module_runs_from_the_checkout_and_returns_its_status(tmp_path):
    path = write(tmp_path / "log.npz", rewards=np.full(7, np.inf))
    done = subprocess.run(
        [sys.executable, "-m", "datasets.check", "dataset=file", f"dataset.path={path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: dataset log: reward 0 NaN and 7 Inf")
    assert done.stderr.count("\n") == 1
