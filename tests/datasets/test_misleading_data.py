"""Data that read well and mislead: one small recording, damaged in one way after the other."""

import numpy as np
import pytest

import reverie.datasets
from reverie.datasets.check import report

UNNAMED = "no environment is named, so policies cannot be scored"
EPISODES, STEPS = 30, 40
BUILTIN = {
    "pendulum-mixed": {"episodes": 12},
    "hopper-random": {"steps": 2000},
    "edge-of-reach": {"episodes": 40},
    "refrigerator": {},
    "cartpole-swingup": {"steps": 3000},
    "duffing": {"steps": 2000},
    "lorenz": {"steps": 2000},
}


def recording(obs_dim=4, action_dim=2):
    """Slow random walks with true successors, also at the ends, which are time limits."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(EPISODES, 1, obs_dim)) + np.cumsum(
        0.05 * rng.normal(size=(EPISODES, STEPS + 1, obs_dim)), axis=1
    )
    timeouts = np.zeros((EPISODES, STEPS), bool)
    timeouts[:, -1] = True
    return {
        "observations": np.float32(states[:, :-1].reshape(-1, obs_dim)),
        "actions": np.float32(rng.uniform(-1, 1, (EPISODES * STEPS, action_dim))),
        "rewards": np.float32(rng.normal(size=EPISODES * STEPS)),
        "next_observations": np.float32(states[:, 1:].reshape(-1, obs_dim)),
        "terminals": np.zeros(EPISODES * STEPS, bool),
        "timeouts": timeouts.reshape(-1),
    }


def without(columns, *names):
    return {name: column for name, column in columns.items() if name not in names}


def taken(columns, rows):
    return {name: column[rows] for name, column in columns.items()}


def found(columns, **settings):
    """Warnings beyond that no environment is named, and problems."""
    what = report(reverie.datasets.load(columns, **settings))
    assert UNNAMED in what.warnings or "env_id" in settings
    return [each for each in what.warnings if each != UNNAMED], list(what.problems)


def the_warning(columns, **settings):
    warnings, problems = found(columns, **settings)
    assert not problems and len(warnings) == 1, (warnings, problems)
    return warnings[0]


def the_problem(columns, **settings):
    warnings, problems = found(columns, **settings)
    assert not warnings and len(problems) == 1, (warnings, problems)
    return problems[0]


@pytest.mark.parametrize("missing", [[], ["timeouts"], ["next_observations"]], ids=str)
def test_nothing_is_said_about_sound_data(missing):
    assert found(without(recording(), *missing)) == ([], [])


@pytest.mark.parametrize("name", BUILTIN)
def test_nothing_is_said_about_builtin_data(name):
    what = report(reverie.datasets.load(f"builtin/{name}", **BUILTIN[name]))
    assert (what.warnings, what.problems) == ((), ())


def test_one_long_episode_is_sound():
    data = recording()
    rows = slice(0, STEPS)
    assert found(without(taken(data, rows), "timeouts", "next_observations")) == ([], [])


@pytest.mark.parametrize("limit", [None, STEPS, 1000])
def test_time_limits_as_terminals(limit):
    data = recording()
    data["terminals"] = data.pop("timeouts")
    text = the_warning(data, max_episode_steps=limit)
    assert f"all 30 terminated episodes last exactly {STEPS} steps" in text
    assert ("the time limit of the task" in text) == (limit == STEPS)


def test_time_limits_as_terminals_among_true_ones():
    data = recording()
    lengths = np.r_[np.arange(11, 21), [60] * 10]
    ends = np.cumsum(lengths) - 1
    data = taken(data, slice(0, ends[-1] + 1))
    data["terminals"][ends] = True
    data["timeouts"][:] = False
    # Walks that go on over the ends, so that nothing else is odd.
    data = without(data, "next_observations")
    warnings, _ = found(data)
    assert any("10 of 20 terminated episodes last exactly 60 steps" in each for each in warnings)
    data["terminals"][ends] = False
    data["terminals"][np.cumsum(np.arange(11, 31)) - 1] = True
    assert not any("terminated episodes last" in each for each in found(data)[0])


@pytest.mark.parametrize("timeouts", [True, False])
def test_environments_side_by_side(timeouts):
    data = recording()
    rows = np.arange(EPISODES * STEPS).reshape(5, -1).T.reshape(-1)
    data = taken(data, rows)
    text = the_warning(data if timeouts else without(data, "timeouts"))
    assert "5 environments side by side" in text and "sort the rows" in text
    assert ("% of rows" in text) or "of 1,170 rows inside episodes (" in text


@pytest.mark.parametrize("timeouts", [True, False])
def test_shuffled_rows(timeouts):
    data = taken(recording(), np.random.default_rng(1).permutation(EPISODES * STEPS))
    text = the_warning(data if timeouts else without(data, "timeouts"))
    assert "not in the order they were recorded (shuffled" in text and "%" in text


def as_differences(data):
    data["next_observations"] = data["next_observations"] - data["observations"]


def with_normalised_observations(data):
    obs = data["observations"]
    data["observations"] = (obs - obs.mean(0)) / (3.0 * obs.std(0))


@pytest.mark.parametrize("timeouts", [True, False])
@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("change", [as_differences, with_normalised_observations])
def test_successors_in_another_scale_are_not_called_shuffled(change, shuffled, timeouts):
    data = recording() if timeouts else without(recording(), "timeouts")
    change(data)
    if shuffled:
        data = taken(data, np.random.default_rng(1).permutation(EPISODES * STEPS))
    text = the_warning(data)
    assert "differences, or in another scale" in text and "order" not in text
    if timeouts and not shuffled:  # the remedy
        assert found(without(data, "next_observations")) == ([], [])


def test_few_transitions_of_a_recording_are_known_as_such():
    rows = np.random.default_rng(1).permutation(EPISODES * STEPS)[:200]
    assert "a replay buffer" in the_warning(taken(recording(), rows))


def test_some_rows_out_of_order_are_counted():
    data = recording()
    order = np.arange(EPISODES * STEPS)
    order[[100, 110]] = order[[110, 100]]
    assert "in 4 of 1,170 rows inside episodes (0.342%)" in the_warning(taken(data, order))


def test_disorder_without_successors():
    data = without(recording(), "next_observations")
    shuffled = taken(data, np.random.default_rng(1).permutation(EPISODES * STEPS))
    assert "are they shuffled?" in the_warning(shuffled)
    rows = np.arange(EPISODES * STEPS).reshape(5, -1).T.reshape(-1)
    assert "are these 5 environments side by side?" in the_warning(taken(data, rows))


def in_half_precision(column):
    return np.float32(np.float16(column))


def with_noise(column):
    return column + np.float32(0.003 * np.random.default_rng(2).normal(size=column.shape))


@pytest.mark.parametrize("change", [in_half_precision, with_noise])
def test_successors_that_differ_by_rounding_or_noise_make_every_row_an_episode(change):
    data = recording()
    data["next_observations"] = change(data["next_observations"])
    text = the_warning(without(data, "timeouts"))
    assert "episodes end only because the next observation differs" in text
    assert "rounding or noise" in text and "store timeouts" in text


@pytest.mark.parametrize("steps", [1, 40])
def test_recorded_ends_in_a_plant_that_goes_on_are_no_noise(steps):
    """The next episode begins near where the one before ended."""
    data = recording()
    walk = np.cumsum(0.05 * np.random.default_rng(3).normal(size=(EPISODES * STEPS + 1, 4)), axis=0)
    data["observations"], data["next_observations"] = np.float32(walk[:-1]), np.float32(walk[1:])
    data["timeouts"] = np.arange(1, EPISODES * STEPS + 1) % steps == 0
    data["next_observations"][data["timeouts"]] += 0.01  # of a row that was not kept
    assert found(data) == ([], [])


def test_noise_where_ends_are_recorded():
    data = recording()
    data["next_observations"] = with_noise(data["next_observations"])
    assert "rows inside episodes (100%) the next observation differs" in the_warning(data)
    data["next_observations"] = in_half_precision(recording()["next_observations"])
    assert found(data) == ([], [])  # harms nothing


def test_episodes_that_became_one():
    text = the_warning(without(recording(), "timeouts", "next_observations"))
    assert "29 single steps are unlike all others" in text
    assert "dataset.max_episode_steps=40" in text
    repaired = without(recording(), "timeouts", "next_observations")
    assert found(repaired, max_episode_steps=40) == ([], [])


@pytest.mark.parametrize("timeouts", [True, False])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [(0, "the row's own"), (1, "that of the row before"), (2, "2 rows before")],
)
def test_successors_of_other_rows(timeouts, rows, expected):
    data = recording()
    data["next_observations"] = np.roll(data["observations"], rows, axis=0)
    assert expected in the_problem(data if timeouts else without(data, "timeouts"))


def test_transitions_of_several_steps():
    data = recording()
    data["next_observations"] = np.roll(data["observations"], -3, axis=0)
    assert "are these 3-step transitions?" in the_warning(data)


def test_states_that_stand_still_are_no_mistake():
    data = recording()
    data["observations"][1:] = data["observations"][:-1].copy()
    data["observations"][:] = np.repeat(data["observations"][::STEPS], STEPS, axis=0)
    data["next_observations"] = data["observations"].copy()
    assert not found(data)[1]


def test_ends_one_row_off():
    data = recording()
    late = data | {"timeouts": np.roll(data["timeouts"], 1)}
    assert "one row too late" in the_problem(late)
    early = data | {"timeouts": np.roll(data["timeouts"], -1)}
    assert "one row too early" in the_problem(early)
    built = without(late, "next_observations")
    assert "are timeouts stored one row too late?" in the_warning(built)
    # Terminal rows are kept, so that the step after them is inside an episode.
    ended = without(late | {"terminals": late["timeouts"]}, "timeouts", "next_observations")
    ended["terminals"] = ended["terminals"] & (np.arange(EPISODES * STEPS) != 0)
    _, problems = found(ended)
    assert any("stored one row too late" in each for each in problems)


def test_starts_of_the_following_episode_as_successors_at_time_limits():
    data = recording()
    data["next_observations"] = np.roll(data["observations"], -1, axis=0)
    assert "in 29 of 29 rows at time limits" in the_problem(data)
    data["timeouts"] = np.roll(data["timeouts"], 20)  # a recording that was cut into pieces
    assert not any("time limits" in each for each in found(data)[1])


def padded(ends, standing_in):
    """The recording, every second end a terminal, with something else at ends of one kind."""
    data = recording()
    last = np.arange(STEPS - 1, EPISODES * STEPS, STEPS)
    data["timeouts"][last[::2]] = False
    data["terminals"][last[::2]] = True
    at = data[ends]
    data["next_observations"][at] = 0 if standing_in == "zeros" else data["observations"][at]
    return data


def of_ends(data):
    """What is said of next observations at ends."""
    warnings, problems = found(data)
    return [each for each in warnings + problems if "terminal rows" in each or "limits the" in each]


@pytest.mark.parametrize(("standing_in", "told"), [("own", "the row's own"), ("zeros", "one and")])
@pytest.mark.parametrize("ends", ["terminals", "timeouts"])
def test_what_stands_in_for_the_next_observation_at_ends(standing_in, told, ends):
    data = padded(ends, standing_in)
    (text,) = of_ends(data)
    where = "rows at time limits" if ends == "timeouts" else "terminal rows"
    assert f"in 15 of 15 {where} the next observation is {told}" in text
    assert (text in found(data)[1]) == (ends == "timeouts")
    assert of_ends(without(data, "next_observations")) == []


def test_tanks_that_run_empty_or_come_to_rest_and_equal_episodes_are_sound():
    outflow = np.linspace(0.026, 0.035, EPISODES)[:, None] * np.arange(STEPS + 1)
    level = np.float32(np.maximum(1.0 - outflow, 0.0))  # empty by row 39, at the latest
    rows = level[:, :-1] > 0
    data = taken(recording(), rows.reshape(-1))
    data["observations"] = level[:, :-1][rows][:, None]
    data["next_observations"] = level[:, 1:][rows][:, None]
    data["terminals"] = data["next_observations"][:, 0] == 0
    data["timeouts"] = np.zeros(len(data["terminals"]), bool)
    assert data["terminals"].sum() == EPISODES and of_ends(data) == []
    at_rest = recording()
    names = ("observations", "next_observations")
    obs, following = (at_rest[name].reshape(EPISODES, STEPS, -1) for name in names)
    following[:, -5:] = following[:, -5:-4]
    obs[:, -4:] = following[:, -5:-1]
    assert of_ends(at_rest) == []
    assert of_ends(taken(recording(), np.tile(np.arange(STEPS), EPISODES))) == []


def test_half_of_an_assumed_box():
    data = recording()
    actions = data["actions"]
    assert "dataset.action_low=-0.5 dataset.action_high=0.5" in the_warning(
        data | {"actions": actions / 2}
    )
    assert "no action is ever below 0" in the_warning(data | {"actions": np.abs(actions)})
    assert "no action is ever above 0" in the_warning(data | {"actions": -np.abs(actions)})
    one = np.stack([actions[:, 0], np.abs(actions[:, 1])], axis=1)
    assert "actions 1 are never below 0" in the_warning(data | {"actions": one})
    settings = {"action_low": 0, "action_high": 1}
    assert found(data | {"actions": np.abs(actions)}, **settings) == ([], [])


def test_discrete_actions():
    data, rng = recording(), np.random.default_rng(0)
    choices = rng.integers(3, size=EPISODES * STEPS)
    one_hot = np.eye(3, dtype=np.float32)[choices]
    assert "one-hot vectors of 3" in the_problem(data | {"actions": one_hot})
    settings = {"action_low": 0, "action_high": 1}
    assert "one-hot" in the_problem(data | {"actions": one_hot}, **settings)
    whole = np.float32(choices[:, None])
    text = the_warning(data | {"actions": whole}, action_low=0, action_high=2)
    assert "takes only 3 different values" in text
    gripper = data | {"actions": np.stack([data["actions"][:, 0], np.sign(whole[:, 0] - 1)], 1)}
    assert found(gripper) == ([], [])


HALF = EPISODES * STEPS // 2


def test_rows_that_were_never_written():
    data = recording()
    for column in data.values():
        column[HALF:] = 0
    told = f"all columns hold 0 in rows {HALF:,} to 1,199 of 1,200"
    assert any(told in each for each in found(data)[1])
    data = recording()
    for column in data.values():
        column[HALF : HALF + 100] = 0
    assert any("all columns hold 0 in rows 600 to 699" in each for each in found(data)[1])


@pytest.mark.parametrize("column", ["observations", "actions", "rewards"])
def test_columns_half_written(column):
    data = recording()
    data[column][HALF:] = 0
    warnings, _ = found(data)
    assert any(f"{column} stay at 0 in rows {HALF:,} to 1,199" in each for each in warnings)


def test_a_sensor_that_died():
    data = without(recording(), "next_observations")
    data["observations"][HALF:, 1] = data["observations"][HALF, 1]
    assert "observations 1 stay at " in the_warning(data)


def test_rewards_that_are_rarely_given_are_sound():
    data = recording()
    data["rewards"][:] = 0
    data["rewards"][[200, 210, 900]] = 1
    assert found(data) == ([], [])


def test_rows_that_were_joined_twice():
    data = recording()
    text = the_warning({name: np.concatenate([data[name]] * 2) for name in data})
    assert "1,200 of 2,400 rows repeat an earlier row exactly" in text


def test_observations_that_never_change():
    data = recording()
    data["observations"][:] = data["next_observations"][:] = 1
    assert "no observation ever changes" in the_problem(data)
