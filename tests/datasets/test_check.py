"""What a report holds: counts, quantiles, columns, and what is wrong with single values."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from reverie.datasets.build import build
from reverie.datasets.check import problems, report, show
from reverie.datasets.check.figures import draw
from reverie.datasets.check.report import as_json
from reverie.datasets.options import load
from reverie.envs.specs import Reference, Spec
from reverie.mistake import Mistake
from reverie.training.results.summary import behaviour
from tests.datasets.tables import log, write


def healthy(**changes):
    """Two episodes of three and four rows with true successors; keywords replace columns."""
    rng = np.random.default_rng(0)
    obs = changes.get("obs", rng.normal(size=(7, 3)))
    next_obs = np.roll(obs, -1, 0)
    next_obs[2::4] = rng.normal(size=next_obs[2::4].shape)  # ends
    columns = {
        "obs": obs,
        "action": rng.uniform(-0.9, 0.9, size=(7, 2)),
        "reward": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
        "terminated": np.array([0, 0, 1, 0, 0, 0, 0]),
        "truncated": np.zeros(7, bool),
        "next_obs": next_obs,
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


@pytest.mark.parametrize(("times", "told"), [(1, False), (2, True), (5, True)])
def test_rows_that_are_stored_several_times_are_told(times, told):
    rng = np.random.default_rng(0)
    ended = np.arange(1, 401) % 100 == 0
    columns = {
        "obs": np.cumsum(rng.normal(size=(400, 3)), 0),
        "action": rng.uniform(-0.9, 0.9, size=(400, 2)),
        "reward": rng.normal(size=400),
    }
    columns = {name: np.repeat(column, times, 0) for name, column in columns.items()}
    last = np.repeat(ended, times) & (np.arange(400 * times) % times == times - 1)
    found = report(
        healthy(**columns, terminated=np.zeros(len(last), bool), truncated=last, next_obs=None)
    )
    said = [each for each in found.warnings if "of the rows repeat the row before" in each]
    assert len(said) == told


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
    assert [each.at_edge for each in found.columns if each.name.startswith("action")] == [0, 2 / 7]
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
    assert f"{column} reaches 2,000,000 in" in problem


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
    obs = rng.normal(size=(8, 3))
    changes = {
        "obs": obs,
        "next_obs": None,
        "action": rng.uniform(-1, 1, (8, 2)),
        "reward": np.arange(8.0),
        "terminated": flags,
        "truncated": np.zeros(8),
    }
    (warning,) = report(healthy(**changes)).warnings
    assert "last exactly 4 steps, the time limit of the task" in warning
    changes["terminated"] = np.array([0, 0, 1, 0, 0, 0, 1, 0])
    assert report(healthy(**changes)).warnings == ()


def test_what_poisons_is_found_without_the_rest():
    data = healthy(action=np.zeros((7, 2)))
    assert problems(data) == report(data).problems != ()


def test_each_column_has_its_line():
    steps = np.array([0.1, 0.1, 0.3, 0.7, 0.7, 0.8, 0.5])
    obs = np.stack([steps, np.random.default_rng(3).normal(size=7), np.full(7, 2.0)], axis=1)
    found = report(healthy(obs=obs, reward=np.array([0.0, 1, 0, 0, 1, 1, 0])))
    columns = {each.name: each for each in found.columns}
    assert list(columns) == ["obs 0", "obs 1", "obs 2", "action 0", "action 1", "reward"]
    first = columns["obs 0"]
    assert (first.min, first.max) == pytest.approx((0.1, 0.8))
    assert (first.mean, first.std) == pytest.approx((steps.mean(), steps.std()))
    assert (first.repeats, first.step) == (2 / 6, 0.1)
    assert (columns["obs 1"].repeats, columns["obs 1"].step) == (0, None)
    assert (columns["obs 2"].repeats, columns["obs 2"].step) == (1, None)
    assert (columns["reward"].step, columns["reward"].at_edge) == (1, None)
    assert columns["action 0"].at_edge == 0


def through(data, path, width):
    """The text as a file or pipe of that width receives it."""
    with path.open("w") as file:
        show(data, report(data), Console(file=file, width=width))
    return path.read_text()


def test_everything_found_is_printed(tmp_path):
    text = through(healthy(action=np.zeros((7, 2))), tmp_path / "out", 120)
    for expected in ("toy.npz", "Toy-v0", "14.29% of rows", "by hand", "110", "3 to", "problem: "):
        assert expected in text


def test_numbers_are_whole_at_any_width(tmp_path):
    data = healthy(reward=np.arange(7.0) * -1234567.0, obs=np.random.normal(size=(7, 3)) * 1e5)
    wide = through(data, tmp_path / "wide", 300)
    assert "-7.407e+06" in wide and "-2.222e+07" in wide  # of a reward, and of a return
    assert through(data, tmp_path / "narrow", 30) == wide


def test_numbers_that_lie_close_together_are_told_apart(tmp_path):
    text = through(healthy(reward=101325.0 + np.arange(7.0)), tmp_path / "out", 120)
    last = [each.split() for each in text.splitlines() if each.split()[:1] == ["reward"]][-1]
    assert last[1:5] == ["101,325", "101,331", "101,328", "2"]


def test_nothing_is_printed_without_a_sign(tmp_path):
    text = through(healthy(reward=np.full(7, -0.0)), tmp_path / "out", 120)
    (line,) = (each for each in text.splitlines() if each.split()[:1] == ["return"])
    assert line.split()[1:] == ["0"] * 7


def test_of_many_columns_the_first_are_printed_and_all_are_in_the_json(tmp_path):
    rng = np.random.default_rng(0)
    spec = replace(healthy().spec, obs_dim=400)
    data = healthy(spec=spec, obs=rng.normal(size=(7, 400)))
    text = through(data, tmp_path / "out", 80)
    assert "obs 39 " in text and "obs 40 " not in text and "action 1 " in text
    assert "and 360 more columns; --json FILE has them all" in text
    assert len(json.loads(as_json(data, report(data)))["columns"]) == 403


def test_the_json_holds_everything_and_no_nan():
    data = healthy()
    found = json.loads(as_json(data, report(data)))
    assert (found["dataset"], found["rows"], found["spec"]["env_id"]) == ("toy", 7, "Toy-v0")
    assert (found["fingerprint"], found["reference"]["high"]) == (data.fingerprint, 20.0)
    assert found["columns"][-1]["name"] == "reward" and found["returns"][-1] == 22.0
    broken = with_values(data, reward=torch.full((7,), float("nan")))
    text = as_json(broken, report(broken))
    assert json.loads(text, parse_constant=pytest.fail)["rewards"] == [None] * 7


@pytest.mark.pictures
@pytest.mark.parametrize("obs_dim", [3, 40])
def test_the_picture_is_one(obs_dim):
    rng = np.random.default_rng(0)
    spec = replace(healthy().spec, obs_dim=obs_dim)
    data = healthy(spec=spec, obs=rng.normal(size=(7, obs_dim)), name="of $x_1$ and $")
    picture = draw(data)
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and b"reverie check" in picture[:4096]


@pytest.mark.pictures
def test_legends_of_the_picture_cover_no_curve(monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    names = ("a [cm]", "b" * 90, "one of many more letters than anybody can read in a legend")
    data = healthy()
    draw(replace(data, spec=replace(data.spec, obs_names=names)))
    legends = [axes.get_legend() for axes in figures[0].axes if axes.get_legend() is not None]
    assert len(legends) == 5  # returns, lengths, observations, actions, reward
    page = figures[0].bbox
    for legend in legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figures[0].axes)
        assert page.x0 <= box.x0 and box.x1 <= page.x1


def test_a_picture_of_one_row_of_huge_and_constant_values_is_drawn():
    columns = {"obs": np.full((1, 3), 3e38), "next_obs": np.full((1, 3), 3e38)}
    columns |= {"action": np.zeros((1, 2)), "reward": np.zeros(1)}
    flags = {"terminated": np.zeros(1), "truncated": np.zeros(1)}
    data = healthy(**columns, **flags)
    assert draw(data)[:4] == b"\x89PNG"
    assert report(data).rows == 1


def test_fragments_of_a_table_have_no_part_in_what_is_said_of_returns():
    """Of costs the shortest piece would be the best episode."""
    frame = log()
    frame["reward"] = -1.0
    assert behaviour(load(frame)) == {"return_mean": -59.0, "return_best": -59.0}
    frame.loc[[3, 130], "level [cm]"] = np.nan
    data = load(frame)
    assert sorted(data.returns.tolist()) == [-59.0, -59.0, -55.0, -48.0, -9.0, -2.0]
    assert behaviour(data) == {"return_mean": -221.0 / 4, "return_best": -48.0}
    found = report(data)
    assert (found.returns[0], found.returns[-1], found.lengths[0]) == (-59.0, -48.0, 2.0)
    told = "2 of 6 episodes are cut to 9 steps or fewer, less than half of the usual length"
    assert any(told in each for each in found.warnings)
    assert not any("usual length" in each for each in report(load(log())).warnings)


def test_short_episodes_that_terminate_are_whole():
    frame = log()
    frame["terminated"] = 0
    frame.loc[2, "terminated"] = 1
    data = load(frame)
    assert data.episode_lengths.tolist()[0] == 3 and data.whole.all()


def test_rows_of_a_table_are_named_by_its_lines(tmp_path):
    frame = log(rows=60, episodes=10)
    frame.loc[360:, "level [cm]"] *= 100
    frame = frame.drop(index=[5])  # which makes one row less before
    path = write(frame, tmp_path / "log.csv")
    told = report(load("table", path=str(path))).problems
    assert any("level [cm] is about" in each and "from line 361 on" in each for each in told), told
    with pytest.raises(Mistake, match=r"action \[-\] = 0\.\d+ in line \d+ lies outside"):
        load("table", path=str(path), action_high=0.5)
