"""Exogenous observations: how they are named, what is refused, what a check hints at."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from reverie.datasets import load
from reverie.datasets.check.report import problems, report
from reverie.datasets.dataset import Dataset
from reverie.envs.specs import Spec
from reverie.mistake import Mistake
from reverie.training import checkpoint

EPISODES, LENGTH = 40, 100


def log(**changes):
    """A tank with a set-point, two temperatures that are weather, and a valve; or with changes."""
    rng = np.random.default_rng(0)
    rows = EPISODES * LENGTH
    columns = {
        "episode": np.repeat(np.arange(EPISODES), LENGTH),
        "level [cm]": np.zeros(rows),
        "setpoint [cm]": np.repeat(rng.uniform(5, 20, rows // 50), 50),
        "T_in [C]": np.zeros(rows),
        "T_out [C]": np.zeros(rows),
        "valve": rng.uniform(0, 1, rows),
        "reward": rng.normal(size=rows),
    }
    level = 0.0
    for row in range(rows):
        if row % LENGTH == 0:
            level, phase = rng.normal(), rng.uniform(0, 6, 2)
        columns["level [cm]"][row] = level
        for name, start in zip(("T_in [C]", "T_out [C]"), phase, strict=True):
            columns[name][row] = np.sin(row / 15 + start)
        level = 0.9 * level + columns["valve"][row]
    return pandas.DataFrame({**columns, **changes})


def named(exogenous, frame=None, **columns):
    return load(
        log() if frame is None else frame,
        columns={"actions": "valve", "exogenous": exogenous, **columns},
    )


@pytest.mark.parametrize(
    ("said", "dims"),
    [
        (None, ()),
        ([], ()),
        ("setpoint", (1,)),
        (["setpoint [cm]"], (1,)),
        (["T_*"], (2, 3)),
        (["T_out", "setpoint"], (1, 3)),
        (["T_i?"], (2,)),
    ],
)
def test_columns_of_a_table_are_named_as_other_roles_are(said, dims):
    data = named(said)
    assert data.spec.exogenous == dims
    assert data.spec.exogenous_labels == tuple(data.spec.obs_names[dim] for dim in dims)
    assert data.origin.get("exogenous", "") == ", ".join(data.spec.exogenous_labels)
    # They are observations like the others.
    assert data.spec.obs_names == ("level [cm]", "setpoint [cm]", "T_in [C]", "T_out [C]")


@pytest.mark.parametrize(
    ("said", "columns", "message"),
    [
        ("setpiont", {}, r"no column 'setpiont', .*exogenous names; did you mean .*setpoint"),
        ("weather*", {}, r"no column 'weather\*', .*exogenous names; it has T_in"),
        ("valve", {}, r"no observation 'valve', which dataset\.columns\.exogenous names; "),
        (
            "setpoint",
            {"observations": ["level", "T_in"]},
            "no observation 'setpoint', which dataset.columns.exogenous names",
        ),
        (["setpoint", "setpoint [cm]"], {}, r"names setpoint \[cm\] twice; name it once"),
        (["T_in", "T_*"], {}, r"names T_in \[C\] twice"),
        (["level", "setpoint", "T_*"], {}, "names every observation, so no action moves anything"),
        ([2], {}, "must be a name, a list of names"),
        (True, {}, "must be a name, a list of names"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(said, columns, message):
    with pytest.raises(Mistake, match=message) as caught:
        named(said, **columns)
    assert "\n" not in str(caught.value)


def arrays(**changes):
    frame = log()
    obs = frame[["level [cm]", "setpoint [cm]", "T_in [C]"]].to_numpy(np.float32)
    ends = np.arange(len(frame)) % LENGTH == LENGTH - 1
    return {
        "observations": obs,
        "actions": frame[["valve"]].to_numpy(np.float32),
        "rewards": frame["reward"].to_numpy(),
        "terminals": np.zeros(len(frame)),
        "timeouts": ends,
        **changes,
    }


def test_arrays_and_files_name_them_by_index(tmp_path):
    path = tmp_path / "log.npz"
    np.savez(path, **arrays())
    for data in (load(arrays(), exogenous=[2, 1]), load("file", path=str(path), exogenous=[1, 2])):
        assert data.spec.exogenous == (1, 2)
    assert load(arrays(), exogenous="obs 1").spec.exogenous == (1,)
    for wrong, message in (
        ([3], "no observation '3', which dataset.exogenous names; they are obs 0"),
        ([-1], r"dataset.exogenous=\[-1\] must be"),
        ([1, 1], "names obs 1 twice"),
        ([0, 1, 2], "names every observation"),
        ([True], r"dataset.exogenous=\[True\] must be text, or a whole number"),
        ([[1]], r"dataset.exogenous=\[\[1\]\] must be"),
    ):
        with pytest.raises(Mistake, match=message):
            load(arrays(), exogenous=wrong)


def test_minari_data_name_them_by_index(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    import gymnasium

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng = np.random.default_rng(0)
    episodes = [
        minari.data_collector.EpisodeBuffer(
            id=None,
            observations=list(rng.normal(size=(31, 3)).astype(np.float32)),
            actions=list(rng.uniform(-1, 1, (30, 1)).astype(np.float32)),
            rewards=[0.0] * 30,
            terminations=[False] * 30,
            truncations=[False] * 29 + [True],
        )
        for _ in range(4)
    ]
    minari.create_dataset_from_buffers(
        "own/weather-v0",
        buffer=episodes,
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        action_space=gymnasium.spaces.Box(-1, 1, (1,), np.float32),
    )
    data = load("minari", id="own/weather-v0", env_id=None, exogenous=[2])
    assert data.spec.exogenous == (2,)
    with pytest.raises(Mistake, match="own/weather-v0 has no observation '7'"):
        load("minari", id="own/weather-v0", env_id=None, exogenous=[7])


def test_the_set_point_of_the_two_tanks_is_exogenous_by_default():
    data = load("builtin/two-tanks", episodes=3)
    assert data.spec.exogenous_labels == ("setpoint [cm]",)
    plain = load("builtin/two-tanks", episodes=3, exogenous=[])
    assert plain.spec.exogenous == () and plain.fingerprint != data.fingerprint
    assert load("builtin/two-tanks", episodes=3, exogenous="h2").fingerprint not in (
        data.fingerprint,
        plain.fingerprint,
    )
    with pytest.raises(Mistake, match=r"did you mean setpoint \[cm\]\?"):
        load("builtin/two-tanks", episodes=3, exogenous=["setpont"])


def test_the_choice_survives_subsets_and_checkpoints_and_older_ones_have_none():
    data = named(["setpoint"])
    part = load(
        log(),
        columns={"actions": "valve", "exogenous": "setpoint"},
        subset={"episodes": 3, "fraction": None, "seed": 0},
    )
    assert part.spec.exogenous == (1,)
    plain = checkpoint._plain_spec(data.spec)
    record = {"spec": plain, "reference": None, "identity": {"dataset": data.fingerprint}}
    assert checkpoint.facts_of(Path("checkpoint.pt"), record).spec == data.spec
    older = {key: value for key, value in plain.items() if key != "exogenous"}
    assert checkpoint.facts_of(Path("checkpoint.pt"), record | {"spec": older}).spec.exogenous == ()


# Hints ---------------------------------------------------------------------------------------


def hints(data: Dataset) -> list[str]:
    return [each for each in report(data).warnings if "exogenous" in each]


def test_set_points_and_weather_are_hinted_at_until_they_are_named():
    found = hints(named(None))
    assert len(found) == 2 and not any("level" in each for each in found)
    assert found[0].startswith("observations setpoint [cm] rest for long stretches")
    assert found[1].startswith("observations T_in [C], T_out [C] do not depend on the actions")
    assert not any("\n" in each for each in found)
    assert hints(named(["setpoint"])) == found[1:]
    assert hints(named(["setpoint", "T_*"])) == []
    assert not any("exogenous" in each for each in problems(named(None)))


def test_a_log_with_the_set_point_of_the_two_tanks_predicted_is_told_so():
    (hint,) = hints(load("builtin/two-tanks", exogenous=[]))
    assert hint.startswith("observations setpoint [cm] rest") and "h1" not in hint
    assert hints(load("builtin/two-tanks")) == []


@pytest.mark.parametrize(
    "name",
    [
        "builtin/pendulum-mixed",
        pytest.param("builtin/hopper-random", marks=pytest.mark.slow),
        pytest.param("builtin/cartpole-swingup", marks=pytest.mark.slow),
        "builtin/refrigerator",
        "builtin/edge-of-reach",
    ],
)
def test_states_that_actions_move_are_never_hinted_at(name):
    assert hints(load(name)) == []


def test_what_rests_because_the_action_does_is_no_set_point():
    frame = log()
    held = np.repeat(np.random.default_rng(1).uniform(0, 1, len(frame) // 50), 50)
    frame["valve"] = held
    frame["setpoint [cm]"] = np.append(held[:1], held[:-1])  # the position of the valve
    assert not any("rest" in each for each in hints(named(None, frame)))


def test_a_coarse_sensor_is_no_set_point():
    frame = log()
    slow = np.repeat(np.cumsum(np.random.default_rng(1).choice([-1, 1], len(frame) // 50)), 50)
    frame["setpoint [cm]"] = 0.5 * slow
    assert not any("rest" in each for each in hints(named(None, frame)))


def test_a_slow_state_that_only_a_mean_of_actions_moves_is_not_taken_for_weather():
    frame = log()
    noise = np.random.default_rng(1).normal(size=len(frame))
    total = frame["valve"].groupby(frame["episode"]).cumsum() - frame["valve"]
    frame["T_in [C]"] = 0.05 * total + 0.3 * noise
    assert not any("T_in" in each for each in hints(named(["setpoint"], frame)))


def test_few_rows_or_one_episode_give_no_hint_at_weather():
    frame = log()
    assert hints(named(["setpoint"], frame[:1500])) == []
    frame["episode"] = 0
    assert hints(named(["setpoint"], frame)) == []


def test_a_check_in_json_has_them(tmp_path):
    from reverie.datasets.check.report import as_json

    data = named(["setpoint"])
    assert json.loads(as_json(data, report(data)))["spec"]["exogenous"] == [1]


def test_a_spec_of_other_columns_is_another():
    spec = Spec(env_id=None, obs_dim=2, action_dim=1, action_low=(-1.0,), action_high=(1.0,))
    assert replace(spec, exogenous=(1,)).exogenous_labels == ("obs 1",)
